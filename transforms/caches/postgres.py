"""Vectors in a table of their own beside the truth, for all workers and later runs.

The table is unlogged: no write-ahead log, empty after a crash of the server, and nobody misses it. Deletions and
notes of use pass over rows that another worker holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import psycopg

from transforms.caches.base import CacheScope, Dtype, Vector, decode, encode
from transforms.postgres import Session, Store

STATEMENT_TIMEOUT_S = 10
"""Beyond it, computing the vectors again is cheaper than waiting for them."""

TOUCH_AFTER = timedelta(days=1)
"""`last_used_at` is only so exact, or each hit would be a write."""

PRUNE_SHARE = 64
"""Old entries are looked for when a 64th of the limit has been written."""

DELETE_ROWS = 5_000
"""Most rows of one statement."""

MAX_DELETES = 20
"""Most such statements of a kind at a time: more than is written in between, so that the table does get smaller."""

_GET = """
SELECT key, vector FROM embedding_cache
WHERE space_id = %s AND client = %s AND key = ANY(%b::bytea[]) AND expires_at > %s
"""

_TOUCH = """
UPDATE embedding_cache AS c SET last_used_at = %(now)s FROM (
    SELECT space_id, client, key FROM embedding_cache
    WHERE space_id = %(space_id)s AND client = %(client)s AND key = ANY(%(keys)b::bytea[])
        AND last_used_at < %(before)s
    FOR UPDATE SKIP LOCKED
) AS used WHERE (c.space_id, c.client, c.key) = (used.space_id, used.client, used.key)
"""

_PUT = """
INSERT INTO embedding_cache (space_id, client, key, vector, last_used_at, expires_at)
SELECT %s, %s, key, vector, %s, %s FROM unnest(%b::bytea[], %b::bytea[]) AS given (key, vector) ORDER BY key
ON CONFLICT (space_id, client, key) DO UPDATE SET
    vector = EXCLUDED.vector, last_used_at = EXCLUDED.last_used_at, expires_at = EXCLUDED.expires_at
"""

_DELETE_EXPIRED = """
DELETE FROM embedding_cache WHERE (space_id, client, key) IN (
    SELECT space_id, client, key FROM embedding_cache WHERE expires_at <= %s
    ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
) RETURNING size_bytes
"""

_DELETE_LEAST_USED = """
DELETE FROM embedding_cache WHERE (space_id, client, key) IN (
    SELECT space_id, client, key FROM embedding_cache ORDER BY last_used_at LIMIT %s FOR UPDATE SKIP LOCKED
) RETURNING size_bytes
"""


class PostgresCache:
    """Implements `base.VectorCache` on a connection of its own; one thread at a time.

    Args:
        max_bytes: of rows with their index entries, kept to within what workers write at a time.
        ttl: how long a vector is kept after it was put.
        clock: gives the time, UTC; the server's is not asked.
    """

    def __init__(
        self, store: Store, max_bytes: int, ttl: timedelta, dtype: Dtype, clock: Callable[[], datetime]
    ) -> None:
        quick = replace(store, statement_timeout_s=min(store.statement_timeout_s, STATEMENT_TIMEOUT_S))
        self._session = Session(quick, attempts=1)
        self._max_bytes = max_bytes
        self._ttl = ttl
        self._dtype = dtype
        self._clock = clock
        self._unpruned_bytes = max_bytes  # so that the first write looks for old entries

    def get_many(self, scope: CacheScope, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        entries = self._session.run(lambda connection: self._get(connection, scope, keys))
        return decode(scope, entries, self._dtype)

    def _get(
        self, connection: psycopg.Connection, scope: CacheScope, keys: Sequence[bytes]
    ) -> dict[bytes, bytes]:
        now = self._clock()
        rows = connection.execute(_GET, [scope.space_id, scope.client, list(keys), now], binary=True)
        found = {bytes(key): bytes(vector) for key, vector in rows}
        if found:
            touched = {
                "now": now,
                "before": now - TOUCH_AFTER,
                "space_id": scope.space_id,
                "client": scope.client,
                "keys": list(found),
            }
            connection.execute(_TOUCH, touched)
        return found

    def put_many(self, scope: CacheScope, vectors: Mapping[bytes, Vector]) -> None:
        entries = encode(scope, vectors, self._dtype)
        if entries:
            self._session.run(lambda connection: self._put(connection, scope, entries))

    def _put(self, connection: psycopg.Connection, scope: CacheScope, entries: Mapping[bytes, bytes]) -> None:
        now = self._clock()
        row = [scope.space_id, scope.client, now, now + self._ttl, list(entries), list(entries.values())]
        connection.execute(_PUT, row)
        self._unpruned_bytes += sum(map(len, entries.values()))
        if self._unpruned_bytes >= self._max_bytes / PRUNE_SHARE:
            prune(connection, now, self._max_bytes)
            self._unpruned_bytes = 0

    def close(self) -> None:
        self._session.close()


def prune(connection: psycopg.Connection, now: datetime, max_bytes: int) -> int:
    """Delete what has expired, then the least recently used down to `max_bytes`, in bounded statements.

    Returns:
        Rows deleted.
    """
    deleted = 0
    for _ in range(MAX_DELETES):
        expired = connection.execute(_DELETE_EXPIRED, [now, DELETE_ROWS]).rowcount
        deleted += expired
        if expired < DELETE_ROWS:
            break
    rows, size = connection.execute(
        "SELECT count(*), coalesce(sum(size_bytes), 0)::bigint FROM embedding_cache"
    ).fetchone() or (0, 0)
    for _ in range(MAX_DELETES):
        if size <= max_bytes:
            break
        too_many = -(-(size - max_bytes) * rows // size)
        sizes = connection.execute(_DELETE_LEAST_USED, [min(DELETE_ROWS, too_many)]).fetchall()
        if not sizes:  # all of them are another worker's just now
            break
        deleted += len(sizes)
        rows -= len(sizes)
        size -= sum(size_bytes for (size_bytes,) in sizes)
    return deleted

"""Deliveries of webhooks between the receiver that took them and the watcher that looks at what they name.

A delivery is `pending` until it was processed (`done`) or has failed too often (`failed`). Kept for a while, both
answer for the same delivery coming again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg.types.json import Jsonb

from schemas.documents import Kind, Reference

CHANNEL = "headrace_deliveries"
"""Notified when deliveries were stored; the payload is `{"client": ..., "source": ...}`."""

MAX_ATTEMPTS = 12
FIRST_DELAY_S = 5
LONGEST_DELAY_S = 3600


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery as it comes in, for one source.

    Args:
        provider_id: the same when the provider delivers again.
        references: documents to look at again; none asks for a poll of the source.
    """

    client: str
    source: str
    provider_id: str
    event: str
    references: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A pending delivery.

    Args:
        attempts: made so far, each of which failed.
    """

    delivery_id: int
    event: str
    references: tuple[Reference, ...]
    attempts: int
    received_at: datetime

    @property
    def asks_for_poll(self) -> bool:
        return not self.references


@dataclass(frozen=True, slots=True)
class QueueState:
    """How many deliveries are pending, and since when the oldest waits."""

    pending: int
    oldest_at: datetime | None


# One statement is one transaction, written to disk before it returns, whatever the server's default; those who
# listen are told when it is committed. A delivery that failed for good has another chance when it comes again.
_STORE = """
WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true)),
stored AS (
    INSERT INTO webhook_deliveries AS known (client, source, provider_id, event, named)
    SELECT new.* FROM durable, unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::jsonb[]) AS new
    ON CONFLICT (client, source, provider_id) DO UPDATE SET
        status = 'pending', attempts = 0, due_at = clock_timestamp(), ended_at = NULL, failure = NULL
    WHERE known.status = 'failed'
    RETURNING client, source
)
SELECT pg_notify(%s, json_build_object('client', client, 'source', source)::text) FROM stored
"""


def store(connection: psycopg.Connection, deliveries: Sequence[NewDelivery]) -> int:
    """Keep deliveries; they are on disk when this returns.

    Args:
        connection: in autocommit mode.
    Returns:
        How many are new; the others were known.
    """
    return connection.execute(
        _STORE,
        [
            [delivery.client for delivery in deliveries],
            [delivery.source for delivery in deliveries],
            [delivery.provider_id for delivery in deliveries],
            [delivery.event for delivery in deliveries],
            [
                Jsonb([(one.kind, one.native_id, one.key) for one in delivery.references])
                for delivery in deliveries
            ],
            CHANNEL,
        ],
    ).rowcount


def pending(connection: psycopg.Connection, client: str, source: str, limit: int) -> list[Delivery]:
    """A source's deliveries that are due, oldest first."""
    rows = connection.execute(
        "SELECT delivery_id, event, named, attempts, received_at FROM webhook_deliveries"
        " WHERE client = %s AND source = %s AND status = 'pending' AND due_at <= clock_timestamp()"
        " ORDER BY delivery_id LIMIT %s",
        [client, source, limit],
    )
    return [
        Delivery(
            delivery_id,
            event,
            tuple(Reference(Kind(kind), native_id, key) for kind, native_id, key in named),
            attempts,
            received_at,
        )
        for delivery_id, event, named, attempts, received_at in rows
    ]


def mark_done(connection: psycopg.Connection, ids: Sequence[int]) -> None:
    """What these named is stored."""
    connection.execute(
        "UPDATE webhook_deliveries SET status = 'done', ended_at = clock_timestamp(), failure = NULL"
        " WHERE delivery_id = ANY(%s) AND status = 'pending'",
        [list(ids)],
    )


def mark_failed(connection: psycopg.Connection, ids: Sequence[int], reason: str) -> None:
    """These could not be processed: they wait twice as long as before, and end as `failed` after `MAX_ATTEMPTS`.

    Args:
        reason: one line for a person; no record text.
    """
    connection.execute(
        "UPDATE webhook_deliveries SET attempts = attempts + 1, failure = %s,"
        " due_at = clock_timestamp() + least(%s * power(2, attempts), %s) * interval '1 second',"
        " status = CASE WHEN attempts + 1 < %s THEN 'pending' ELSE 'failed' END,"
        " ended_at = CASE WHEN attempts + 1 < %s THEN NULL ELSE clock_timestamp() END"
        " WHERE delivery_id = ANY(%s) AND status = 'pending'",
        [
            reason.replace("\0", "")[:500],
            FIRST_DELAY_S,
            LONGEST_DELAY_S,
            MAX_ATTEMPTS,
            MAX_ATTEMPTS,
            list(ids),
        ],
    )


def queue_state(connection: psycopg.Connection) -> QueueState:
    """The whole queue, of all clients."""
    row = connection.execute(
        "SELECT count(*), min(received_at) FROM webhook_deliveries WHERE status = 'pending'"
    ).fetchone()
    return QueueState(*row) if row else QueueState(0, None)


def prune(connection: psycopg.Connection, ended_before: timedelta, received_before: timedelta) -> int:
    """Forget deliveries that ended so long ago, and all that came so long ago: sweeps have overtaken them.

    Returns:
        How many are gone.
    """
    return connection.execute(
        "DELETE FROM webhook_deliveries WHERE ended_at < clock_timestamp() - %s"
        " OR received_at < clock_timestamp() - %s",
        [ended_before, received_before],
    ).rowcount


def said_about(
    connection: psycopg.Connection, client: str, source: str, keys: Sequence[str]
) -> list[Reference]:
    """Stored comments and reviews of these issues and pull requests: they go with them, unannounced."""
    rows = connection.execute(
        "SELECT DISTINCT d.kind, d.native_id, d.key FROM document_links AS link"
        " JOIN documents AS d ON d.document_id = link.document_id"
        " WHERE link.relation = 'parent' AND link.target_kind = 'github' AND link.target_key = ANY(%s)"
        " AND d.client = %s AND d.source = %s AND d.deleted_at IS NULL ORDER BY 1, 2",
        [list(keys), client, source],
    )
    return [Reference(Kind(kind), native_id, key) for kind, native_id, key in rows]

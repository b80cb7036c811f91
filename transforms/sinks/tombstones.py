"""Deletions: a tombstone is a version of its document, the one without content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID

import psycopg
from psycopg import sql

from schemas.documents import Tombstone, Version
from schemas.outcomes import Outcome
from transforms.dead_letters import forget_payloads, resolve_dead_letters
from transforms.notify import Change, announce
from transforms.spaces import chunk_table
from transforms.storable import storable_text


def apply_tombstones(
    connection: psycopg.Connection, tombstones: Sequence[Tombstone], run_id: UUID | None = None
) -> Counter[Outcome]:
    """Remove documents from every space in one transaction, and announce it; left is that, when and why they went.

    A document whose version is newer than its tombstone stays, and may come back after it.

    Args:
        run_id: of the run that this is part of.
    Returns:
        How each tombstone ended: DELETED, STALE, or UNCHANGED (deleted before, or never seen: it is remembered,
        so that an older version arriving late stays out).
    """
    newest: dict[UUID, Tombstone] = {}
    for tombstone in tombstones:
        known = newest.setdefault(tombstone.document_id, tombstone)
        if (tombstone.updated_at, tombstone.reason) > (known.updated_at, known.reason):
            newest[tombstone.document_id] = tombstone
    counts = Counter({Outcome.UNCHANGED: len(tombstones) - len(newest)})
    if not newest:
        return Counter()
    with connection.transaction():
        accepted = _upsert_tombstones(connection, newest)
        removed = {
            document_id
            for (document_id,) in connection.execute(
                "DELETE FROM indexed_documents WHERE document_id = ANY(%s)"
                " AND space_id = ANY(SELECT space_id FROM embedding_spaces) RETURNING document_id",
                [accepted],
            )
        }
        for (space_id,) in connection.execute("SELECT space_id FROM embedding_spaces").fetchall():
            connection.execute(
                sql.SQL("DELETE FROM {} WHERE document_id = ANY(%s)").format(chunk_table(space_id)),
                [accepted],
            )
        connection.execute("DELETE FROM document_links WHERE document_id = ANY(%s)", [accepted])
        versions = [(key, Version(newest[key].updated_at, newest[key].updated_at, b"")) for key in accepted]
        resolve_dead_letters(connection, versions)
        forget_payloads(connection, accepted)
        live = connection.execute(
            "SELECT count(*) FROM documents WHERE document_id = ANY(%s) AND deleted_at IS NULL",
            [list(newest)],
        ).fetchone()
        changes = [
            Change(newest[key].client, newest[key].source, key, Outcome.DELETED) for key in sorted(removed)
        ]
        announce(connection, changes, None, run_id)
    counts[Outcome.DELETED] += len(removed)
    counts[Outcome.STALE] += live[0] if live else 0
    counts[Outcome.UNCHANGED] += len(tombstones) - counts.total()
    return +counts


_UPSERT_TOMBSTONES = """
INSERT INTO documents AS stored (
    document_id, client, source, kind, native_id, updated_at, observed_at, payload_digest, deleted_at, delete_reason
)
SELECT document_id, client, source, kind, native_id, gone_at, gone_at, ''::bytea, gone_at, reason
FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::text[])
    AS gone (document_id, client, source, kind, native_id, gone_at, reason)
ORDER BY document_id
ON CONFLICT (document_id) DO UPDATE SET
    updated_at = EXCLUDED.updated_at, observed_at = EXCLUDED.observed_at, payload_digest = EXCLUDED.payload_digest,
    project = '', key = '', title = '', url = '', author = '', created_at = NULL, attributes = '{}',
    comments_total = 0, comments_kept = 0, comments_dropped = '{}', redactions = '{}',
    deleted_at = EXCLUDED.deleted_at, delete_reason = EXCLUDED.delete_reason, stored_at = now()
WHERE CASE WHEN stored.deleted_at IS NULL
    THEN EXCLUDED.deleted_at >= greatest(stored.updated_at, stored.observed_at)
    ELSE (EXCLUDED.deleted_at, EXCLUDED.delete_reason) > (stored.deleted_at, stored.delete_reason)
END
RETURNING document_id
"""


def _upsert_tombstones(connection: psycopg.Connection, tombstones: Mapping[UUID, Tombstone]) -> list[UUID]:
    rows = [
        (
            key,
            *map(storable_text, (t.client, t.source, t.kind, t.native_id)),
            t.updated_at,
            storable_text(t.reason),
        )
        for key, t in tombstones.items()
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    return [document_id for (document_id,) in connection.execute(_UPSERT_TOMBSTONES, columns)]

"""Records that could not be processed: kept whole, listed, and read back to be tried again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from schemas.documents import DeadLetter, Format, Kind, SourceRecord, Version
from schemas.errors import UnknownName
from schemas.ids import digest
from transforms.storable import storable_text

MAX_LETTERS = 200
MAX_LETTER_BYTES = 16 * 2**20
"""Letters gathered for one transaction, by number and by size of their payloads."""
READ_AT_ONCE = 50
"""Payloads in memory while letters are read back."""


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter as a person sees it.

    Args:
        resolved_at: when its document was stored at this or a newer version, or deleted; None while it is open.
        payload_bytes: size of the record.
    """

    dead_letter_id: UUID
    client: str
    source: str
    document_id: UUID
    kind: str
    native_id: str
    updated_at: datetime
    locator: str
    stage: str
    error_type: str
    reason: str
    retriable: bool
    attempts: int
    first_seen_at: datetime
    last_seen_at: datetime
    resolved_at: datetime | None
    payload_bytes: int


def dead_letter_id(letter: DeadLetter) -> UUID:
    """One for each document and stage: failing again counts up its attempts."""
    return UUID(bytes=digest(letter.record.document_id.bytes, letter.stage.encode()))


_UPSERT = """
INSERT INTO dead_letters AS stored (
    dead_letter_id, client, source, document_id, format, kind, native_id, updated_at, observed_at, locator, stage,
    error_type, reason, retriable, payload
)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (dead_letter_id) DO UPDATE SET
    updated_at = EXCLUDED.updated_at, observed_at = EXCLUDED.observed_at, locator = EXCLUDED.locator,
    format = EXCLUDED.format, payload = EXCLUDED.payload, error_type = EXCLUDED.error_type,
    reason = EXCLUDED.reason, retriable = EXCLUDED.retriable, attempts = stored.attempts + 1,
    last_seen_at = now(), resolved_at = NULL
WHERE (EXCLUDED.updated_at, EXCLUDED.observed_at) >= (stored.updated_at, stored.observed_at)
"""


def write_dead_letters(connection: psycopg.Connection, letters: Sequence[DeadLetter]) -> None:
    """Keep letters, in one transaction; one seen before counts an attempt more and is open again.

    What is stored of an earlier, good version of the document is left as it is.
    """
    newest: dict[UUID, DeadLetter] = {}
    for letter in letters:
        known = newest.setdefault(dead_letter_id(letter), letter)
        if letter.record.version.as_tuple() > known.record.version.as_tuple():
            newest[dead_letter_id(letter)] = letter
    rows = [_row(key, letter) for key, letter in sorted(newest.items())]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(_UPSERT, rows)


def _row(key: UUID, letter: DeadLetter) -> tuple[object, ...]:
    record = letter.record
    return (
        key,
        storable_text(record.client),
        storable_text(record.source),
        record.document_id,
        record.format,
        record.kind,
        storable_text(record.native_id),
        record.updated_at,
        record.observed_at,
        storable_text(record.locator),
        storable_text(letter.stage),
        storable_text(letter.error_type),
        storable_text(letter.reason),
        letter.retriable,
        record.payload,
    )


def resolve_dead_letters(connection: psycopg.Connection, stored: Sequence[tuple[UUID, Version]]) -> None:
    """Close the letters of documents that are stored now at the failed version or a newer one."""
    connection.execute(
        "UPDATE dead_letters AS d SET resolved_at = now()"
        " FROM unnest(%s::uuid[], %s::timestamptz[], %s::timestamptz[])"
        " AS stored (document_id, updated_at, observed_at)"
        " WHERE d.document_id = stored.document_id AND d.resolved_at IS NULL"
        " AND (d.updated_at, d.observed_at) <= (stored.updated_at, stored.observed_at)",
        [
            [document_id for document_id, _ in stored],
            [version.updated_at for _, version in stored],
            [version.observed_at for _, version in stored],
        ],
    )


def forget_payloads(connection: psycopg.Connection, deleted: Sequence[UUID]) -> None:
    """Empty the closed letters of deleted documents: their text must not live on here."""
    connection.execute(
        "UPDATE dead_letters SET payload = ''::bytea WHERE document_id = ANY(%s) AND resolved_at IS NOT NULL",
        [list(deleted)],
    )


def resolve_superseded(connection: psycopg.Connection, client: str) -> None:
    """Close letters of a client whose document is stored at, or was deleted after, a newer version."""
    connection.execute(
        "UPDATE dead_letters AS d SET resolved_at = now() FROM documents AS stored"
        " WHERE d.client = %s AND d.resolved_at IS NULL AND stored.document_id = d.document_id"
        " AND (stored.updated_at, stored.observed_at) > (d.updated_at, d.observed_at)",
        [client],
    )


def count_open(connection: psycopg.Connection, client: str) -> int:
    """How many letters of a client wait to be retried."""
    row = connection.execute(
        "SELECT count(*) FROM dead_letters WHERE client = %s AND resolved_at IS NULL", [client]
    ).fetchone()
    return int(row[0]) if row else 0


MAX_PARKED_REASONS = 5


def parked_letters(connection: psycopg.Connection, client: str, source: str) -> dict[UUID, int]:
    """Open letters of a source's documents that no endpoint could embed -> attempts; longest waiting first."""
    rows = connection.execute(
        "SELECT dead_letter_id, attempts FROM dead_letters WHERE client = %s AND source = %s"
        " AND error_type = 'Parked' AND resolved_at IS NULL ORDER BY last_seen_at",
        [client, source],
    )
    return dict(rows.fetchall())


def parked_again(connection: psycopg.Connection, before: Mapping[UUID, int]) -> bool:
    """Whether any of these letters has met the same end once more.

    Args:
        before: letter -> its attempts then.
    """
    found = connection.execute(
        "SELECT EXISTS (SELECT FROM dead_letters JOIN unnest(%s::uuid[], %s::int[]) AS known (id, attempts)"
        " ON id = dead_letter_id WHERE dead_letters.attempts > known.attempts AND error_type = 'Parked'"
        " AND resolved_at IS NULL)",
        [list(before), list(before.values())],
    ).fetchone()
    return found == (True,)


def count_parked(connection: psycopg.Connection, client: str) -> dict[str, int]:
    """Why documents of a client are parked -> how many, most first; rare reasons are counted together."""
    counts: dict[str, int] = dict(
        connection.execute(
            "SELECT reason, count(*) FROM dead_letters WHERE client = %s AND error_type = 'Parked'"
            " AND resolved_at IS NULL GROUP BY reason ORDER BY count(*) DESC, reason",
            [client],
        ).fetchall()
    )
    named = dict(list(counts.items())[:MAX_PARKED_REASONS])
    others = sum(counts.values()) - sum(named.values())
    return {**named, "other reasons": others} if others else named


def list_dead_letters(
    connection: psycopg.Connection, client: str, *, resolved: bool = False, limit: int = 100
) -> list[StoredLetter]:
    """A client's letters, last seen first.

    Args:
        resolved: list closed ones too.
    """
    with connection.cursor(row_factory=class_row(StoredLetter)) as cursor:
        return cursor.execute(
            "SELECT dead_letter_id, client, source, document_id, kind, native_id, updated_at, locator, stage,"
            " error_type, reason, retriable, attempts, first_seen_at, last_seen_at, resolved_at,"
            " length(payload) AS payload_bytes FROM dead_letters"
            " WHERE client = %s AND (%s OR resolved_at IS NULL)"
            " ORDER BY last_seen_at DESC, dead_letter_id LIMIT %s",
            [client, resolved, limit],
        ).fetchall()


def load_for_retry(
    connection: psycopg.Connection, client: str, ids: Sequence[UUID] | None = None
) -> Iterator[SourceRecord]:
    """Records of a client's open letters, once each, at the newest version that failed.

    Args:
        ids: only these letters, open or not; None for all that are open.
    Raises:
        UnknownName: the client has no letter of some id.
    """
    keys = _letters_to_retry(connection, client, ids)
    for start in range(0, len(keys), READ_AT_ONCE):
        rows = connection.execute(
            "SELECT client, source, format, kind, native_id, payload, updated_at, observed_at, locator"
            " FROM dead_letters WHERE dead_letter_id = ANY(%s) ORDER BY document_id",
            [keys[start : start + READ_AT_ONCE]],
        ).fetchall()
        for client_, source, format_, kind, native_id, payload, updated_at, observed_at, locator in rows:
            yield SourceRecord(
                client_,
                source,
                Format(format_),
                Kind(kind),
                native_id,
                bytes(payload),
                updated_at,
                observed_at,
                locator,
            )


def _letters_to_retry(connection: psycopg.Connection, client: str, ids: Sequence[UUID] | None) -> list[UUID]:
    if ids is not None:
        known = {
            key
            for (key,) in connection.execute(
                "SELECT dead_letter_id FROM dead_letters WHERE client = %s AND dead_letter_id = ANY(%s)",
                [client, list(ids)],
            )
        }
        unknown = [str(key) for key in ids if key not in known]
        if unknown:
            raise UnknownName(
                f"client {client!r} has no dead letter {unknown[0]}: see `headrace dead-letters list`"
            )
    rows = connection.execute(
        "SELECT DISTINCT ON (document_id) dead_letter_id FROM dead_letters"
        " WHERE client = %s AND CASE WHEN %s::uuid[] IS NULL THEN resolved_at IS NULL"
        " ELSE dead_letter_id = ANY(%s::uuid[]) END"
        " ORDER BY document_id, updated_at DESC, observed_at DESC",
        [client, ids and list(ids), ids and list(ids)],
    )
    return [key for (key,) in rows]

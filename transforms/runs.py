"""Runs and their places: who is running, what each run counted, where each source goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from schemas.errors import SetupError
from schemas.ids import digest

LOCK_WAIT = "3s"
"""A look at who is running holds a client's lock for a moment."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as stored.

    Args:
        status: `running`, `done`, `failed` or `interrupted`.
        error: one line, of a failed run.
    """

    run_id: UUID
    client: str
    space_id: str
    status: str
    started_at: datetime
    ended_at: datetime | None
    error: str | None


@contextmanager
def started(
    connection: psycopg.Connection, client: str, space_id: str, goes_on: UUID | None = None
) -> Iterator[UUID]:
    """A run, for the length of the block; only one of a client at a time.

    Args:
        connection: stays open for the length of the block and holds the client's lock.
        goes_on: a run whose connection was lost; None begins one.
    Yields:
        The run's id. The run ends as `done`, as `interrupted` by Ctrl-C, or as `failed` by any other exception,
        unless the block has noted another end.
    Raises:
        SetupError: another run of this client is going on.
    """
    with only_writer(connection, client):
        run_id = goes_on or uuid4()
        if goes_on is None:
            start_run(connection, run_id, client, space_id)
        else:
            _go_on(connection, run_id)
        try:
            yield run_id
        except BaseException as error:
            finish_quietly(connection, run_id, error)
            raise
        finish_run(connection, run_id, "done")


@contextmanager
def only_writer(connection: psycopg.Connection, client: str) -> Iterator[None]:
    """Hold the client's lock; its runs whose process died become `interrupted` at the beginning.

    Raises:
        SetupError: another process holds it.
    """
    _take_lock(connection, client)
    with connection.transaction():
        _interrupt(connection, client)
    try:
        yield
    finally:
        with suppress(psycopg.OperationalError):  # a lost connection has lost the lock, too
            connection.execute("SELECT pg_advisory_unlock(%s)", [_lock_key(client)])


def _take_lock(connection: psycopg.Connection, client: str) -> None:
    try:
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_WAIT])
            connection.execute("SELECT pg_advisory_lock(%s)", [_lock_key(client)])
    except psycopg.errors.LockNotAvailable:
        other = last_run(connection, client)
        since = (
            f", since {other.started_at:%Y-%m-%d %H:%M} UTC" if other and other.status == "running" else ""
        )
        raise SetupError(
            f"another run of client {client!r}, or `headrace watch` for it, is going on{since}: wait for its end,"
            " or stop it"
        ) from None


def start_run(connection: psycopg.Connection, run_id: UUID, client: str, space_id: str) -> None:
    """Note a run; the caller holds the client's lock until it ends."""
    connection.execute(
        "INSERT INTO runs (run_id, client, space_id, status, started_at)"
        " VALUES (%s, %s, %s, 'running', clock_timestamp())",
        [run_id, client, space_id],
    )


def _go_on(connection: psycopg.Connection, run_id: UUID) -> None:
    """It was noted as interrupted when the lock was taken again."""
    connection.execute(
        "UPDATE runs SET status = 'running', error = NULL, ended_at = NULL WHERE run_id = %s", [run_id]
    )


def finish_run(connection: psycopg.Connection, run_id: UUID, status: str, error: str | None = None) -> None:
    """Note how the run ended; what was noted first stands."""
    connection.execute(
        "UPDATE runs SET status = %s, error = %s, ended_at = clock_timestamp()"
        " WHERE run_id = %s AND status = 'running'",
        [status, error and error.replace("\0", "")[:2000], run_id],
    )


def finish_quietly(connection: psycopg.Connection, run_id: UUID, error: BaseException) -> None:
    """Note what ended the run. A lost connection must not hide it: the next run notes the end then."""
    stopped = isinstance(error, KeyboardInterrupt | GeneratorExit)
    try:
        finish_run(
            connection,
            run_id,
            "interrupted" if stopped else "failed",
            None if stopped else f"{type(error).__name__}: {error}",
        )
    except psycopg.Error:
        return


def mark_interrupted(connection: psycopg.Connection) -> int:
    """Mark runs whose process is gone; returns how many."""
    clients = connection.execute("SELECT DISTINCT client FROM runs WHERE status = 'running'").fetchall()
    marked = 0
    for (client,) in clients:
        with connection.transaction():
            row = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [_lock_key(client)]).fetchone()
            if row == (True,):
                marked += _interrupt(connection, client)
    return marked


def _interrupt(connection: psycopg.Connection, client: str) -> int:
    """The caller holds the client's lock, so nobody runs."""
    return connection.execute(
        "UPDATE runs SET status = 'interrupted', ended_at = clock_timestamp()"
        " WHERE client = %s AND status = 'running'",
        [client],
    ).rowcount


def _lock_key(client: str) -> int:
    return int.from_bytes(digest(b"run", client.encode())[:8], "big", signed=True)


def commit_slice(
    connection: psycopg.Connection,
    run_id: UUID,
    client: str,
    source: str,
    space_id: str,
    processing: bytes,
    cursor: Mapping[str, Any] | None,
    counts: Mapping[str, int],
) -> None:
    """Note, in one transaction, that everything before `cursor` is stored, and how it ended.

    Args:
        cursor: None where the source is at its end and the next run begins anew.
        counts: outcome -> records of the slice, added to those of the run.
    """
    with connection.transaction():
        keep_cursor(connection, client, source, space_id, processing, cursor)
        add_counts(connection, run_id, source, counts)


def keep_cursor(
    connection: psycopg.Connection,
    client: str,
    source: str,
    space_id: str,
    processing: bytes,
    cursor: Mapping[str, Any] | None,
) -> None:
    """Note that everything before `cursor` is stored."""
    connection.execute(
        "INSERT INTO source_cursors (client, source, space_id, processing, cursor, updated_at)"
        " VALUES (%s, %s, %s, %s, %s, now()) ON CONFLICT (client, source, space_id) DO UPDATE SET"
        " processing = EXCLUDED.processing, cursor = EXCLUDED.cursor, updated_at = now()",
        [client, source, space_id, processing, None if cursor is None else Jsonb(dict(cursor))],
    )


def add_counts(connection: psycopg.Connection, run_id: UUID, source: str, counts: Mapping[str, int]) -> None:
    """Add outcome -> records to those of the run, in one transaction."""
    with connection.transaction():
        for outcome, records in sorted(counts.items()):
            connection.execute(
                "INSERT INTO run_counts AS stored (run_id, source, outcome, records) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (run_id, source, outcome) DO UPDATE SET records = stored.records + EXCLUDED.records",
                [run_id, source, outcome, records],
            )


def load_cursor(
    connection: psycopg.Connection, client: str, source: str, space_id: str, processing: bytes
) -> Mapping[str, Any] | None:
    """Where the source goes on; None from its beginning, as after a change of what is done to records."""
    row = connection.execute(
        "SELECT cursor FROM source_cursors"
        " WHERE client = %s AND source = %s AND space_id = %s AND processing = %s",
        [client, source, space_id, processing],
    ).fetchone()
    return row[0] if row else None


def last_run(connection: psycopg.Connection, client: str) -> RunRecord | None:
    """The client's run that began last."""
    with connection.cursor(row_factory=class_row(RunRecord)) as cursor:
        return cursor.execute(
            "SELECT run_id, client, space_id, status, started_at, ended_at, error FROM runs"
            " WHERE client = %s ORDER BY started_at DESC LIMIT 1",
            [client],
        ).fetchone()


def counts_of_run(connection: psycopg.Connection, run_id: UUID) -> dict[str, Counter[str]]:
    """Source -> outcome -> records, of the slices committed so far."""
    counts: dict[str, Counter[str]] = {}
    for source, outcome, records in connection.execute(
        "SELECT source, outcome, records FROM run_counts WHERE run_id = %s ORDER BY source, outcome", [run_id]
    ):
        counts.setdefault(source, Counter())[outcome] = records
    return counts


@dataclass(frozen=True, slots=True)
class SourceTotals:
    """What is stored of one source.

    Args:
        chunks: in the space that was asked for, as is `tokens_truncated`.
        newest_change: newest source time among its documents.
    """

    source: str
    kind: str
    documents: int
    chunks: int
    tokens_truncated: int
    deleted: int
    newest_change: datetime | None


def totals(connection: psycopg.Connection, client: str, space_id: str) -> list[SourceTotals]:
    """What is stored for a client, by source and kind."""
    with connection.cursor(row_factory=class_row(SourceTotals)) as cursor:
        return cursor.execute(
            "SELECT d.source, d.kind, count(*) FILTER (WHERE d.deleted_at IS NULL) AS documents,"
            " coalesce(sum(i.chunks), 0)::bigint AS chunks,"
            " coalesce(sum(i.tokens_truncated), 0)::bigint AS tokens_truncated, count(d.deleted_at) AS deleted,"
            " max(d.updated_at) FILTER (WHERE d.deleted_at IS NULL) AS newest_change FROM documents AS d"
            " LEFT JOIN indexed_documents AS i ON i.document_id = d.document_id AND i.space_id = %s"
            " WHERE d.client = %s GROUP BY d.source, d.kind ORDER BY d.source, d.kind",
            [space_id, client],
        ).fetchall()


def next_row_id(connection: psycopg.Connection) -> int:
    """The row id that the next new chunk gets, or a lower one: chunks of a run are those from its first on."""
    row = connection.execute("SELECT last_value + is_called::int FROM chunk_row_ids").fetchone()
    return int(row[0]) if row else 1

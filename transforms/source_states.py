"""How it stands with each source: kept in Postgres, so that it can be asked for while `headrace watch` runs."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import psycopg
from psycopg.rows import class_row

from schemas.errors import PipelineError

STUCK_AFTER_S = 900.0
"""A source that is being looked at, and neither gives anything nor says that it waits, is stuck after so long."""
OVERDUE_AFTER_S = 60.0
"""A look that was planned so long ago, and did not begin, says that nobody watches any more."""

Work = Literal["poll", "deliveries", "reconcile"]
Condition = Literal["ok", "reading", "waiting", "failing", "stuck", "overdue"]


@dataclass(frozen=True, slots=True)
class SourceState:
    """What is known of a source; None where it has not happened yet.

    Args:
        last_polled_at: when the last look began, whatever came of it.
        busy_since: when the look that is going on began.
        last_heard_at: when that look last gave anything.
        last_success_at: as of when everything the source had is stored: the beginning of the last good poll.
        last_change_at: when something of it was last stored or deleted.
        last_error: one line, of a poll; None once one succeeded. `reconcile_error` likewise.
        waiting_until: end of the wait that the source itself asked for, with `waiting_for`, why.
    """

    source: str
    last_polled_at: datetime | None = None
    busy_since: datetime | None = None
    busy_with: Work | None = None
    last_heard_at: datetime | None = None
    next_poll_at: datetime | None = None
    last_success_at: datetime | None = None
    last_change_at: datetime | None = None
    last_reconciled_at: datetime | None = None
    consecutive_failures: int = 0
    last_error: str | None = None
    reconcile_error: str | None = None
    waiting_until: datetime | None = None
    waiting_for: str | None = None

    def lag_s(self, now: datetime) -> float | None:
        """How old the index may be for this source, seconds."""
        return None if self.last_success_at is None else (now - self.last_success_at).total_seconds()

    def condition(self, now: datetime) -> Condition:
        """In one word."""
        waits = self.waiting_until is not None and self.waiting_until > now
        if self.busy_since is not None:
            heard = max(
                at for at in (self.busy_since, self.last_heard_at, self.waiting_until) if at is not None
            )
            silent = now - heard > timedelta(seconds=STUCK_AFTER_S)
            return "waiting" if waits else "stuck" if silent else "reading"
        if waits:
            return "waiting"
        planned = self.next_poll_at
        if planned is not None and now - planned > timedelta(seconds=OVERDUE_AFTER_S):
            return "overdue"
        return "failing" if self.consecutive_failures or self.reconcile_error else "ok"


def load_states(connection: psycopg.Connection, client: str) -> list[SourceState]:
    """States of a client's sources, by name."""
    with connection.cursor(row_factory=class_row(SourceState)) as cursor:
        return cursor.execute(
            "SELECT source, last_polled_at, busy_since, busy_with, last_heard_at, next_poll_at, last_success_at,"
            " last_change_at, last_reconciled_at, consecutive_failures, last_error, reconcile_error, waiting_until,"
            " waiting_for"
            " FROM source_states WHERE client = %s ORDER BY source",
            [client],
        ).fetchall()


_BEGUN = """
INSERT INTO source_states AS s (client, source, last_polled_at, busy_since, busy_with, last_heard_at)
VALUES (%(client)s, %(source)s, CASE WHEN %(work)s = 'poll' THEN %(at)s::timestamptz END, %(at)s, %(work)s, %(at)s)
ON CONFLICT (client, source) DO UPDATE SET busy_since = EXCLUDED.busy_since, busy_with = EXCLUDED.busy_with,
    last_heard_at = EXCLUDED.last_heard_at, last_polled_at = coalesce(EXCLUDED.last_polled_at, s.last_polled_at)
"""
_ENDED = """
UPDATE source_states SET
    busy_since = NULL, busy_with = NULL, waiting_until = NULL, waiting_for = NULL, next_poll_at = %(next)s,
    last_success_at = CASE WHEN %(poll)s AND %(error)s::text IS NULL THEN busy_since ELSE last_success_at END,
    consecutive_failures = CASE WHEN NOT %(poll)s THEN consecutive_failures
                                WHEN %(error)s::text IS NULL THEN 0 ELSE consecutive_failures + 1 END,
    last_error = CASE WHEN %(poll)s THEN %(error)s ELSE last_error END,
    last_reconciled_at = CASE WHEN %(reconcile)s AND %(error)s::text IS NULL THEN busy_since
                              ELSE last_reconciled_at END,
    reconcile_error = CASE WHEN %(reconcile)s THEN %(error)s ELSE reconcile_error END
WHERE (client, source) = (%(client)s, %(source)s)
"""


def note_begun(connection: psycopg.Connection, client: str, source: str, work: Work, at: datetime) -> None:
    """A look at the source begins."""
    connection.execute(_BEGUN, {"client": client, "source": source, "work": work, "at": at})


def note_ended(
    connection: psycopg.Connection,
    client: str,
    source: str,
    work: Work,
    error: BaseException | None,
    next_poll_at: datetime | None = None,
) -> None:
    """The look that began last is over: what it found is stored, or `error` ended it."""
    parameters = {
        "client": client,
        "source": source,
        "poll": work == "poll",
        "reconcile": work == "reconcile",
        "error": error and one_line(error),
        "next": next_poll_at,
    }
    connection.execute(_ENDED, parameters)


@contextmanager
def noted(connection: psycopg.Connection, client: str, source: str, work: Work) -> Iterator[None]:
    """A look at a source, for the length of the block."""
    note_begun(connection, client, source, work, datetime.now(UTC))
    try:
        yield
    except BaseException as error:
        with suppress(psycopg.OperationalError):  # a lost connection must not hide what went wrong
            if isinstance(error, Exception):
                note_ended(connection, client, source, work, error)
            else:
                note_left(connection, client, [source])
        raise
    note_ended(connection, client, source, work, None)


_POLLED = """
INSERT INTO source_states AS s (client, source, last_polled_at, next_poll_at, last_success_at, consecutive_failures,
    last_error, waiting_for, waiting_until)
VALUES (%(client)s, %(source)s, %(at)s, %(next)s, %(success)s, %(failures)s, %(error)s, %(waiting_for)s,
    CASE WHEN %(waiting_for)s::text IS NOT NULL THEN %(next)s::timestamptz END)
ON CONFLICT (client, source) DO UPDATE SET last_polled_at = EXCLUDED.last_polled_at,
    next_poll_at = EXCLUDED.next_poll_at, last_success_at = coalesce(EXCLUDED.last_success_at, s.last_success_at),
    consecutive_failures = EXCLUDED.consecutive_failures, last_error = EXCLUDED.last_error,
    waiting_for = EXCLUDED.waiting_for, waiting_until = EXCLUDED.waiting_until
"""


def note_polled(
    connection: psycopg.Connection,
    client: str,
    source: str,
    at: datetime,
    next_poll_at: datetime,
    success_at: datetime | None,
    failures: int,
    error: str | None,
    waiting_for: str | None,
) -> None:
    """How polls by a streaming job stand, which begins and ends them elsewhere.

    Args:
        at: when the job last looked.
        next_poll_at: when it goes on; end of the wait, if `waiting_for` says why the source asked for one.
        success_at: as of when everything the source had is stored.
        failures: in a row, the last with `error`.
    """
    parameters = {
        "client": client,
        "source": source,
        "at": at,
        "next": next_poll_at,
        "success": success_at,
        "failures": failures,
        "error": error,
        "waiting_for": waiting_for and waiting_for.replace("\0", "")[:500],
    }
    connection.execute(_POLLED, parameters)


def note_heard(connection: psycopg.Connection, client: str, source: str, at: datetime) -> None:
    """The look that is going on gave something."""
    connection.execute(
        "UPDATE source_states SET last_heard_at = %s WHERE (client, source) = (%s, %s)", [at, client, source]
    )


def note_changed(connection: psycopg.Connection, client: str, source: str) -> None:
    """Something of the source was stored or deleted now."""
    connection.execute(
        "INSERT INTO source_states (client, source, last_change_at) VALUES (%s, %s, clock_timestamp())"
        " ON CONFLICT (client, source) DO UPDATE SET last_change_at = EXCLUDED.last_change_at",
        [client, source],
    )


def note_waiting(
    connection: psycopg.Connection, client: str, source: str, reason: str, until: datetime
) -> None:
    """The source makes us wait."""
    connection.execute(
        "UPDATE source_states SET waiting_for = %s, waiting_until = %s WHERE (client, source) = (%s, %s)",
        [reason.replace("\0", "")[:500], until, client, source],
    )


def note_left(connection: psycopg.Connection, client: str, sources: Sequence[str]) -> None:
    """Nobody watches these any more: no look is going on, none is planned."""
    connection.execute(
        "UPDATE source_states SET busy_since = NULL, busy_with = NULL, next_poll_at = NULL, waiting_until = NULL,"
        " waiting_for = NULL WHERE client = %s AND source = ANY(%s)",
        [client, list(sources)],
    )


def one_line(error: BaseException) -> str:
    """What went wrong, for a person. An error that is not ours may quote a record or a secret: it is only named."""
    if isinstance(error, PipelineError):
        return " ".join(str(error).split()).replace("\0", "")[:1000]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return f"unexpected {type(error).__name__}{where}"

"""Books in a table beside the truth: a row for each client, locked while it is changed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol, TypeVar

import psycopg

from schemas.errors import LimitReached
from transforms.allowance.book import Book, dump, load
from transforms.allowance.ledger import book_of_ledger
from transforms.postgres import Session

T = TypeVar("T")
Change = Callable[[Book], tuple[Book, T]]
"""A book in, the book to be kept and an answer out; may be called more than once, and touches nothing else."""


class Books(Protocol):
    """Where all workers find the book of a client. One thread at a time."""

    def change(self, client: str, now: datetime, under_way_until: datetime, work: Change[T]) -> T:
        """Read the book, do `work`, and keep what it gives, with nobody in between.

        A client without a book gets one from the ledger.

        Args:
            under_way_until: when what `work` may reserve is over for certain.
        Raises:
            LimitReached: of kind `recovery`: counts were lost, and requests that the ledger does not know yet may be
                under way.
            SinkUnavailable: the book cannot be reached.
        """
        ...

    def close(self) -> None:
        """Give connections back; the next call makes new ones."""
        ...


class PostgresBooks:
    """Implements `Books`.

    Args:
        session: for it alone, or for others of the same thread.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def change(self, client: str, now: datetime, under_way_until: datetime, work: Change[T]) -> T:
        def locked(connection: psycopg.Connection) -> T:
            with connection.transaction():
                text, in_flight_until = locked_row(connection, client)
                book = load(text) if text else _begun(connection, client, now, in_flight_until)
                changed, answer = work(book)
                if changed is not book or not text:
                    connection.execute(
                        "UPDATE ai_allowances SET book = %s::jsonb, in_flight_until = NULL WHERE client = %s",
                        [dump(changed).decode(), client],
                    )
                return answer

        return self._session.run(locked)

    def close(self) -> None:
        self._session.close()


def locked_row(connection: psycopg.Connection, client: str) -> tuple[str | None, datetime | None]:
    """A client's book in Postgres, and until when requests may be under way that are counted elsewhere; locked."""
    query = "SELECT book::text, in_flight_until FROM ai_allowances WHERE client = %s FOR UPDATE"
    found = connection.execute(query, [client]).fetchone()
    if found is None:
        connection.execute("INSERT INTO ai_allowances (client) VALUES (%s) ON CONFLICT DO NOTHING", [client])
        found = connection.execute(query, [client]).fetchone()
    return found or (None, None)


def _begun(
    connection: psycopg.Connection, client: str, now: datetime, in_flight_until: datetime | None
) -> Book:
    refuse_while_under_way(client, now, in_flight_until)
    return book_of_ledger(connection, client, now)


def refuse_while_under_way(client: str, now: datetime, in_flight_until: datetime | None) -> None:
    """A book begun from the ledger would miss requests under way: wait until they are in it.

    Raises:
        LimitReached: of kind `recovery`.
    """
    if in_flight_until is not None and in_flight_until > now:
        wait_s = (in_flight_until - now).total_seconds()
        raise LimitReached(
            f"what client {client} may use is counted anew from the ledger, once all requests under way are in it:"
            " the shared counts were lost, or are moving between Redis and Postgres",
            wait_s,
            "recovery",
        )

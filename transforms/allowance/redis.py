"""Books in Redis (or Valkey), for many workers. Redis may forget them at any time: Postgres knows enough to go on.

A book is changed by comparing and setting: read it, work out the next one here, and have the server put that in place
only if the first is still there. Some worker always succeeds, and the arithmetic exists once, in `book.py`.

Each book carries the id of the server process that it was written to. A server that was restarted has another, and
what it restored from its disk may be minutes old; a server that was flushed has no book. In both cases the next book
comes from the ledger. Requests under way may not be in it yet, so none is granted until they are over: every worker
notes in Postgres, about once in half a minute, until when requests of its may be under way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar, cast

import psycopg
from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import NoPermissionError, RedisError
from redis.retry import Retry

from schemas.errors import BadConfig, SinkUnavailable
from transforms.allowance.book import Book, dump, load
from transforms.allowance.ledger import book_of_ledger
from transforms.allowance.postgres import Change, locked_row, refuse_while_under_way
from transforms.postgres import Session

T = TypeVar("T")

TIMEOUT_S = 2.0
"""To connect, and for an answer."""

RETRIES = 8
"""Of one command, over some seconds: a server that restarts is waited for."""

MAX_CONFLICTS = 1000
"""Changes by others between reading and setting; one in eight hammering workers meets about ten in a row."""

NOTE_AHEAD = timedelta(seconds=30)
"""How much later than needed the note in Postgres says, so that it is written seldom."""

KEPT_FOR = timedelta(days=40)
"""A book that nobody asks for is dropped by the server."""

_READ = """
local server = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
return {server, redis.call('GET', KEYS[1]) or ''}
"""

_SET = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""


def connect(url: str) -> Redis:
    """A client of the server at `url`.

    Raises:
        BadConfig: `url` is none of Redis, or nothing answers there, or refuses; it may hold a password and is not
            repeated.
    """
    try:
        client = Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), RETRIES),
            decode_responses=False,
        )
    except ValueError:
        raise BadConfig(
            "allowance.url: what it refers to is no Redis URL: expected redis://user:password@host:6379/0,"
            " rediss://... or unix://..."
        ) from None
    try:
        client.info("server")
    except NoPermissionError:
        raise BadConfig("allowance.url: this user of Redis may not run INFO: allow it (+info)") from None
    except RedisError as error:
        raise BadConfig(
            f"allowance.url: Redis does not answer, or refuses ({type(error).__name__}): start it, or change what the"
            " setting refers to"
        ) from None
    return client


class RedisBooks:
    """Implements `postgres.Books`.

    Args:
        session: to the database of the ledger.
        sleep: takes seconds.
    """

    def __init__(self, client: Redis, session: Session, sleep: Callable[[float], None] = time.sleep) -> None:
        self._redis = client
        self._session = session
        self._sleep = sleep
        self._read = client.register_script(_READ)
        self._set = client.register_script(_SET)
        self._noted_until: dict[str, datetime] = {}

    def change(self, client: str, now: datetime, under_way_until: datetime, work: Change[T]) -> T:
        try:
            for conflicts in range(MAX_CONFLICTS):
                server, raw = self._stored(client)
                book = _book_of(server, raw)
                if book is None or not self._noted(client, under_way_until):
                    self._begin(client, now, server, raw)
                    continue
                changed, answer = work(book)
                if changed is book or self._replace(client, raw, server, changed):
                    return answer
                self._sleep(random.uniform(0, 0.0002 * min(conflicts, 50)))  # noqa: S311
        except RedisError as error:
            raise SinkUnavailable(
                f"allowance.url: Redis, where limits and budgets are counted, fails ({type(error).__name__}): see"
                " whether the server is well, then run again"
            ) from error
        raise SinkUnavailable(
            f"the book of client {client} in Redis was changed by others {MAX_CONFLICTS} times in a row: use fewer"
            " workers for it"
        )

    def close(self) -> None:
        self._redis.close()
        self._session.close()

    def _stored(self, client: str) -> tuple[bytes, bytes]:
        server, raw = cast(list[bytes], self._read(keys=[_name(client)]))
        return server, raw

    def _replace(self, client: str, raw: bytes, server: bytes, book: Book) -> bool:
        kept_ms = int(KEPT_FOR.total_seconds() * 1000)
        return bool(self._set(keys=[_name(client)], args=[raw, server + b"\n" + dump(book), kept_ms]))

    def _noted(self, client: str, until: datetime) -> bool:
        """Note in Postgres that requests may be under way until then; False where it still keeps the book itself."""
        if self._noted_until.get(client, until) > until:
            return True
        ahead = until + NOTE_AHEAD
        done = self._session.run(
            lambda connection: (
                connection.execute(
                    "UPDATE ai_allowances SET in_flight_until = greatest(in_flight_until, %s)"
                    " WHERE client = %s AND in_flight_until IS NOT NULL",
                    [ahead, client],
                ).rowcount
            )
        )
        if done:
            self._noted_until[client] = ahead
        return bool(done)

    def _begin(self, client: str, now: datetime, server: bytes, raw: bytes) -> None:
        """Put a book in place of `raw`: the one that Postgres kept until now, or one from the ledger."""

        def locked(connection: psycopg.Connection) -> None:
            with connection.transaction():
                text, in_flight_until = locked_row(connection, client)
                if text is None:
                    refuse_while_under_way(client, now, in_flight_until)
                book = load(text) if text else book_of_ledger(connection, client, now)
                self._replace(client, raw, server, book)
                connection.execute(
                    "UPDATE ai_allowances SET book = NULL, in_flight_until = coalesce(in_flight_until, %s)"
                    " WHERE client = %s",
                    [now, client],
                )

        self._session.run(locked)


def _name(client: str) -> str:
    return f"headrace:allowance:{client}"


def _book_of(server: bytes, raw: bytes) -> Book | None:
    """The book in `raw`, if it was written to this process of the server."""
    written_to, _, text = raw.partition(b"\n")
    if written_to != server:
        return None
    try:
        return load(text)
    except ValueError:
        return None

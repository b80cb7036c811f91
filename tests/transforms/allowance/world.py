"""Clients, requests, what they cost, and a clock that is set by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from uuid import uuid4

import psycopg
import redis

from schemas.allowances import AllowanceSettings, Budget, RateLimit
from schemas.usage import UsageEvent
from transforms.allowance.base import Estimate, Reservation
from transforms.allowance.book import GRACE_S, Book, month_nano, usd_of
from transforms.allowance.opening import open_books
from transforms.allowance.postgres import Books
from transforms.allowance.rules import set_rule
from transforms.allowance.shared import SharedAllowance
from transforms.postgres import Session, Store
from transforms.usage import write_usage

KINDS = ("postgres", "redis")
TIMEOUT_S = 60.0
LAPSES_AFTER = timedelta(seconds=TIMEOUT_S + GRACE_S)
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)

_clients = itertools.count()


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, time: timedelta) -> None:
        self.now += time


class NoAllowance:
    """Grants everything and counts nothing."""

    def reserve(self, estimate: Estimate) -> Reservation:
        return Reservation(uuid4(), estimate, counted=False)

    def settle(self, reservation: Reservation, tokens: int, usd: Decimal) -> None:
        return None

    def release(self, reservation: Reservation) -> None:
        return None

    def close(self) -> None:
        return None


@dataclass
class World:
    """One place where books are kept, with its database."""

    kind: str
    store: Store
    redis_url: str
    clock: Clock
    opened: list[SharedAllowance] = field(default_factory=list)

    def worker(self, post: Callable[[bytes], None] = lambda message: None) -> SharedAllowance:
        """Another worker, with connections of its own."""
        session = Session(self.store)
        allowance = SharedAllowance(open_books(self.settings(), session), session, self.clock, post)
        self.opened.append(allowance)
        return allowance

    def close(self) -> None:
        for allowance in self.opened:
            allowance.close()
        self.reader.close()

    def settings(self) -> AllowanceSettings:
        return (
            AllowanceSettings(kind="redis", url="env:TEST_REDIS")
            if self.kind == "redis"
            else AllowanceSettings()
        )

    @cached_property
    def reader(self) -> Books:
        return open_books(self.settings(), Session(self.store))

    def book(self, client: str) -> Book:
        """As it is kept."""
        return self.reader.change(client, self.clock(), self.clock(), lambda book: (book, book))

    def spent(self, client: str) -> Decimal:
        """Dollars counted in the month."""
        return usd_of(month_nano(self.book(client), "*"))

    def flush(self) -> None:
        with redis.Redis.from_url(self.redis_url) as server:
            server.flushall()


def new_client() -> str:
    """A name that no other test or example uses."""
    return f"client-{next(_clients)}"


def rule(connection: psycopg.Connection, *rules: Budget | RateLimit) -> None:
    """Rules of the tables."""
    for one in rules:
        set_rule(connection, one)


def request(
    client: str, usd: str | Decimal = "0.01", tokens: int = 100, provider: str = "openai"
) -> Estimate:
    """An estimate."""
    return Estimate(client, provider, 1, tokens, Decimal(usd), TIMEOUT_S)


def bill(
    connection: psycopg.Connection, reservation: Reservation, at: datetime, tokens: int, usd: Decimal
) -> None:
    """The row of the ledger that a request leaves."""
    estimate = reservation.estimate
    event = UsageEvent(
        event_id=reservation.reservation_id,
        client=estimate.client,
        run_id=None,
        provider=estimate.provider,
        operation="embed_documents",
        model="m",
        space_id="s",
        inputs=1,
        tokens=estimate.tokens,
        tokens_reported=tokens,
        cost_usd=usd,
        machine_seconds=0,
        latency_s=0.1,
        occurred_at=at,
    )
    write_usage(connection, event)

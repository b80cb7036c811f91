"""How often an endpoint is asked, at what pace, and what does not count against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import psycopg
import pytest

from schemas.errors import BadAnswer, EngineFailed, Parked, ProviderUnavailable, RateLimited
from tests.transforms.routing.world import (
    INFO,
    FakeClock,
    FakeEndpoint,
    Open,
    integration,
    quick,
    tokens_of,
)
from transforms.providers.base import RequestLimits
from transforms.routing.breaker import FAILURES
from transforms.routing.router import LONGEST_BACKOFF_S, Router


def embed(router: Router, clock: FakeClock, *texts: str) -> None:
    router.embed(texts, "document", tokens_of(texts), clock.pause)


def opened_breakers(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM endpoint_states").fetchone()
    assert row is not None
    return int(row[0])


def test_a_batch_is_asked_for_as_often_as_is_configured_and_no_oftener(
    opened: Open, clock: FakeClock
) -> None:
    def poisoned(number: int, texts: Sequence[str]) -> Exception | None:
        return BadAnswer("a: NaN") if "poison" in texts else None

    for most in (1, 2, 4):
        a = FakeEndpoint(plan=poisoned)
        router = opened(
            {"a": a},
            configure=lambda name, most=most: integration(name, performance={"max_attempts": most}),
        )
        with pytest.raises(EngineFailed, match=f"{most} requests failed"):
            embed(router, clock, "poison")
        assert a.requests == 1 + most + 1, "known sentences come before and after"


def test_attempts_are_apart_by_pauses_that_differ_and_are_bounded(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=lambda n, texts: ProviderUnavailable("a: HTTP 503", False) if n % 4 else None)
    router = opened({"a": a})
    for number in range(10):
        embed(router, clock, f"text {number}")
    waits = [wait for wait in clock.waits if wait > 0]
    assert len(waits) >= 20
    assert len(set(waits)) == len(waits), "workers that failed together do not come back together"
    assert max(waits) <= LONGEST_BACKOFF_S


def test_failures_with_answers_in_between_open_no_breaker(
    opened: Open, clock: FakeClock, connection: psycopg.Connection
) -> None:
    a = FakeEndpoint(plan=lambda n, texts: ProviderUnavailable("a: HTTP 503", False) if n % 2 else None)
    router = opened({"a": a})
    for number in range(4 * FAILURES):
        embed(router, clock, f"text {number}")
    assert opened_breakers(connection) == 0


def test_rate_limits_open_no_breaker_however_many(
    opened: Open, clock: FakeClock, connection: psycopg.Connection
) -> None:
    a = FakeEndpoint(plan=lambda n, texts: RateLimited("a: HTTP 429", 0.0) if 1 <= n < 4 * FAILURES else None)
    embed(opened({"a": a}), clock, "a text")
    assert a.texts["a text"] == 1
    assert opened_breakers(connection) == 0


def test_after_a_rate_limit_answers_bring_back_how_much_is_asked_at_once(
    opened: Open, clock: FakeClock
) -> None:
    a = FakeEndpoint(plan=lambda n, texts: RateLimited("a: HTTP 429", 1.0) if n == 1 else None)
    router = opened({"a": a}, configure=lambda name: integration(name, performance={"max_concurrency": 8}))
    gate = router._chain.endpoints()[0].gate
    embed(router, clock, "limited once")
    assert gate.width == 4
    for number in range(40):
        embed(router, clock, f"text {number}")
    assert gate.width == 8


def test_an_endpoint_with_other_vectors_is_not_asked_again_within_the_hour(
    opened: Open, clock: FakeClock
) -> None:
    embed(opened({"a": FakeEndpoint()}), clock, "the space begins")
    changed = FakeEndpoint(weights="changed")
    router = opened({"a": changed}, configure=quick)
    asked = []
    for minutes in (0, 1, 30, 58, 61):
        clock.time_s = 60 * minutes + 1
        with pytest.raises(Parked, match="does not give the vectors of this space"):
            embed(router, clock, "a text")
        asked.append(changed.requests)
    assert asked == [1, 1, 1, 1, 2]
    assert not changed.texts


def test_a_request_is_within_the_limits_of_every_endpoint_that_may_be_asked(opened: Open) -> None:
    a = FakeEndpoint(info=replace(INFO, limits=RequestLimits(100, 9_000, 512)))
    b = FakeEndpoint(info=replace(INFO, limits=RequestLimits(20, 10_000, 256)))
    assert opened({"a": a, "b": b}).limits == RequestLimits(20, 9_000, 256)

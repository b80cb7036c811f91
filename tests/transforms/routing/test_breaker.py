"""Breakers open, rest and close; all workers see it, and it costs next to nothing while all is well."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ProviderUnavailable
from tests.transforms.routing.world import FakeClock
from transforms.postgres import Store
from transforms.routing.breaker import (
    FAILURES,
    LONGEST_PAUSE_S,
    TRY_S,
    EndpointBreaker,
    SharedStates,
    load_states,
    pause_s,
)
from transforms.routing.session import SharedSession

DOWN = ProviderUnavailable("a: HTTP 503")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def worker(database: Store, clock: FakeClock) -> Iterator[Callable[[], EndpointBreaker]]:
    """Makes the breaker of endpoint `a` as a further worker has it."""
    sessions: list[SharedSession] = []

    def make() -> EndpointBreaker:
        sessions.append(SharedSession(database))
        return EndpointBreaker(SharedStates(sessions[-1], clock.now, clock.monotonic_s), "a")

    yield make
    for session in sessions:
        session.close()


def fail(breaker: EndpointBreaker, times: int = FAILURES) -> None:
    for _ in range(times):
        breaker.note_failure(DOWN)


def raise_down() -> None:
    raise DOWN


def test_failures_in_a_row_open_it_and_an_answer_in_between_begins_anew(
    worker: Callable[[], EndpointBreaker],
) -> None:
    breaker = worker()
    for _ in range(10):
        fail(breaker, FAILURES - 1)
        breaker.note_answer()
    assert breaker.is_closed
    fail(breaker)
    assert not breaker.is_closed
    assert breaker.reason == "a: HTTP 503"


def test_it_may_be_tried_at_once_and_after_each_failed_trial_later(
    worker: Callable[[], EndpointBreaker], clock: FakeClock
) -> None:
    breaker = worker()
    fail(breaker)
    pauses = []
    for _ in range(8):
        clock.time_s += breaker.due_in_s
        with pytest.raises(ProviderUnavailable):
            breaker.attempt(raise_down, lambda error: None)
        pauses.append(breaker.due_in_s)
    assert pauses == [15, 30, 60, 120, 240, 480, 600, 600]
    clock.time_s += 599
    assert not breaker.attempt(lambda: None, lambda error: None), "it is not tried before its time"
    clock.time_s += 1
    assert breaker.attempt(lambda: None, lambda error: None)
    assert breaker.is_closed


def test_another_worker_sees_it_within_a_second_and_the_reason(
    worker: Callable[[], EndpointBreaker], clock: FakeClock
) -> None:
    first, second = worker(), worker()
    assert second.is_closed
    fail(first)
    clock.time_s += 1
    assert not second.is_closed
    assert second.reason == "a: HTTP 503"
    assert second.attempt(lambda: None, lambda error: None)
    clock.time_s += 1
    assert first.is_closed


def test_only_one_worker_tries_it_and_one_that_dies_meanwhile_gives_the_next_its_turn(
    database: Store, worker: Callable[[], EndpointBreaker], clock: FakeClock
) -> None:
    first, second, dying = worker(), worker(), SharedSession(database)
    fail(first)
    assert SharedStates(dying, clock.now, clock.monotonic_s).claim("a")
    dying.close()
    clock.time_s += 1
    assert second.is_tried
    assert not second.attempt(lambda: None, lambda error: None)
    clock.time_s += TRY_S
    assert second.attempt(lambda: None, lambda error: None)


def test_of_two_workers_that_claim_it_at_the_same_moment_one_gets_it(
    database: Store, worker: Callable[[], EndpointBreaker], clock: FakeClock
) -> None:
    """Both have read that its pause is over; the table decides."""
    fail(worker())
    sessions = [SharedSession(database) for _ in range(2)]
    states = [SharedStates(session, clock.now, clock.monotonic_s) for session in sessions]
    assert [each.claim("a") for each in states] == [True, False]
    clock.time_s += TRY_S
    assert [each.claim("a") for each in states] == [True, False]
    states[0].close("a")
    clock.time_s += TRY_S
    assert [each.claim("a") for each in states] == [False, False], "there is nothing to try"
    for session in sessions:
        session.close()


def test_nothing_is_written_while_all_is_well_and_little_while_all_is_not(
    worker: Callable[[], EndpointBreaker], connection: psycopg.Connection, clock: FakeClock
) -> None:
    breaker = worker()
    for _ in range(100):
        breaker.note_answer()
    assert load_states(connection) == {}
    fail(breaker, 1000)
    changed = connection.execute("SELECT changed_at, xmin::text::int FROM endpoint_states").fetchone()
    fail(breaker, 1000)
    assert connection.execute("SELECT changed_at, xmin::text::int FROM endpoint_states").fetchone() == changed


@given(st.lists(st.sampled_from(["answer", "failure", "trial fails", "trial succeeds", "time"]), max_size=40))
def test_it_is_open_exactly_as_long_as_its_history_says(history: list[str]) -> None:
    clock = FakeClock()
    breaker = EndpointBreaker(SharedStates(InMemory(), clock.now, clock.monotonic_s), "a")  # type: ignore[arg-type]
    failures = openings = 0
    due: float | None = None
    for event in history:
        match event:
            case "answer":
                breaker.note_answer()
                failures = failures if due is not None else 0
            case "failure":
                breaker.note_failure(DOWN)
                if due is None:
                    failures += 1
                    if failures == FAILURES:
                        openings, due = openings + 1, clock.time_s + pause_s(openings + 1)
            case "trial fails" | "trial succeeds" if due is not None:
                try:
                    tried = breaker.attempt(
                        raise_down if event == "trial fails" else lambda: None, lambda error: None
                    )
                except ProviderUnavailable:
                    tried = True
                assert tried == (clock.time_s >= due)
                if tried and event == "trial fails":
                    openings, due = openings + 1, clock.time_s + pause_s(openings + 1)
                elif tried:
                    failures, openings, due = 0, 0, None
            case "time":
                clock.time_s += 20
        assert breaker.is_closed == (due is None)
        assert breaker.due_in_s == (0 if due is None else max(0.0, due - clock.time_s))
    assert pause_s(10**6) == LONGEST_PAUSE_S


class InMemory:
    """A session whose table is a row in memory: the statements of the breaker, by what they begin with."""

    def __init__(self) -> None:
        self.row: tuple[object, ...] | None = None

    def run(self, work: Callable[[InMemory], object]) -> object:
        return work(self)

    def execute(self, statement: str, values: object = None) -> InMemory:
        match statement.split()[0], values:
            case "INSERT", (name, state, openings, retry_at, reason, _):
                self.row = (name, state, openings, retry_at, reason)
            case "UPDATE", [until, _, name, now]:
                assert self.row is not None
                if self.row[1] == "closed" or self.row[3] > now:  # type: ignore[operator]
                    self.found = None
                else:
                    self.found = (self.row[2], self.row[4])
                    self.row = (name, "half-open", self.row[2], until, self.row[4])
        return self

    def fetchone(self) -> tuple[object, ...] | None:
        return self.found

    def __iter__(self) -> Iterator[tuple[object, ...]]:
        return iter([] if self.row is None else [self.row])

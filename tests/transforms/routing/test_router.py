"""Which endpoint is asked, and what becomes of texts when none can be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest

from schemas.allowances import Budget
from schemas.errors import (
    AccessRefused,
    BadAnswer,
    BadConfig,
    BudgetUsedUp,
    EngineFailed,
    InputRefused,
    LimitReached,
    LimitTooSmall,
    OutOfCredit,
    Parked,
    ProviderTimeout,
    ProviderUnavailable,
    QueryRefused,
    RateLimited,
)
from schemas.integrations import Integration, Performance
from schemas.usage import UNFINISHED
from tests.fakes.embedding_provider import vector_of
from tests.transforms.allowance.world import Clock, NoAllowance, World, rule
from tests.transforms.routing.world import (
    DIMENSIONS,
    WEIGHTS,
    FakeClock,
    FakeEndpoint,
    Open,
    integration,
    ledger,
    quick,
    tokens_of,
)
from transforms.allowance.base import Estimate, Reservation
from transforms.allowance.shared import RULES_KEPT_FOR
from transforms.background import Discarded
from transforms.postgres import Store
from transforms.providers.metering import ProviderCall
from transforms.routing.router import Router

TEXTS = ["the first text", "a second one"]


class Book(NoAllowance):
    """Grants everything, and notes what it is told."""

    def __init__(self) -> None:
        self.held: dict[object, Estimate] = {}
        self.settled: list[tuple[int, Decimal]] = []
        self.released = 0

    def reserve(self, estimate: Estimate) -> Reservation:
        reservation = super().reserve(estimate)
        self.held[reservation.reservation_id] = estimate
        return reservation

    def settle(self, reservation: Reservation, tokens: int, usd: Decimal) -> None:
        del self.held[reservation.reservation_id]
        self.settled.append((tokens, usd))

    def release(self, reservation: Reservation) -> None:
        del self.held[reservation.reservation_id]
        self.released += 1


def embed(router: Router, clock: FakeClock, texts: Sequence[str] = TEXTS) -> np.ndarray:
    return router.embed(texts, "document", tokens_of(texts), clock.pause).vectors


def expected(texts: Sequence[str] = TEXTS) -> np.ndarray:
    return np.array([vector_of(text, DIMENSIONS, WEIGHTS) for text in texts])


def fails_from(number: int, error: Exception, until: int = 10**9) -> Callable[..., Exception | None]:
    return lambda n, texts: error if number <= n < until else None


def down_between(start_s: float, end_s: float, clock: FakeClock) -> Callable[..., Exception | None]:
    error = ProviderUnavailable("a: connection refused", False)
    return lambda n, texts: error if start_s <= clock.time_s < end_s else None


def test_the_configured_endpoint_answers_and_its_fallback_is_not_asked(
    opened: Open, clock: FakeClock
) -> None:
    a, b = FakeEndpoint(), FakeEndpoint()
    assert np.array_equal(embed(opened({"a": a, "b": b}), clock), expected())
    assert (a.requests, b.requests) == (2, 0), "known sentences, then the texts"


def test_a_fallback_takes_over_when_the_primary_dies_in_mid_run(opened: Open, clock: FakeClock) -> None:
    a, b = FakeEndpoint(plan=fails_from(2, ProviderUnavailable("a: HTTP 503"))), FakeEndpoint()
    router = opened({"a": a, "b": b})
    for number in range(10):
        texts = [f"text {number} {row}" for row in range(3)]
        assert np.array_equal(embed(router, clock, texts), expected(texts))
    assert set(a.texts + b.texts) == {f"text {number} {row}" for number in range(10) for row in range(3)}
    assert not a.texts & b.texts, "nothing is embedded twice"
    assert a.requests < 12, "a dead endpoint is not asked for every batch"


def test_the_primary_is_used_again_once_it_answers(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=fails_from(2, ProviderUnavailable("a: HTTP 503"), until=12))
    b = FakeEndpoint()
    router = opened({"a": a, "b": b})
    for number in range(40):
        embed(router, clock, [f"text {number}"])
        clock.time_s += 20
    assert a.texts["text 39"] == 1


def test_a_fallback_of_other_weights_is_never_used_and_work_is_parked_until_the_primary_is_back(
    opened: Open, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    a = FakeEndpoint(plan=down_between(1, 2000, clock))
    other = FakeEndpoint(weights="others-of-the-same-dimension")
    router = opened({"a": a, "other": other}, configure=quick)
    embed(router, clock)
    clock.time_s = 1
    for _ in range(10):
        with pytest.raises(Parked, match="other does not give the vectors of this space") as parked:
            embed(router, clock, ["not yet"])
        assert parked.value.retry_after_s is not None
    assert not other.texts, "no text of a record was embedded with other weights"
    assert len([line for line in caplog.messages if line.startswith("other is not asked")]) == 1
    clock.time_s = 2700
    assert np.array_equal(embed(router, clock, ["not yet"]), expected(["not yet"]))


def test_a_fallback_does_not_begin_a_space(opened: Open, clock: FakeClock) -> None:
    a, b = FakeEndpoint(plan=fails_from(0, AccessRefused("a: HTTP 401"))), FakeEndpoint()
    with pytest.raises(Parked, match="until the configured integration has answered once"):
        embed(opened({"a": a, "b": b}), clock)
    assert b.requests == 0


def test_weights_changed_in_silence_are_noticed_at_the_next_start(opened: Open, clock: FakeClock) -> None:
    embed(opened({"a": FakeEndpoint()}), clock)
    changed = FakeEndpoint(weights="changed")
    with pytest.raises(Parked, match="lowest cosine"):
        embed(opened({"a": changed}), clock)
    assert not changed.texts


def test_queries_are_proven_apart_from_documents(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint()
    router = opened({"a": a})
    for _ in range(2):
        router.embed(TEXTS, "document", 5, clock.pause)
        router.embed(TEXTS, "query", 5, clock.pause)
    assert a.requests == 6


def test_a_search_takes_the_proof_of_another_within_the_hour_unless_the_endpoint_was_changed(
    opened: Open, clock: FakeClock
) -> None:
    a = FakeEndpoint()

    def search(configure: Callable[[str], Integration]) -> int:
        before = a.requests
        opened({"a": a}, configure=configure).embed(["a query"], "query", 2, clock.pause)
        return a.requests - before

    assert [search(integration) for _ in range(3)] == [2, 1, 1]
    assert search(quick) == 2, "its configuration is another"
    clock.time_s += 3601
    assert search(integration) == 2
    with_documents = opened({"a": a})
    before = a.requests
    embed(with_documents, clock)
    assert a.requests - before == 2, "what embeds documents proves its endpoints itself"


def test_an_endpoint_is_proven_once_a_run_and_anew_by_the_next_or_after_an_hour(
    opened: Open, clock: FakeClock
) -> None:
    a, one_run, another = FakeEndpoint(), uuid4(), uuid4()

    def requests_of_a_worker(
        run_id: UUID | None, configure: Callable[[str], Integration] = integration
    ) -> int:
        before = a.requests
        embed(opened({"a": a}, run_id=run_id, configure=configure), clock)
        return a.requests - before

    assert [requests_of_a_worker(one_run) for _ in range(3)] == [2, 1, 1]
    assert [requests_of_a_worker(another) for _ in range(2)] == [2, 1]
    assert requests_of_a_worker(one_run) == 1, "runs side by side do not undo each other's"
    assert requests_of_a_worker(one_run, quick) == 2, "its configuration is another"
    assert [requests_of_a_worker(None) for _ in range(2)] == [2, 2], "outside a run each proves by itself"
    clock.time_s += 3601
    assert requests_of_a_worker(one_run) == 2


def test_weights_changed_in_the_middle_of_a_run_are_noticed_by_the_next(
    opened: Open, clock: FakeClock
) -> None:
    embed(opened({"a": FakeEndpoint()}, run_id=uuid4()), clock)
    changed = FakeEndpoint(weights="changed")
    with pytest.raises(Parked, match="lowest cosine"):
        embed(opened({"a": changed}, run_id=uuid4()), clock)
    assert not changed.texts


@pytest.mark.parametrize(("comes_to_its_end", "proofs"), [(True, 1), (False, 2)])
def test_a_worker_waits_for_the_proof_that_another_makes_but_not_for_ever(
    opened: Open, clock: FakeClock, comes_to_its_end: bool, proofs: int
) -> None:
    begun, goes_on, run_id = threading.Event(), threading.Event(), uuid4()

    def at_the_proof(number: int, texts: Sequence[str]) -> None:
        begun.set()
        assert goes_on.wait(30)

    slow, quick_one = FakeEndpoint(plan=at_the_proof), FakeEndpoint()

    def pause(duration_s: float) -> None:
        if comes_to_its_end:
            goes_on.set()
            time.sleep(0.01)
        else:
            clock.time_s += duration_s

    first = threading.Thread(target=lambda: embed(opened({"a": slow}, run_id=run_id), clock))
    second = opened({"a": quick_one}, run_id=run_id)
    first.start()
    assert begun.wait(30)
    second.embed(TEXTS, "document", 5, pause)
    goes_on.set()
    first.join(30)
    assert not first.is_alive()
    assert slow.requests + quick_one.requests == 2 + proofs


def test_what_one_worker_finds_wrong_with_an_endpoint_is_not_asked_for_by_those_who_waited(
    opened: Open, clock: FakeClock
) -> None:
    embed(opened({"a": FakeEndpoint()}), clock)
    begun, goes_on, run_id = threading.Event(), threading.Event(), uuid4()

    def at_the_proof(number: int, texts: Sequence[str]) -> None:
        begun.set()
        assert goes_on.wait(30)

    changed, unasked = FakeEndpoint(plan=at_the_proof, weights="changed"), FakeEndpoint()

    def prove() -> None:
        with pytest.raises(Parked, match="lowest cosine"):
            embed(opened({"a": changed}, run_id=run_id), clock)

    first = threading.Thread(target=prove)

    def pause(duration_s: float) -> None:
        goes_on.set()
        first.join(30)
        clock.time_s += 1.0

    second = opened({"a": unasked}, run_id=run_id)
    first.start()
    assert begun.wait(30)
    with pytest.raises(Parked, match="lowest cosine"):
        second.embed(TEXTS, "document", 5, pause)
    assert not first.is_alive()
    assert (changed.requests, unasked.requests) == (1, 0)


def test_a_rate_limit_is_waited_for_as_long_as_it_says(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=fails_from(1, RateLimited("a: HTTP 429", 7.0), until=2))
    assert np.array_equal(embed(opened({"a": a}), clock), expected())
    assert sum(clock.waits) == pytest.approx(7, abs=0.1)


def test_rate_limits_do_not_use_up_attempts(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=fails_from(1, RateLimited("a: HTTP 429", 0.0), until=9))
    assert np.array_equal(embed(opened({"a": a}, configure=quick), clock), expected())


def test_a_fallback_that_is_free_is_quicker_than_waiting(opened: Open, clock: FakeClock) -> None:
    a, b = FakeEndpoint(plan=fails_from(1, RateLimited("a: HTTP 429", 30.0))), FakeEndpoint()
    embed(opened({"a": a, "b": b}), clock)
    assert b.texts
    assert not clock.waits


def test_a_storm_of_rate_limits_parks_in_the_end(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=fails_from(1, RateLimited("a: HTTP 429", None)))
    with pytest.raises(Parked, match="429"):
        embed(opened({"a": a}), clock)
    assert clock.time_s <= 60
    assert a.requests < 60


def test_a_wait_that_is_too_long_parks_at_once_and_says_until_when(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=fails_from(1, RateLimited("a: HTTP 429", 3600.0)))
    with pytest.raises(Parked) as parked:
        embed(opened({"a": a}), clock)
    assert parked.value.retry_after_s == pytest.approx(3600, abs=1)
    assert not clock.waits


@pytest.mark.parametrize(
    "error",
    [AccessRefused("a: HTTP 401"), OutOfCredit("a: no credit left"), QueryRefused("a: HTTP 418")],
)
def test_what_a_person_must_change_is_said_once_and_not_asked_again_for_a_while(
    opened: Open, clock: FakeClock, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    a, b = FakeEndpoint(plan=fails_from(2, error)), FakeEndpoint()
    router = opened({"a": a, "b": b})
    for number in range(20):
        embed(router, clock, [f"text {number}"])
    assert a.requests == 3
    assert [line for line in caplog.messages if str(error) in line] == [f"a is not asked for 300 s: {error}"]


def test_a_request_too_large_for_a_limit_is_halved_and_a_single_text_waits(
    opened: Open, clock: FakeClock
) -> None:
    class Small(NoAllowance):
        def reserve(self, estimate: Estimate) -> Reservation:
            if estimate.tokens > 200:
                raise LimitTooSmall("acme: 200 tokens an hour")
            return super().reserve(estimate)

    router = opened({"a": FakeEndpoint()}, allowance=Small())
    with pytest.raises(EngineFailed, match="200 tokens an hour"):
        router.embed(TEXTS, "document", 201, clock.pause)
    with pytest.raises(Parked, match="200 tokens an hour"):
        router.embed(TEXTS[:1], "document", 201, clock.pause)


def test_a_key_that_was_refused_is_read_again_before_the_next_request(
    database: Store, opened: Open, clock: FakeClock
) -> None:
    a = FakeEndpoint(plan=fails_from(1, AccessRefused("a: HTTP 401"), until=2))
    router = opened({"a": a})
    with pytest.raises(Parked, match="401"):
        embed(router, clock)
    clock.time_s += 301
    assert np.array_equal(embed(router, clock), expected())
    router.close()
    assert a.opened == 2
    assert a.closed == 2


def test_a_text_that_is_refused_closes_no_endpoint(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=lambda n, texts: InputRefused("a: HTTP 400") if "bad" in texts else None)
    router = opened({"a": a})
    for _ in range(10):
        with pytest.raises(InputRefused):
            embed(router, clock, ["bad"])
    assert np.array_equal(embed(router, clock), expected())


def test_texts_that_break_an_endpoint_which_answers_others_are_to_blame(
    opened: Open, clock: FakeClock
) -> None:
    a = FakeEndpoint(plan=lambda n, texts: BadAnswer("a: NaN") if "poison" in texts else None)
    router = opened({"a": a})
    for _ in range(5):
        with pytest.raises(EngineFailed, match="answers others"):
            embed(router, clock, ["poison", "sound"])
        assert np.array_equal(embed(router, clock), expected())


def test_an_outage_shorter_than_a_minute_is_waited_out(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=down_between(1, 25, clock))
    router = opened({"a": a})
    embed(router, clock)
    clock.time_s = 2
    assert np.array_equal(embed(router, clock), expected())
    assert a.requests < 12


def test_a_dead_endpoint_parks_at_once_after_a_while(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=fails_from(1, ProviderTimeout("a: no answer within 60 s")))
    router = opened({"a": a})
    for number in range(200):
        with pytest.raises(Parked):
            embed(router, clock, [f"text {number}"])
    assert a.requests < 20
    assert clock.time_s < 300


def test_two_workers_share_an_open_breaker(database: Store, opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=fails_from(2, ProviderUnavailable("a: HTTP 503")))
    first, second = opened({"a": a}, configure=quick), opened({"a": a}, configure=quick)
    embed(first, clock)
    for _ in range(3):
        with pytest.raises(Parked):
            embed(first, clock)
    asked = a.requests
    with pytest.raises(Parked, match="503"):
        embed(second, clock)
    assert a.requests == asked, "the second worker has learnt it from the first"


def test_one_worker_alone_tries_an_endpoint_whose_pause_is_over(opened: Open, clock: FakeClock) -> None:
    tried, go = threading.Event(), threading.Event()

    class Slow(FakeEndpoint):
        def embed(self, texts, purpose):  # type: ignore[no-untyped-def]
            if clock.time_s > 5000:
                tried.set()
                assert go.wait(20)
            return super().embed(texts, purpose)

    a = Slow(plan=fails_from(2, ProviderUnavailable("a: HTTP 503"), until=20))
    first, second = opened({"a": a}, configure=quick), opened({"a": a}, configure=quick)
    embed(first, clock)
    for _ in range(50):
        with pytest.raises(Parked):
            embed(first, clock)
        clock.time_s += 10
        if a.requests >= 20:
            break
        clock.time_s += 100
    clock.time_s = 6000
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(first.embed, TEXTS, "document", 5, clock.pause)
        assert tried.wait(20)
        asked = a.requests
        with pytest.raises(Parked):
            second.check("document", clock.pause)
        assert a.requests == asked
        go.set()
        assert np.array_equal(answer.result().vectors, expected())
    clock.time_s += 2
    second.check("document", clock.pause)


def test_a_limit_of_our_own_is_waited_for_and_a_used_up_budget_parks(opened: Open, clock: FakeClock) -> None:
    class Limited(NoAllowance):
        asked = 0

        def reserve(self, estimate: Estimate) -> Reservation:
            self.asked += 1
            if self.asked == 2:
                raise LimitReached("acme: 60 requests a minute", 4.0, "requests_per_minute")
            if self.asked > 3:
                raise BudgetUsedUp("acme has used up its budget of this month")
            return super().reserve(estimate)

    a = FakeEndpoint()
    router = opened({"a": a}, allowance=Limited())
    embed(router, clock)
    assert clock.waits == [4.0]
    with pytest.raises(Parked, match="budget"):
        embed(router, clock)
    with pytest.raises(Parked, match="budget"):
        router.check("document", clock.pause)
    assert a.requests == 2


def test_every_reservation_is_settled_at_what_was_billed_or_released(opened: Open, clock: FakeClock) -> None:
    faults = [
        RateLimited("a: 429", 1.0),
        ProviderUnavailable("a: 503", False),
        ProviderTimeout("a: late"),
        BadAnswer("a: NaN", 17),
    ]
    plan = dict(enumerate(faults, start=1))
    book = Book()
    embed(opened({"a": FakeEndpoint(plan=lambda n, texts: plan.get(n))}, allowance=book), clock)
    assert not book.held
    assert book.released == 2, "a 429 and a whole 503 bill nothing"
    tokens = tokens_of(TEXTS)
    assert [count for count, _ in book.settled[1:]] == [tokens, 17, tokens], (
        "the first are the known sentences"
    )
    assert book.settled[2][1] == Decimal("0.02") * 17 / 10**6


@pytest.mark.parametrize(("provider", "most"), [("openai", 6), ("voyage", 9 + 2 * 16)])
def test_what_is_reserved_is_the_most_that_may_be_billed_for_as_long_as_it_may_take(
    opened: Open, clock: FakeClock, provider: str, most: int
) -> None:
    """OpenAI counts as we do; others may bill half as much again, and words that they put before a text."""
    reserved: list[Estimate] = []

    class Noting(NoAllowance):
        def reserve(self, estimate: Estimate) -> Reservation:
            reserved.append(estimate)
            return super().reserve(estimate)

    def patient(name: str) -> Integration:
        return integration(name, provider=provider, performance=Performance(timeout_s=123))

    assert tokens_of(TEXTS) == 6
    embed(opened({"a": FakeEndpoint()}, allowance=Noting(), configure=patient), clock)
    usd = Decimal("0.02") * most / 10**6
    assert reserved[1] == Estimate("acme", provider, 1, most, usd, duration_s=123)


def test_eight_workers_keep_to_a_budget_though_the_provider_counts_more_tokens_than_we_do(
    database: Store, connection: psycopg.Connection, opened: Open, clock: FakeClock
) -> None:
    """All are under way together, with as much budget as their tokens take by our count."""
    texts = [[f"text {number} {'of some length ' * 30}"] for number in range(8)]
    budget = 8 * Decimal("0.02") * tokens_of(texts[0]) / 10**6
    together = threading.Barrier(8)

    def meet(number: int, texts: Sequence[str]) -> None:
        if texts[0].startswith("text"):
            with suppress(threading.BrokenBarrierError):
                together.wait(0.5)

    a, world = FakeEndpoint(plan=meet, bills=1.45), World("postgres", database, "", Clock(clock.now()))
    router = opened({"a": a}, configure=by_voyage, allowance=world.worker())
    router.check("document", clock.pause)
    before = a.tokens_billed
    rule(connection, Budget(client="acme", monthly_usd=budget))
    world.clock.pass_(RULES_KEPT_FOR)

    def worker(batch: Sequence[str]) -> None:
        with suppress(Parked):
            embed(router, clock, batch)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(worker, texts))
    world.close()
    spent = Decimal("0.02") * (a.tokens_billed - before) / 10**6
    assert budget / 3 < spent <= budget


def by_voyage(name: str) -> Integration:
    return integration(name, provider="voyage", performance=Performance(max_concurrency=8))


def test_tokens_that_a_provider_does_not_report_are_billed_as_counted_here(
    opened: Open, clock: FakeClock
) -> None:
    book, calls = Book(), list[ProviderCall]()
    silent = FakeEndpoint(says_tokens=False)
    embed(opened({"a": silent}, allowance=book, meter=calls.append), clock)
    tokens = tokens_of(TEXTS)
    assert book.settled[1] == (tokens, Decimal("0.02") * tokens / 10**6)
    assert (calls[-1].tokens_reported, calls[-1].usd) == (None, book.settled[1][1])


def test_a_key_that_is_gone_costs_nothing_and_is_no_endpoints_failure(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=fails_from(1, BadConfig("api_key: no such file")))
    book, calls = Book(), list[ProviderCall]()
    with pytest.raises(Parked, match="no such file"):
        embed(opened({"a": a}, allowance=book, meter=calls.append), clock)
    assert (calls[-1].error_type, calls[-1].usd, book.released) == ("BadConfig", 0, 1)


def test_the_ledger_has_a_row_for_each_request_with_the_endpoint_that_was_asked(
    database: Store, connection: psycopg.Connection, opened: Open, clock: FakeClock
) -> None:
    meter = ledger(database)
    a, b = FakeEndpoint(plan=fails_from(1, AccessRefused("a: 401"))), FakeEndpoint()
    embed(opened({"a": a, "b": b}, meter=meter), clock)
    meter.close()
    rows = connection.execute(
        "SELECT integration, operation, error_type, attempt, tokens_reported, cost_usd > 0 FROM ai_usage_tracking"
        " ORDER BY integration, error_type NULLS FIRST, operation"
    ).fetchall()
    canaries = b.tokens_billed - tokens_of(TEXTS)
    assert rows == [
        ("a", "embed_canaries", None, 1, canaries, True),
        ("a", "embed_documents", "AccessRefused", 1, None, False),
        ("b", "embed_canaries", None, 1, canaries, True),
        ("b", "embed_documents", None, 2, tokens_of(TEXTS), True),
    ]


def test_a_request_is_in_the_ledger_before_it_is_made_so_that_a_worker_may_die_in_its_middle(
    database: Store, connection: psycopg.Connection, opened: Open, clock: FakeClock
) -> None:
    written: list[tuple[object, ...]] = []

    def look(number: int, texts: Sequence[str]) -> None:
        query = "SELECT event_id, tokens, tokens_reported, cost_usd > 0 FROM ai_usage_tracking WHERE error_type = %s"
        written.extend(connection.execute(query, [UNFINISHED]).fetchall())

    meter = ledger(database)
    embed(opened({"a": FakeEndpoint(plan=look)}, meter=meter), clock)
    meter.close()
    ended = connection.execute(
        "SELECT event_id, error_type FROM ai_usage_tracking ORDER BY occurred_at"
    ).fetchall()
    assert [row[2:] for row in written] == [(None, True)] * 2, "the known sentences, then the texts"
    assert ended == [(row[0], None) for row in written]


@pytest.mark.parametrize("before", [True, False])
def test_a_call_that_cannot_be_written_down_gives_no_vectors(
    opened: Open, clock: FakeClock, before: bool
) -> None:
    def broken(call: ProviderCall) -> None:
        if before or call.error_type != UNFINISHED:
            raise RuntimeError("the ledger is gone")

    a, book = FakeEndpoint(), Book()
    with pytest.raises(RuntimeError, match="ledger"):
        embed(opened({"a": a}, meter=broken, allowance=book), clock)
    assert a.requests == (0 if before else 1)
    assert len(book.held) == (0 if before else 1), "what may be billed stays reserved"


def test_a_discarded_batch_ends_in_the_middle_of_a_wait(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=fails_from(1, RateLimited("a: 429", 5.0)))

    def stop(duration_s: float) -> None:
        raise Discarded

    with pytest.raises(Discarded):
        opened({"a": a}).embed(TEXTS, "document", 5, stop)


def test_eight_threads_are_answered_each_with_its_own(opened: Open, clock: FakeClock) -> None:
    a = FakeEndpoint(plan=lambda n, texts: ProviderUnavailable("a: 500", False) if n % 7 == 3 else None)
    b = FakeEndpoint()
    router = opened({"a": a, "b": b})
    batches = [[f"text {number} {row}" for row in range(4)] for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda texts: embed(router, clock, texts), batches))
    for texts, vectors in zip(batches, answers, strict=True):
        assert np.array_equal(vectors, expected(texts))
    assert set((a.texts + b.texts).values()) == {1}

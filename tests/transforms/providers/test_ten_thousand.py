"""Ten thousand texts through every fault of a provider, over real HTTP and with the real ledger.

All are embedded, in order and in one space, or parked; and the ledger is what the far end counted, to the last
request and the last token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pytest

from schemas.errors import Parked
from schemas.integrations import Integration, Limits, Performance
from schemas.spaces import EmbeddingSpace
from tests.fakes import embedding_provider as fakes
from tests.fakes.embedding_provider import DIMENSIONS, MODEL, FakeProvider, Plan, vector_of, words
from tests.fakes.other_providers import KEY
from tests.fakes.serving import Fault, Stage, serve
from tests.transforms.allowance.world import NoAllowance
from transforms.embedders.batching import EmbedResult, embed_all
from transforms.postgres import Store
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits
from transforms.providers.engine import RemoteEngine
from transforms.providers.inputs import TextInput
from transforms.providers.metering import Account, LedgerMeter
from transforms.providers.opening import open_provider
from transforms.routing.breaker import EndpointBreaker, SharedStates
from transforms.routing.canaries import SENTENCES
from transforms.routing.chain import Chain
from transforms.routing.endpoint import Endpoint
from transforms.routing.gate import Gate
from transforms.routing.requests import Requests
from transforms.routing.router import Router
from transforms.routing.session import SharedSession

pytestmark = pytest.mark.slow  # all faults together

TEXTS = [f"text {number} {'of some length ' * (number % 3)}".strip() for number in range(10_000)]
SPACE = EmbeddingSpace(MODEL, "0" * 64, "exact", "remote", True, DIMENSIONS, 64)
HASTE = 100.0
"""Waits take this part of their time: the router's clock and its pauses are as much faster."""
TIMEOUT_S = 1.0


def hasty_s() -> float:
    return time.monotonic() * HASTE


class HastyRouter:
    """A router whose waits are over sooner."""

    def __init__(self, router: Router) -> None:
        self._router = router

    @property
    def info(self) -> ModelInfo:
        return self._router.info

    @property
    def limits(self) -> RequestLimits:
        return self._router.limits

    @property
    def streams(self) -> int:
        return self._router.streams

    def embed(
        self, texts: Sequence[str], purpose: Purpose, tokens: int, pause: Callable[[float], None]
    ) -> Reply:
        return self._router.embed(texts, purpose, tokens, lambda duration_s: pause(duration_s / HASTE))

    def check(self, purpose: Purpose, pause: Callable[[float], None]) -> None:
        self._router.check(purpose, lambda duration_s: pause(duration_s / HASTE))


def integration(name: str, url: str, fallback: str | None = None) -> Integration:
    return Integration(
        name=name,
        provider="openai",
        model=MODEL,
        url=f"{url}/v1",
        api_key="env:FAKE_KEY",
        price_usd_per_million_tokens=Decimal("0.02"),
        price_as_of=date(2026, 11, 21),
        limits=Limits(max_inputs=100),
        performance=Performance(timeout_s=TIMEOUT_S, max_concurrency=4),
        fallback=fallback,
    )


@pytest.fixture
def opened(database: Store) -> Iterator[Callable[..., RemoteEngine]]:
    """Opens an engine over a chain of endpoints; what it asks is in the ledger of this test's database."""
    with ExitStack() as resources:

        def open_engine(*chain: Integration) -> RemoteEngine:
            session = SharedSession(database)
            states = SharedStates(session, lambda: datetime.fromtimestamp(hasty_s(), UTC), hasty_s)

            def build(found: Integration) -> Endpoint:
                return Endpoint(
                    found,
                    lambda one: open_provider(one, DIMENSIONS),
                    EndpointBreaker(states, found.name),
                    Gate(found.performance.max_concurrency, hasty_s),
                )

            meter = LedgerMeter(database, Account("acme", None, SPACE.space_id, "tickets"))
            resources.callback(meter.close)
            requests = Requests("acme", NoAllowance(), meter, lambda: datetime.now(UTC), hasty_s)
            router = Router(SPACE.space_id, Chain(lambda: chain, build), requests, session)
            resources.callback(router.close)
            return RemoteEngine(SPACE, HastyRouter(router), "document")

        yield open_engine


@pytest.fixture
def fake(stage: tuple[Stage, str]) -> FakeProvider:
    fake = FakeProvider(key=KEY)
    stage[0].app = fake
    return fake


INPUTS = [TextInput(text, words(text)) for text in TEXTS]


def embed_until_done(engine: RemoteEngine, inputs: Sequence[TextInput], times: int = 60) -> EmbedResult:
    """As a run does and those after it: what was parked is tried again."""
    result = embed_all(engine, inputs)
    for _ in range(times):
        if not result.failed:
            break
        assert {type(error) for error in result.failed.values()} == {Parked}
        rows = sorted(result.failed)
        waits = [error.retry_after_s or 30 for error in result.failed.values() if isinstance(error, Parked)]
        time.sleep(min(waits) / HASTE)
        again = embed_all(engine, [inputs[row] for row in rows])
        result.vectors[rows] = again.vectors
        failed = {rows[row]: error for row, error in again.failed.items()}
        result = EmbedResult(result.vectors, failed, result.log + again.log)
    return result


def settled(fake: FakeProvider) -> None:
    """Wait until the far end has finished what nobody waited for."""
    until_s = time.monotonic() + 10
    while fake.at_once and time.monotonic() < until_s:
        time.sleep(0.01)
    assert fake.at_once == 0


def sum_of(store: Store, what: str, where: str = "true") -> Decimal:
    with store.connect() as connection:
        row = connection.execute(
            f"SELECT coalesce(sum({what}), 0)::numeric FROM ai_usage_tracking WHERE {where}"
        ).fetchone()
    assert row is not None
    return Decimal(row[0])


CANARY_TOKENS = sum(map(words, SENTENCES))
OURS = f"CASE operation WHEN 'embed_canaries' THEN {CANARY_TOKENS} ELSE tokens END"
"""Canaries are reserved at a round estimate."""


def assert_the_ledger_is_true(store: Store, fake: FakeProvider, may_be_more: bool = False) -> None:
    """Requests and tokens asked for to the last one; tokens billed too, or more where nobody can know."""
    settled(fake)
    assert sum_of(store, "1") == fake.requests
    assert sum_of(store, OURS) == fake.tokens_asked
    billed = sum_of(store, f"coalesce(tokens_reported, {OURS})", "cost_usd > 0")
    assert billed == fake.tokens_billed or (may_be_more and billed > fake.tokens_billed)
    if not may_be_more and not sum_of(store, "1", "operation = 'embed_canaries' AND tokens_reported IS NULL"):
        price = integration("main", "http://localhost").price_usd_per_million_tokens
        assert price is not None
        assert sum_of(store, "cost_usd") == price * fake.tokens_billed / 1_000_000


def some(fault: Fault) -> Plan:
    """Every third request from the second on."""
    return lambda number: fault if number % 3 == 1 else None


FAULTS: dict[str, Plan] = {
    "none": lambda number: None,
    "a storm of 429 that say how long": some(fakes.rate_limited(2)),
    "a storm of 429 that do not": some(fakes.rate_limited()),
    "a storm of 429 at the beginning": fakes.first(12, fakes.rate_limited(1)),
    "500": some(fakes.broken()),
    "503 for a while": lambda number: fakes.broken(503) if 20 <= number < 36 else None,
    "slow": some(fakes.late(0.1)),
    "half answers": some(fakes.half()),
    "one vector too few": some(fakes.fewer()),
    "another order": some(fakes.shuffled()),
    "two of one number": some(fakes.misnumbered()),
    "another dimension": some(fakes.wrong_dimension()),
    "not a number": some(fakes.not_a_number()),
    "dropped after computing": some(fakes.dropped(after_computing=True)),
}
NOBODY_KNOWS: dict[str, Plan] = {
    "dropped before computing": some(fakes.dropped()),
    "too slow": lambda number: fakes.late(TIMEOUT_S + 0.3) if number % 25 == 1 else None,
}


@pytest.mark.parametrize("name", [*FAULTS, *NOBODY_KNOWS])
def test_ten_thousand_texts_are_embedded_in_order_and_every_request_is_in_the_ledger(
    opened: Callable[..., RemoteEngine],
    database: Store,
    stage: tuple[Stage, str],
    fake: FakeProvider,
    name: str,
) -> None:
    fake.plan = (FAULTS | NOBODY_KNOWS)[name]
    result = embed_until_done(opened(integration("main", stage[1])), INPUTS)
    assert result.failed == {}
    np.testing.assert_allclose(result.vectors, [vector_of(text) for text in TEXTS], atol=1e-6)
    assert_the_ledger_is_true(database, fake, may_be_more=name in NOBODY_KNOWS)
    # Four are allowed; each may go on at the far end after it was given up here.
    assert fake.most_at_once <= (8 if name == "too slow" else 5)


def test_texts_that_are_refused_are_found_one_by_one(
    opened: Callable[..., RemoteEngine], database: Store, stage: tuple[Stage, str], fake: FakeProvider
) -> None:
    bad = {17, 4242, 4243, 9999}
    texts = [f"{text} {fakes.MARK}" if row in bad else text for row, text in enumerate(TEXTS)]
    result = embed_all(
        opened(integration("main", stage[1])), [TextInput(text, words(text)) for text in texts]
    )
    assert set(result.failed) == bad
    good = [row for row in range(len(TEXTS)) if row not in bad]
    expected = np.array([vector_of(text) for text in TEXTS])
    np.testing.assert_allclose(result.vectors[good], expected[good], atol=1e-6)
    assert_the_ledger_is_true(database, fake)


def test_where_only_other_weights_are_left_everything_is_parked_and_nothing_mixed(
    opened: Callable[..., RemoteEngine], database: Store, stage: tuple[Stage, str], fake: FakeProvider
) -> None:
    other = FakeProvider(key=KEY, weights="of-another-training")
    with serve(other) as other_url:
        engine = opened(integration("main", stage[1], "spare"), integration("spare", other_url))
        begun = embed_all(engine, INPUTS[:500])
        assert begun.failed == {}
        fake.plan = fakes.always(fakes.broken(503))
        down = embed_all(engine, INPUTS[500:])
        assert set(down.failed) == set(range(9500))
        assert {type(error) for error in down.failed.values()} == {Parked}
        assert set(other.texts) <= set(SENTENCES), "it was asked for known sentences alone"
        fake.plan = lambda number: None
        resumed = embed_until_done(engine, INPUTS[500:])
    assert resumed.failed == {}
    np.testing.assert_allclose(
        np.concatenate([begun.vectors, resumed.vectors]), [vector_of(text) for text in TEXTS], atol=1e-6
    )
    settled(fake)
    assert sum_of(database, "1") == fake.requests + other.requests
    assert sum_of(database, "tokens_reported") == fake.tokens_billed + other.tokens_billed


def test_without_credit_all_is_parked_and_nothing_is_billed(
    opened: Callable[..., RemoteEngine], database: Store, stage: tuple[Stage, str], fake: FakeProvider
) -> None:
    fake.plan = fakes.always(fakes.out_of_credit())
    result = embed_all(opened(integration("main", stage[1])), INPUTS)
    assert len(result.failed) == len(TEXTS)
    assert fake.requests < 20, "who has nothing left to pay with is not asked for each batch"
    assert_the_ledger_is_true(database, fake)
    assert sum_of(database, "cost_usd") == 0

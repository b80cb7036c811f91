"""Endpoints within the process, whose answers and failures a test decides, and a clock that nobody waits for."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import numpy as np

from schemas.integrations import Integration, Performance
from schemas.spaces import EmbeddingSpace
from schemas.usage import Price
from tests.fakes.embedding_provider import vector_of
from tests.transforms.allowance.world import NoAllowance
from transforms.allowance.base import Allowance
from transforms.postgres import Store
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits
from transforms.providers.metering import Account, LedgerMeter, Meter
from transforms.routing.breaker import EndpointBreaker, SharedStates
from transforms.routing.canaries import SENTENCES
from transforms.routing.chain import Chain
from transforms.routing.endpoint import Endpoint
from transforms.routing.gate import Gate
from transforms.routing.requests import Requests
from transforms.routing.router import Router
from transforms.routing.session import SharedSession

WEIGHTS = "fake-embed"
DIMENSIONS = 16
SPACE = EmbeddingSpace(WEIGHTS, "0" * 64, "exact", "mean", True, DIMENSIONS, 512)
PRICE = Price(Decimal("0.02"), date(2026, 11, 1), "a test")
INFO = ModelInfo("openai", WEIGHTS, DIMENSIONS, False, RequestLimits(100, 10_000, 512), PRICE)


Open = Callable[..., Router]


@dataclass
class FakeClock:
    """Moves on when somebody waits."""

    time_s: float = 0.0
    waits: list[float] = field(default_factory=list)

    def now(self) -> datetime:
        return datetime(2026, 11, 21, tzinfo=UTC) + timedelta(seconds=self.time_s)

    def monotonic_s(self) -> float:
        return self.time_s

    def pause(self, duration_s: float) -> None:
        self.waits.append(duration_s)
        self.time_s += duration_s


@dataclass
class FakeEndpoint:
    """A provider.

    Args:
        plan: gives the failure that its n-th request meets, from 0.
        bills: tokens for one of ours.
        says_tokens: what it billed.
    """

    weights: str = WEIGHTS
    plan: Callable[[int, Sequence[str]], Exception | None] = lambda number, texts: None
    requests: int = 0
    tokens_billed: int = 0
    texts: Counter[str] = field(default_factory=Counter)
    opened: int = 0
    closed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    info: ModelInfo = INFO
    bills: float = 1.0
    says_tokens: bool = True

    def embed(self, texts: Sequence[str], purpose: Purpose) -> Reply:
        with self.lock:
            number, self.requests = self.requests, self.requests + 1
            error = self.plan(number, texts)
            if error is None:
                self.tokens_billed += self._billed(texts)
                self.texts.update(text for text in texts if text not in SENTENCES)
        if error is not None:
            raise error
        vectors = np.array([vector_of(text, DIMENSIONS, self.weights) for text in texts])
        return Reply(vectors, self._billed(texts) if self.says_tokens else None, f"req-{number}")

    def _billed(self, texts: Sequence[str]) -> int:
        return math.ceil(self.bills * tokens_of(texts))

    def validate_credentials(self) -> None: ...

    def available_models(self) -> tuple[str, ...]:
        return (WEIGHTS,)

    def model_info(self, model: str) -> ModelInfo:
        return self.info

    def close(self) -> None:
        self.closed += 1


def tokens_of(texts: Sequence[str]) -> int:
    """As the fakes bill them."""
    return sum(len(text.split()) for text in texts)


def integration(name: str, **settings: object) -> Integration:
    """An integration of the space of these tests."""
    given = {"provider": "openai", "model": WEIGHTS, "api_key": "env:NO_KEY", "dimensions": DIMENSIONS}
    return Integration.model_validate({"name": name, **given, **settings})


def quick(name: str) -> Integration:
    """One that is given up after two requests."""
    return integration(name, performance=Performance(max_attempts=2))


def router_over(
    store: Store,
    endpoints: dict[str, FakeEndpoint],
    clock: FakeClock,
    allowance: Allowance | None = None,
    meter: Meter | None = None,
    configure: Callable[[str], Integration] = integration,
    run_id: UUID | None = None,
) -> Router:
    """A worker's router over endpoints in this order, on a fake clock."""
    session = SharedSession(store)
    states = SharedStates(session, clock.now, clock.monotonic_s)

    def open_provider(wanted: Integration) -> FakeEndpoint:
        endpoints[wanted.name].opened += 1
        return endpoints[wanted.name]

    def build(found: Integration) -> Endpoint:
        return Endpoint(
            found,
            open_provider,
            EndpointBreaker(states, found.name),
            Gate(found.performance.max_concurrency, clock.monotonic_s),
        )

    integrations = tuple(configure(name) for name in endpoints)
    requests = Requests(
        "acme", allowance or NoAllowance(), meter or (lambda call: None), clock.now, clock.monotonic_s
    )
    return Router(SPACE.space_id, Chain(lambda: integrations, build), requests, session, run_id)


def ledger(store: Store) -> LedgerMeter:
    """Writes to the real ledger."""
    return LedgerMeter(store, Account("acme", None, SPACE.space_id))

"""Whatever goes wrong in whatever order: each text is embedded once or waits, in its own space, and paid for once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import count

import numpy as np
import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import (
    AccessRefused,
    BadAnswer,
    BadConfig,
    EngineFailed,
    OutOfCredit,
    Parked,
    ProviderTimeout,
    ProviderUnavailable,
    QueryRefused,
    RateLimited,
)
from schemas.usage import UNFINISHED
from tests.fakes.embedding_provider import vector_of
from tests.transforms.routing.world import (
    DIMENSIONS,
    WEIGHTS,
    FakeClock,
    FakeEndpoint,
    router_over,
    tokens_of,
)
from transforms.postgres import Store
from transforms.providers.metering import ProviderCall
from transforms.routing.canaries import SENTENCES

FAULTS: dict[str, Callable[[], Exception]] = {
    "429": lambda: RateLimited("HTTP 429", None),
    "429 for 5 s": lambda: RateLimited("HTTP 429", 5.0),
    "429 for an hour": lambda: RateLimited("HTTP 429", 3600.0),
    "503": lambda: ProviderUnavailable("HTTP 503", False),
    "dropped": lambda: ProviderUnavailable("the connection broke", True),
    "late": lambda: ProviderTimeout("no answer"),
    "nan": lambda: BadAnswer("NaN", None),
    "wrong order": lambda: BadAnswer("order", 7),
    "401": lambda: AccessRefused("HTTP 401"),
    "no credit": lambda: OutOfCredit("no credit"),
    "418": lambda: QueryRefused("HTTP 418"),
    "no key": lambda: BadConfig("api_key: no such file"),
}
BATCHES = [[f"text {number} row {row}" for row in range(3)] for number in range(10)]

schedules = st.lists(st.sampled_from([*FAULTS, *["sound"] * 8]), max_size=60)
_names = count()


def faulty(schedule: Sequence[str]) -> Callable[[int, Sequence[str]], Exception | None]:
    def plan(number: int, texts: Sequence[str]) -> Exception | None:
        kind = schedule[number] if number < len(schedule) else "sound"
        return None if kind == "sound" else FAULTS[kind]()

    return plan


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schedules, schedules, st.booleans(), st.integers(0, 600))
def test_every_text_is_embedded_once_or_waits_and_the_ledger_is_the_fakes_own_count(
    database: Store,
    connection: psycopg.Connection,
    first: Sequence[str],
    second: Sequence[str],
    with_other: bool,
    between_s: int,
) -> None:
    connection.execute("DELETE FROM space_canaries")
    clock, begun, calls = FakeClock(), list[ProviderCall](), list[ProviderCall]()

    def meter(call: ProviderCall) -> None:
        (begun if call.error_type == UNFINISHED else calls).append(call)

    number = next(_names)
    a, b = FakeEndpoint(plan=faulty(first)), FakeEndpoint(plan=faulty(second))
    other = FakeEndpoint(weights="others-of-the-same-dimension")
    endpoints = {f"a{number}": a, f"b{number}": b} | ({f"other{number}": other} if with_other else {})
    waiting, answered = list(BATCHES), Counter[str]()
    with closing(router_over(database, endpoints, clock, meter=meter)) as router:
        for _ in range(100):
            if not waiting:
                break
            batches, waiting = waiting, []
            for texts in batches:
                try:
                    vectors = router.embed(texts, "document", tokens_of(texts), clock.pause).vectors
                except (Parked, EngineFailed):
                    waiting.append(texts)
                    continue
                assert np.array_equal(vectors, [vector_of(text, DIMENSIONS, WEIGHTS) for text in texts])
                answered.update(texts)
                clock.time_s += between_s
            clock.time_s += 4000
    assert not waiting, "what is parked gets through once an endpoint is well"
    assert answered == Counter(text for texts in BATCHES for text in texts)
    assert a.texts + b.texts == answered, "nothing was embedded twice"
    assert not other.texts
    fakes = (a, b, other)
    assert len(calls) == sum(fake.requests for fake in fakes)
    assert [call.call_id for call in begun] == [call.call_id for call in calls]
    assert len({call.call_id for call in calls}) == len(calls)
    good = [call for call in calls if call.error_type is None]
    assert sum(call.tokens_reported or 0 for call in good) == sum(fake.tokens_billed for fake in fakes)
    free = {"RateLimited", "AccessRefused", "OutOfCredit", "QueryRefused", "BadConfig"}
    assert all(call.usd == 0 for call in calls if call.error_type in free)
    assert all(call.usd > 0 for call in calls if call.error_type in {"ProviderTimeout", "BadAnswer"})
    assert all(call.inputs == len(SENTENCES) for call in calls if call.operation == "embed_canaries")

"""What no endpoint embeds is parked and comes back by itself; nothing is lost, mixed or paid for twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date
from decimal import Decimal

import numpy as np
import pytest
from psycopg import sql
from rich.console import Console

from pipelines.report import read_status
from runners.progress_bar import run_progress
from runners.run import RunSummary, run
from runners.watch import watch
from schemas.allowances import AllowanceSettings, Budget
from schemas.config import Cache, Chunking, Config, Model
from schemas.integrations import Integration, Limits, Performance
from tests.fakes.embedding_provider import (
    DIMENSIONS,
    KEY,
    MODEL,
    FakeProvider,
    broken,
    vector_of,
)
from tests.fakes.serving import Stage, serve
from tests.runners.memory_source import MemorySource, building, configured
from transforms.dead_letters import count_parked
from transforms.embedders.models import space_of
from transforms.postgres import Store
from transforms.providers.inputs import RemoteWords
from transforms.spaces import chunk_table

KEY_VARIABLE = "HEADRACE_TEST_PROVIDER_KEY"


@pytest.fixture(scope="module")
def stages() -> Iterator[list[tuple[Stage, str]]]:
    with ExitStack() as stack:
        stages = [Stage(), Stage()]
        yield [(stage, stack.enter_context(serve(stage))) for stage in stages]


@pytest.fixture
def fakes(stages: list[tuple[Stage, str]]) -> list[FakeProvider]:
    """Two providers of the same weights."""
    words = RemoteWords()
    fakes = [FakeProvider(count=words.count), FakeProvider(count=words.count)]
    for (stage, _), fake in zip(stages, fakes, strict=True):
        stage.app = fake
    return fakes


@pytest.fixture
def remote(
    make_config: Callable[..., Config], stages: list[tuple[Stage, str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Config]:
    """A configuration whose model is behind the first fake, with the second as its fallback if so wished."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)

    def integration(name: str, url: str, fallback: str | None) -> Integration:
        return Integration(
            name=name,
            provider="gateway",
            model=MODEL,
            url=f"{url}/v1",
            api_key=f"env:{KEY_VARIABLE}",
            price_usd_per_million_tokens=Decimal("0.02"),
            price_as_of=date(2026, 11, 21),
            limits=Limits(max_inputs=8),
            performance=Performance(max_attempts=2, max_concurrency=2),
            fallback=fallback,
        )

    def make(with_fallback: bool = False, **changes: object) -> Config:
        (_, first), (_, second) = stages
        main = integration("main", first, "spare" if with_fallback else None)
        given: dict[str, object] = {
            "model": Model(integration="main", name=MODEL, dimensions=DIMENSIONS, max_tokens=64),
            "integrations": (main, integration("spare", second, None)),
            "chunking": Chunking(max_tokens=64),
            "cache": Cache(kind="none"),
            "sources": (configured(poll_interval_s=0.2),),
        }
        return make_config().model_copy(update={**given, **changes})

    return make


def filled(documents: int) -> MemorySource:
    source = MemorySource()
    for number in range(documents):
        source.put(str(number), f"gate {number} jams in frost")
    return source


def ingest(config: Config, source: MemorySource) -> RunSummary:
    with run_progress(Console(quiet=True), visible=False) as bar:
        return run(config, bar, build=building(source))


def vectors(store: Store, config: Config) -> dict[str, np.ndarray]:
    query = sql.SQL("SELECT text, embedding FROM {}").format(chunk_table(space_of(config.model).space_id))
    with store.connect() as connection:
        return dict(connection.execute(query).fetchall())


def let_it_be_tried(store: Store) -> None:
    """Time passes for a breaker."""
    with store.connect() as connection:
        connection.execute("UPDATE endpoint_states SET retry_at = now() - interval '1 s'")


def once_each(*fakes: FakeProvider) -> bool:
    asked = sum((fake.texts for fake in fakes), start=type(fakes[0].texts)())
    return all(times == 1 for text, times in asked.items() if text.startswith("#") or "frost" in text)


def test_what_is_parked_is_embedded_by_the_next_run_though_the_source_gives_it_no_more(
    remote: Callable[..., Config], fakes: list[FakeProvider], database: Store
) -> None:
    config, source = remote(), filled(25)
    fakes[0].key = "another"
    summary = ingest(config, source)
    assert summary.ok
    assert summary.totals["dead_lettered"] == 25
    ((reason, number),) = summary.parked.items()
    assert (number, "main" in reason, "401" in reason) == (25, True, True)
    assert fakes[0].requests == 1, "a key that is refused is refused once"
    status = read_status(config, "acme")
    assert status["parked"] == [{"documents": 25, "because": reason}]
    (main, _) = status["endpoints"]
    assert (main["integration"], main["state"], main["success"]) == ("main", "open", 0.0)

    source.items = dict(list(source.items.items())[:1])  # nothing but what was parked comes
    assert ingest(config, source).parked == {reason: 25}, "it is not asked before its time"
    assert fakes[0].requests == 1

    fakes[0].key = KEY
    let_it_be_tried(database)
    summary = ingest(config, source)
    assert not summary.parked
    stored = vectors(database, config)
    assert len(stored) == 25
    assert all(np.allclose(vector, vector_of(text), atol=1e-6) for text, vector in stored.items())
    assert once_each(fakes[0])
    status = read_status(config, "acme")
    assert "parked" not in status
    assert status["open_dead_letters"] == 0
    (main, _) = status["endpoints"]
    assert main["state"] == "closed"
    assert 0 < main["p50_s"] <= main["p95_s"], "of the requests that were answered"


def test_a_fallback_of_the_same_space_takes_over_when_the_primary_dies_in_mid_run(
    remote: Callable[..., Config], fakes: list[FakeProvider], database: Store
) -> None:
    fakes[0].plan = lambda number: broken(503) if number >= 2 else None
    config = remote(with_fallback=True)
    summary = ingest(config, filled(40))
    assert summary.totals["new"] == 40
    assert fakes[1].requests > 2
    stored = vectors(database, config)
    assert len(stored) == 40
    assert all(np.allclose(vector, vector_of(text), atol=1e-6) for text, vector in stored.items())


def test_a_fallback_of_other_weights_is_refused_and_work_waits_for_the_primary(
    remote: Callable[..., Config], fakes: list[FakeProvider], database: Store
) -> None:
    config, source = remote(with_fallback=True), filled(3)
    assert ingest(config, source).totals["new"] == 3
    fakes[1].weights = "others-of-the-same-dimension"
    fakes[0].key = "another"
    for number in range(3, 20):
        source.put(str(number), f"gate {number} jams in frost")
    summary = ingest(config, source)
    assert sum(summary.parked.values()) == 17
    assert "spare does not give the vectors of this space" in next(iter(summary.parked))
    assert not any("frost" in text for text in fakes[1].texts)
    fakes[0].key = KEY
    let_it_be_tried(database)
    assert not ingest(config, source).parked
    stored = vectors(database, config)
    assert len(stored) == 20
    assert all(np.allclose(vector, vector_of(text), atol=1e-6) for text, vector in stored.items())


def test_a_watcher_takes_parked_documents_up_again_without_being_told(
    remote: Callable[..., Config], fakes: list[FakeProvider], database: Store
) -> None:
    config, source = remote(), filled(5)
    fakes[0].key = "another"
    ingest(config, source)
    with database.connect() as connection:
        assert sum(count_parked(connection, "acme").values()) == 5
    said: list[str] = []
    follow = threading.Thread(
        target=watch, args=[config, said.append], kwargs={"duration_s": 12, "build": building(source)}
    )
    follow.start()
    fakes[0].key = KEY
    let_it_be_tried(database)
    follow.join(60)
    assert not follow.is_alive()
    assert len(vectors(database, config)) == 5
    with database.connect() as connection:
        assert count_parked(connection, "acme") == {}
    assert any("5 new" in line for line in said), said


def test_a_used_up_budget_parks_and_a_larger_one_lets_it_through(
    remote: Callable[..., Config], fakes: list[FakeProvider], database: Store
) -> None:
    def budget(usd: str) -> AllowanceSettings:
        return AllowanceSettings(budgets=(Budget(monthly_usd=Decimal(usd)),))

    source = filled(30)
    summary = ingest(remote(allowance=budget("0.000004")), source)
    assert 0 < sum(summary.parked.values()) <= 30
    assert any("budget" in reason for reason in summary.parked)
    assert fakes[0].usd_billed <= 0.000004
    done = ingest(remote(allowance=budget("1")), source)
    assert not done.parked
    assert len(vectors(database, remote())) == 30
    assert once_each(fakes[0])

"""Runs, searches and plans whose model is somebody else's, through the whole pipeline."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from psycopg import sql
from rich.console import Console

from pipelines.plan import make_plan
from pipelines.search import Hit, Mode, search
from runners.display import dollars
from runners.display_plan import print_plan
from schemas.allowances import AllowanceSettings, Budget
from schemas.config import Chunking, Config, Model, Privacy
from schemas.errors import BadConfig, Parked
from schemas.integrations import Integration, Limits
from tests.fakes.embedding_provider import (
    DIMENSIONS,
    KEY,
    MARK,
    MODEL,
    FakeProvider,
    always,
    broken,
    fewer,
    rate_limited,
    vector_of,
)
from tests.fakes.redis_server import free_port, running_redis
from tests.fakes.serving import Stage, answer, serve
from tests.runners.world import issue, run_quietly, write_export
from transforms.embedders.models import space_of
from transforms.postgres import Store
from transforms.providers.inputs import RemoteWords
from transforms.spaces import chunk_table

MakeConfig = Callable[..., Config]

KEY_VARIABLE = "HEADRACE_TEST_PROVIDER_KEY"
PRICE = Decimal("0.02")


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[Stage, str]]:
    stage = Stage()
    with serve(stage) as url:
        yield stage, url


@pytest.fixture
def fake(stage: tuple[Stage, str]) -> FakeProvider:
    """One that counts as we do, since OpenAI does."""
    words = RemoteWords()
    fake = FakeProvider(count=words.count)
    stage[0].app = fake
    return fake


@pytest.fixture
def remote(make_config: MakeConfig, stage: tuple[Stage, str], monkeypatch: pytest.MonkeyPatch) -> MakeConfig:
    """Makes a configuration whose model is behind the fake."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)

    def make(*paths: Path) -> Config:
        integration = Integration(
            name="main",
            provider="gateway",
            model=MODEL,
            url=f"{stage[1]}/v1",
            api_key=f"env:{KEY_VARIABLE}",
            price_usd_per_million_tokens=PRICE,
            price_as_of=date(2026, 11, 21),
            limits=Limits(max_inputs=8),
        )
        model = Model(integration="main", name=MODEL, dimensions=DIMENSIONS, max_tokens=64)
        changes = {"model": model, "integrations": (integration,), "chunking": Chunking(max_tokens=64)}
        return make_config(*paths).model_copy(update=changes)

    return make


Row = tuple[str, str, str | None, int, int | None, Decimal, str | None]


def ledger(store: Store) -> list[Row]:
    with store.connect() as connection:
        return connection.execute(
            "SELECT operation, source, integration, tokens, tokens_reported, cost_usd, error_type"
            " FROM ai_usage_tracking WHERE input_count > 0 ORDER BY occurred_at"
        ).fetchall()


def test_a_run_stores_the_vectors_of_the_provider_and_a_row_for_each_request(
    remote: MakeConfig, fake: FakeProvider, database: Store, tmp_path: Path
) -> None:
    config = remote(write_export(tmp_path / "jira.jsonl", map(issue, range(20))))
    summary = run_quietly(config)
    assert summary.totals["new"] == 20
    with database.connect() as connection:
        query = sql.SQL("SELECT text, embedding FROM {}").format(chunk_table(space_of(config.model).space_id))
        stored = connection.execute(query).fetchall()
    assert len(stored) > 20
    for text, vector in stored:
        np.testing.assert_allclose(vector, vector_of(text), atol=1e-6)
    rows = ledger(database)
    documents = [row for row in rows if row[0] == "embed_documents"]
    assert len(rows) == fake.requests
    assert {row[:3] for row in documents} == {("embed_documents", "tickets", "main")}
    assert all(row[3] == row[4] for row in documents), "tokens are counted as they are billed"
    assert sum(row[4] or 0 for row in rows) == fake.tokens_billed
    assert sum(row[5] for row in rows) == PRICE * fake.tokens_billed / 1_000_000
    assert summary.usage.failed_calls == 0
    before = fake.requests
    assert run_quietly(config).totals["unchanged"] == 20
    assert fake.requests == before, "what is stored is not asked for again"


def test_the_ledger_is_the_providers_own_count_whatever_goes_wrong(
    remote: MakeConfig, fake: FakeProvider, database: Store, tmp_path: Path
) -> None:
    config = remote(write_export(tmp_path / "jira.jsonl", map(issue, range(30))))
    faults = [broken(), fewer(), rate_limited(0)]
    fake.plan = lambda number: faults[number // 2 % 3] if number % 2 else None
    summary = run_quietly(config)
    assert summary.totals["new"] == 30
    rows = ledger(database)
    assert len(rows) == fake.requests
    assert {row[6] for row in rows} == {None, "ProviderUnavailable", "BadAnswer", "RateLimited"}
    assert sum(row[4] or 0 for row in rows) == fake.tokens_billed
    assert sum(row[5] for row in rows) == PRICE * fake.tokens_billed / 1_000_000


def test_a_text_that_the_provider_refuses_costs_its_own_document_alone(
    remote: MakeConfig, fake: FakeProvider, database: Store, tmp_path: Path
) -> None:
    bad = issue(7)
    bad["fields"]["description"] = f"this {MARK} is refused"
    issues = [*(issue(number) for number in range(7)), bad, *(issue(number) for number in range(8, 15))]
    summary = run_quietly(remote(write_export(tmp_path / "jira.jsonl", issues)))
    assert (summary.totals["new"], summary.totals["dead_lettered"]) == (14, 1)
    with database.connect() as connection:
        letters = connection.execute("SELECT native_id, error_type, retriable FROM dead_letters").fetchall()
    assert letters == [("10007", "InputRefused", False)]


SECRET = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
EMAIL = "ada.weir@millpond-works.com"


def leaky() -> dict[str, object]:
    one = issue(3)
    one["fields"]["description"] = f"the token {SECRET} of {EMAIL} opens the gate"
    return one


def everything_asked(fake: FakeProvider) -> str:
    return "\n".join(fake.texts)


def test_a_secret_never_reaches_an_endpoint_even_on_this_machine(
    remote: MakeConfig, fake: FakeProvider, tmp_path: Path
) -> None:
    config = remote(write_export(tmp_path / "jira.jsonl", [leaky(), issue(4)]))
    assert config.privacy.redact == "external_only"
    run_quietly(config)
    search(config, f"who is {EMAIL}, with {SECRET}?", client="acme")
    assert SECRET not in everything_asked(fake)
    assert EMAIL not in everything_asked(fake)
    assert "opens the gate" in everything_asked(fake)
    assert "who is [EMAIL]" in everything_asked(fake)


def test_whoever_runs_the_gateway_himself_may_switch_redaction_off(
    remote: MakeConfig, fake: FakeProvider, tmp_path: Path
) -> None:
    config = remote(write_export(tmp_path / "jira.jsonl", [leaky()]))
    run_quietly(config.model_copy(update={"privacy": Privacy(redact="off")}))
    assert SECRET in everything_asked(fake)


def test_a_search_asks_for_its_query_once_and_pays_for_it(
    remote: MakeConfig, fake: FakeProvider, database: Store, tmp_path: Path
) -> None:
    config = remote(write_export(tmp_path / "jira.jsonl", map(issue, range(20))))
    run_quietly(config)
    with database.connect() as connection:
        query = sql.SQL("SELECT text FROM {} ORDER BY text LIMIT 1")
        row = connection.execute(query.format(chunk_table(space_of(config.model).space_id))).fetchone()
    assert row is not None
    before = fake.tokens_billed
    (first, *_) = search(config, row[0], client="acme", mode="vector")
    assert first.text == row[0]
    paid = [row for row in ledger(database) if row[0] == "embed_query"]
    assert [(source, integration) for _, source, integration, *_ in paid] == [("", "main")]
    assert paid[0][4] == RemoteWords().count(row[0])
    billed = sum(row[4] or 0 for row in ledger(database))
    assert billed == fake.tokens_billed > before


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_a_search_is_paid_from_the_budget_and_one_that_is_used_up_leaves_words(
    remote: MakeConfig,
    fake: FakeProvider,
    database: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    config = remote(write_export(tmp_path / "jira.jsonl", map(issue, range(5))))
    run_quietly(config)
    spent = sum((row[5] for row in ledger(database)), Decimal(0))

    def found(usd: Decimal, mode: Mode) -> list[Hit]:
        allowance = AllowanceSettings(
            kind=kind,
            url="env:TEST_REDIS" if kind == "redis" else None,
            budgets=(Budget(provider="gateway", monthly_usd=usd),),
        )
        asking = config.model_copy(update={"allowance": allowance})
        return search(asking, "gate sensor", client="acme", mode=mode)

    with running_redis(tmp_path, free_port()) as url:
        monkeypatch.setenv("TEST_REDIS", url)
        assert found(spent + 1, "vector")
        rows, asked = ledger(database), fake.requests
        assert [row[0] for row in rows[-2:]] == ["embed_canaries", "embed_query"]
        with pytest.raises(
            Parked, match=r"client acme has used up its budget .* --mode text searches by words"
        ):
            found(spent, "hybrid")
        assert (fake.requests, ledger(database)) == (asked, rows)
        assert found(spent, "text")
    with database.connect() as connection:
        held = connection.execute("SELECT book IS NOT NULL FROM ai_allowances").fetchall()
    assert held == [(kind == "postgres",)], "the counts are those that the workers share"


def test_a_query_that_is_too_long_is_cut_with_a_warning(
    remote: MakeConfig, fake: FakeProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = remote(write_export(tmp_path / "jira.jsonl", [issue(1)]))
    run_quietly(config)
    assert search(config, "the gate is stuck again " * 50, client="acme", mode="vector")
    assert "longer than 64 tokens" in caplog.text


def test_a_plan_says_what_the_endpoint_will_cost_and_asks_it_nothing(
    remote: MakeConfig, fake: FakeProvider, tmp_path: Path
) -> None:
    config = remote(write_export(tmp_path / "jira.jsonl", map(issue, range(20))))
    plan = make_plan(config)
    assert plan.local is None
    assert plan.remote is not None
    assert (plan.remote.integration, plan.remote.provider) == ("main", "gateway")
    assert plan.remote.usd == PRICE * plan.tokens.value / 1_000_000
    assert fake.requests == 0
    console = Console(record=True, width=200, file=io.StringIO())
    print_plan(console, plan)
    shown = console.export_text()
    assert f"{dollars(plan.remote.usd)} (" in shown
    assert "$0.00 " not in shown, "little is not nothing"
    summary = run_quietly(config)
    assert summary.usage.tokens >= plan.tokens.value
    with_canaries = fake.tokens_billed
    assert plan.tokens.value <= with_canaries


def test_a_run_that_fails_later_shows_what_it_had_cost(
    remote: MakeConfig, fake: FakeProvider, database: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = remote(write_export(tmp_path / "jira.jsonl", map(issue, range(10))))

    def fail(connection: object, batch: object, processing: object, run_id: object) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr("transforms.sinks.pgvector.write_batch", fail)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        run_quietly(config)
    rows = ledger(database)
    assert len(rows) == fake.requests > 0
    assert sum(row[4] or 0 for row in rows) == fake.tokens_billed


def test_where_the_key_is_refused_everything_is_parked_and_nothing_is_billed(
    remote: MakeConfig, fake: FakeProvider, database: Store, tmp_path: Path
) -> None:
    config = remote(write_export(tmp_path / "jira.jsonl", map(issue, range(5))))
    fake.plan = always(answer(401))
    assert run_quietly(config).totals["dead_lettered"] == 5
    with database.connect() as connection:
        letters = connection.execute("SELECT DISTINCT error_type, retriable FROM dead_letters").fetchall()
    assert letters == [("Parked", True)]
    assert fake.tokens_billed == 0
    assert {row[5] for row in ledger(database)} == {0}


def test_a_key_that_is_nowhere_stops_the_run_and_names_the_reference(
    remote: MakeConfig, fake: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = remote(write_export(tmp_path / "jira.jsonl", [issue(1)]))
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(BadConfig, match=KEY_VARIABLE):
        run_quietly(config)
    assert fake.requests == 0

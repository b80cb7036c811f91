"""A plan says what a run then takes, and nothing is spent or stored by making one."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from pipelines import volume
from pipelines.plan import Plan, make_plan
from pipelines.sampling import counted
from runners.display import dollars
from schemas.config import Backfill, Config
from schemas.errors import BadConfig
from schemas.prices import LIST_PRICES
from schemas.sources import ExportSource, JiraSource
from tests.runners.memory_source import MemorySource, building
from tests.runners.world import Headrace, issue, rows_of, run_quietly, write_export
from transforms.postgres import Store

MakeConfig = Callable[..., Config]
EXPORT = '[[sources]]\ntype = "export"\nname = "tickets"\npaths = ["a.jsonl"]\n'


def volume_of(plan: Plan) -> volume.SourceVolume:
    (only,) = plan.sources
    return only


@pytest.mark.parametrize(
    ("usd", "places", "said"),
    [
        ("0", 2, "$0.00"),
        ("1234.567", 2, "$1,234.57"),
        ("0.5", 2, "$0.50"),
        ("0.05", 2, "$0.050"),
        ("0.0000061234", 2, "$0.0000061"),
        ("0.00000002", 4, "$0.000000020"),
        ("0.00000000001", 4, "$0.0000"),
        ("-0.003", 2, "$-0.0030"),
        ("8.01", 4, "$8.0100"),
    ],
)
def test_dollars_show_two_digits_of_what_is_not_zero(usd: str, places: int, said: str) -> None:
    assert dollars(Decimal(usd), places) == said
    assert dollars(float(usd), places) == said


def test_an_exact_plan_is_what_the_run_then_takes(tmp_path: Path, make_config: MakeConfig) -> None:
    issues = [issue(n, words=20 + 97 * n % 700) for n in range(40)]
    config = make_config(write_export(tmp_path / "a.jsonl", issues))
    plan = make_plan(config, sample=None)
    summary = run_quietly(config)
    assert (volume_of(plan).basis, plan.documents, plan.unchanged) == ("exact", 40, 0)
    assert plan.tokens == counted(summary.usage.tokens)
    assert plan.chunks == counted(summary.quality.vectors)


def test_a_sample_says_how_far_it_may_be_off_and_is_not_farther(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    issues = [issue(n, words=20 + 97 * n % 700) for n in range(300)]
    config = make_config(write_export(tmp_path / "a.jsonl", issues))
    sampled, exact = make_plan(config, sample=100), make_plan(config, sample=None)
    assert (volume_of(sampled).basis, volume_of(sampled).cut) == ("sampled", 100)
    assert (sampled.documents, sampled.confidence) == (300, 0.95)
    assert sampled.tokens.low < exact.tokens.value < sampled.tokens.high
    assert sampled.tokens.high - sampled.tokens.low < 0.1 * exact.tokens.value


def test_what_is_stored_already_is_not_planned_again(tmp_path: Path, make_config: MakeConfig) -> None:
    path = tmp_path / "a.jsonl"
    config = make_config(write_export(path, map(issue, range(30))))
    run_quietly(config)
    edited = issue(3, words=800)
    edited["fields"]["comment"]["comments"][-1]["body"] = "now edited"
    write_export(path, [*(issue(n) for n in range(30) if n != 3), edited, issue(99)])
    plan = make_plan(config, sample=None)
    assert (plan.documents, plan.unchanged, plan.indexes.stored) == (2, 29, 30)
    summary = run_quietly(config)
    assert summary.totals == {"unchanged": 29, "changed": 1, "new": 1}
    assert plan.tokens == counted(summary.usage.tokens)
    again = make_plan(config, sample=None)
    assert (again.documents, again.unchanged, again.tokens) == (0, 31, counted(0))


def test_unchanged_chunks_of_a_changed_document_cost_nothing(tmp_path: Path, make_config: MakeConfig) -> None:
    path = tmp_path / "a.jsonl"
    long_issue = issue(1, words=1500)
    config = make_config(write_export(path, [long_issue]))
    run_quietly(config)
    long_issue["fields"]["comment"]["comments"][-1]["body"] = "now edited"
    long_issue["fields"]["updated"] = "2026-01-05T10:00:00.000+0000"
    write_export(path, [long_issue])
    plan = make_plan(config, sample=None)
    summary = run_quietly(config)
    assert plan.reused == counted(summary.usage.reused)
    assert plan.chunks == counted(summary.usage.inputs)
    assert plan.tokens == counted(summary.usage.tokens)


def test_a_plan_stores_nothing_and_spends_nothing(
    tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    config = make_config(write_export(tmp_path / "a.jsonl", map(issue, range(20))))
    make_plan(config)
    with database.connect() as connection:
        for table in ("documents", "runs", "ai_usage_tracking", "embedding_spaces", "backfills"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    run_quietly(config)
    before = rows_of(database, config)
    make_plan(config)
    assert rows_of(database, config) == before


def test_of_a_long_source_only_the_beginning_is_read_and_that_is_said(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume, "LOCAL_READ", 500)
    config = make_config(write_export(tmp_path / "a.jsonl", [issue(n, words=10) for n in range(2000)]))
    found = volume_of(make_plan(config, sample=100))
    assert (found.basis, found.read, found.cut) == ("beginning", 500, 100)
    assert found.expected == pytest.approx(2000, rel=0.02)
    assert found.documents == found.expected
    assert found.chunks.value == pytest.approx(2000, rel=0.05)


def test_of_a_source_that_does_not_say_how_long_it_is_the_figures_are_the_least(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(volume, "LOCAL_READ", 30)
    tickets = MemorySource()
    for number in range(100):
        tickets.put(str(number), "The gate jams")
    config = make_config(tmp_path / "nowhere")
    plan = make_plan(config, sample=100, build=building(tickets))
    assert plan.open_ended == ("tickets",)
    assert (volume_of(plan).read, volume_of(plan).documents) == (30, 30)
    whole = make_plan(config, sample=None, build=building(tickets))
    assert (whole.open_ended, whole.documents) == ((), 100)


def test_a_record_that_cannot_be_read_costs_nothing_and_stops_nothing(
    tmp_path: Path, make_config: MakeConfig
) -> None:
    path = write_export(tmp_path / "a.jsonl", [issue(1), issue(2)])
    path.write_bytes(path.read_bytes().replace(b"\n", b'\n{"broken": \n', 1))
    plan = make_plan(make_config(path), sample=None)
    assert (volume_of(plan).read, plan.documents, plan.chunks) == (3, 2, counted(2))


def test_hours_and_prices_are_said_with_where_they_come_from(tmp_path: Path, make_config: MakeConfig) -> None:
    config = make_config(write_export(tmp_path / "a.jsonl", [issue(n, words=600) for n in range(20)]))
    config = config.model_copy(update={"backfill": Backfill(usd_per_machine_hour=0.5)})
    plan = make_plan(config)
    local = plan.local
    assert local.rate_from == "measured now"
    assert 2048 <= local.measured_tokens <= plan.tokens.value
    assert local.tokens_per_s is not None
    assert local.machine_hours == pytest.approx(plan.tokens.value / local.tokens_per_s / 3600)
    assert local.usd == pytest.approx(local.machine_hours * 0.5)
    assert [(one.provider, one.model) for one in plan.providers] == [
        (one.provider, one.model) for one in LIST_PRICES
    ]
    for one in plan.providers:
        assert one.usd == one.usd_per_million_tokens * plan.tokens.value / 1_000_000
        assert one.source.startswith("https://")
    run_quietly(config)
    later = make_plan(config).local
    assert (later.rate_from, later.machine_hours) == ("ledger", 0)
    assert later.measured_tokens == plan.tokens.value


def test_a_plan_needs_sources(make_config: MakeConfig) -> None:
    with pytest.raises(BadConfig, match="no sources are configured"):
        make_plan(make_config())


def test_the_command_line_shows_a_plan_to_people_and_to_programs(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path
) -> None:
    write_export(tmp_path / "a.jsonl", [issue(n, words=300) for n in range(150)])
    config = write_config(EXPORT)
    code, out, _ = headrace("plan", "--config", config, "--sample", "100")
    assert code == 0
    for said in ("150 to embed", "all read, some cut", "±", "confidence of 95%", "voyage-4", "2026-11-21"):
        assert said in out
    code, out, _ = headrace("plan", "--config", config, "--json", "--exact")
    plan = json.loads(out)
    assert (code, plan["documents"], plan["open_ended"]) == (0, 150, [])
    assert plan["tokens"]["low"] == plan["tokens"]["high"] == plan["tokens"]["value"]
    assert plan["max_tokens"] > plan["tokens"]["value"]


def test_of_a_site_elsewhere_no_more_is_read_than_is_cut() -> None:
    jira = JiraSource(type="jira", name="jira", site_url="https://acme.atlassian.net")
    export = ExportSource(type="export", name="export", paths=("a.jsonl",))
    assert volume.most_read(jira, sample=2000) == 2000
    assert volume.most_read(export, sample=2000) == 200_000
    assert volume.most_read(jira, sample=None) is None

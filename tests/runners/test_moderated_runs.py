"""What moderation flags is not embedded; what nobody can judge is treated as the configuration says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from rich.console import Console

from runners import display
from runners.progress_bar import run_progress
from runners.retry import retry_dead_letters
from schemas.allowances import AllowanceSettings, Budget
from schemas.config import Config, Privacy
from schemas.errors import AccessRefused, UnknownName
from schemas.integrations import Integration
from schemas.moderation import Moderation
from tests.fakes.other_providers import FLAG, KEY, TOO_LONG, fake_moderation
from tests.fakes.serving import App, Faults, Receive, Send, answer, serve
from tests.runners.world import issue, rows_of, run_quietly, write_export
from transforms.postgres import Store

MakeConfig = Callable[..., Config]
MakeModerated = Callable[..., Config]
EMAIL = "grace.hopper@navy.example"


def saying(number: int, text: str) -> dict[str, Any]:
    """An issue with `text` in its description."""
    made = issue(number)
    made["fields"]["description"] += f"\n\n{text}"
    return made


@pytest.fixture
def faults() -> Faults:
    return Faults(fake_moderation)


@pytest.fixture
def url(faults: Faults) -> Iterator[str]:
    with serve(faults) as url:
        yield url


@pytest.fixture
def moderated(
    make_config: MakeConfig, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> MakeModerated:
    """Makes a configuration whose documents are judged."""
    monkeypatch.setenv("FAKE_KEY", KEY)
    integration = Integration.model_validate(
        {
            "name": "judge",
            "provider": "openai",
            "model": "text-embedding-3-small",
            "url": f"{url}/v1",
            "api_key": "env:FAKE_KEY",
            "performance": {"max_attempts": 1},
        }
    )

    def make(
        *issues: dict[str, Any],
        on_failure: Literal["refuse", "pass"] = "refuse",
        name: str = "judge",
        provider: str = "openai",
    ) -> Config:
        config = make_config(write_export(tmp_path / "jira.jsonl", issues))
        moderation = Moderation(integration=name, on_failure=on_failure)
        by = integration.model_copy(update={"provider": provider})
        return config.model_copy(update={"integrations": (by,), "moderation": moderation})

    return make


def letters(database: Store) -> list[tuple[Any, ...]]:
    with database.connect() as connection:
        return connection.execute(
            "SELECT native_id, stage, error_type, reason, retriable, resolved_at IS NULL FROM dead_letters"
            " ORDER BY native_id"
        ).fetchall()


def documents(database: Store, config: Config) -> set[str]:
    return {row[4] for row in rows_of(database, config)["documents"]}


def test_a_flagged_record_is_a_dead_letter_with_its_categories_and_no_text(
    moderated: MakeModerated, database: Store
) -> None:
    config = moderated(issue(1), saying(2, f"{FLAG} dreadful words"), issue(3))
    summary = run_quietly(config)
    assert documents(database, config) == {"10001", "10003"}
    ((native_id, stage, error_type, reason, retriable, is_open),) = letters(database)
    assert (native_id, stage, error_type, retriable, is_open) == ("10002", "moderate", "Flagged", False, True)
    assert reason == "chunk 0: omni-moderation-latest flags it: harassment, violence/graphic"
    assert summary.totals["dead_lettered"] == 1
    assert summary.moderated == {"judged": 2, "flagged": 1, "refused": 0, "passed": 0}


def test_its_calls_are_in_the_ledger_at_no_cost_and_not_among_the_embeddings(
    moderated: MakeModerated, database: Store, faults: Faults
) -> None:
    config = moderated(*map(issue, range(10)))
    summary = run_quietly(config)
    with database.connect() as connection:
        rows = connection.execute(
            "SELECT integration, model, client, source, run_id, sum(input_count), sum(cost_usd), count(*)"
            " FROM ai_usage_tracking WHERE operation = 'moderate' GROUP BY 1, 2, 3, 4, 5"
        ).fetchall()
    texts = sum(len(orjson.loads(bytes(seen.body))["input"]) for seen in faults.requests)
    assert rows == [
        ("judge", "omni-moderation-latest", "acme", "tickets", summary.run_id, texts, 0, len(faults.requests))
    ]
    assert summary.usage.inputs == texts
    assert summary.usage.calls == 1


def test_judging_that_costs_is_in_the_ledger_before_it_is_made_and_under_the_budget(
    moderated: MakeModerated, database: Store, faults: Faults
) -> None:
    """Mistral bills it by the token."""
    config = moderated(*map(issue, range(10)), provider="mistral")
    budgets = (Budget(provider="mistral", monthly_usd=Decimal(1)),)
    config = config.model_copy(update={"allowance": AllowanceSettings(budgets=budgets)})
    query = (
        "SELECT event_id, error_type, cost_usd, tokens FROM ai_usage_tracking WHERE operation = 'moderate'"
    )
    before: list[tuple[Any, ...]] = []

    async def look(app: App, scope: Any, receive: Receive, send: Send) -> None:
        with database.connect() as connection:
            before.extend(connection.execute(query).fetchall())
        await app(scope, receive, send)

    faults.next(look, times=1)
    run_quietly(config)
    with database.connect() as connection:
        after = connection.execute(query).fetchall()
        book = connection.execute("SELECT book FROM ai_allowances").fetchone()
    assert [row[1] for row in before] == ["Unfinished"]
    assert [row[1] for row in after] == [None] * len(faults.requests)
    assert (before[0][0], before[0][2]) in [(row[0], row[2]) for row in after]
    spent = sum(row[2] for row in after)
    assert spent == Decimal("0.10") * sum(row[3] for row in after) / 10**6 > 0
    assert book is not None
    counted = book[0]["used"]["mistral"]
    assert 0 <= counted["month_nano"] - spent * 10**9 < len(after), "each is rounded up to a billionth"
    assert sum(counted["requests"].values()) == 0, "requests of moderation have limits of their own"


@pytest.mark.parametrize(("on_failure", "embedded"), [("refuse", 0), ("pass", 2)])
def test_judging_that_cannot_be_paid_for_is_not_asked_for(
    moderated: MakeModerated,
    database: Store,
    faults: Faults,
    on_failure: Literal["refuse", "pass"],
    embedded: int,
) -> None:
    config = moderated(issue(1), issue(2), provider="mistral", on_failure=on_failure)
    nothing = AllowanceSettings(budgets=(Budget(monthly_usd=Decimal(0)),))
    config = config.model_copy(update={"allowance": nothing})
    run_quietly(config)
    assert faults.requests == []
    assert len(documents(database, config)) == embedded
    reasons = [letter[3] for letter in letters(database)]
    assert len(reasons) == 2 - embedded
    assert all("nobody could judge it: client acme has used up its budget of $0" in why for why in reasons)


@pytest.mark.parametrize(
    ("on_failure", "stored", "counts"),
    [
        ("refuse", set(), {"judged": 0, "flagged": 0, "refused": 2, "passed": 0}),
        ("pass", {"10001", "10002"}, {"judged": 0, "flagged": 0, "refused": 0, "passed": 2}),
    ],
)
def test_what_nobody_can_judge_is_treated_as_the_configuration_says(
    moderated: MakeModerated,
    database: Store,
    faults: Faults,
    on_failure: Literal["refuse", "pass"],
    stored: set[str],
    counts: dict[str, int],
) -> None:
    faults.next(answer(503), times=1000)
    config = moderated(issue(1), issue(2), on_failure=on_failure)
    summary = run_quietly(config)
    assert documents(database, config) == stored
    assert summary.moderated == counts
    assert [letter[:3] for letter in letters(database)] == [
        (native_id, "moderate", "NotModerated") for native_id in sorted({"10001", "10002"} - stored)
    ]


def test_what_was_refused_because_nobody_could_judge_it_passes_when_tried_again(
    moderated: MakeModerated, database: Store, faults: Faults
) -> None:
    faults.next(answer(503), times=1000)
    config = moderated(issue(1), saying(2, FLAG))
    run_quietly(config)
    assert all(letter[4] for letter in letters(database))
    faults.clear()
    with run_progress(Console(quiet=True), visible=False) as bar:
        retry_dead_letters(config, bar, config.client, None)
    assert documents(database, config) == {"10001"}
    assert [letter[2] for letter in letters(database) if letter[5]] == ["Flagged"]


def test_a_text_that_is_too_long_to_be_judged_leaves_the_others_their_verdict(
    moderated: MakeModerated, database: Store
) -> None:
    config = moderated(issue(1), saying(2, TOO_LONG), issue(3))
    run_quietly(config)
    assert documents(database, config) == {"10001", "10003"}
    assert [letter[2] for letter in letters(database)] == ["NotModerated"]


def test_texts_leave_redacted_though_the_model_is_local(
    moderated: MakeModerated, database: Store, faults: Faults
) -> None:
    config = moderated(saying(1, f"ask {EMAIL}"))
    assert config.model.is_local
    run_quietly(config)
    sent = b"".join(bytes(seen.body) for seen in faults.requests)
    assert b"[EMAIL]" in sent
    assert EMAIL.encode() not in sent
    faults.clear()
    run_quietly(config.model_copy(update={"privacy": Privacy(redact="off")}))
    assert EMAIL.encode() in b"".join(bytes(seen.body) for seen in faults.requests)


def test_switched_on_later_it_judges_what_is_stored_and_embeds_nothing_again(
    moderated: MakeModerated, database: Store, faults: Faults
) -> None:
    config = moderated(issue(1), issue(2))
    off = run_quietly(config.model_copy(update={"moderation": None}))
    assert (off.moderated, faults.requests) == ({}, [])
    on = run_quietly(config)
    assert on.moderated["judged"] == 2
    assert (on.usage.inputs, on.usage.reused) == (0, off.usage.inputs)
    asked = len(faults.requests)
    assert run_quietly(config).totals["unchanged"] == 2
    assert len(faults.requests) == asked


def test_a_change_of_the_policy_for_failures_works_on_nothing_again(moderated: MakeModerated) -> None:
    run_quietly(moderated(issue(1)))
    assert run_quietly(moderated(issue(1), on_failure="pass")).totals["unchanged"] == 1


def test_a_wrong_key_or_name_stops_the_run_in_one_line(
    moderated: MakeModerated, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownName, match="moderation: there is no integration 'nobody'"):
        run_quietly(moderated(issue(1), name="nobody"))
    monkeypatch.setenv("FAKE_KEY", "wrong")
    with pytest.raises(AccessRefused, match="check api_key"):
        run_quietly(moderated(issue(1)))


def test_the_summary_says_what_was_judged(
    moderated: MakeModerated, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = run_quietly(moderated(issue(1), saying(2, FLAG)))
    display.print_summary(Console(width=200), summary)
    assert (
        "2 documents judged, 1 of them flagged; judged by nobody: 0 refused, 0 embedded"
        in capsys.readouterr().out
    )
    assert display.summary_as_dict(summary)["moderation"]["flagged"] == 1

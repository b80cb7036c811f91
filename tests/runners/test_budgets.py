"""Limits and budgets at the command line, and what a plan says of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from schemas.allowances import AllowanceSettings, Budget
from schemas.config import Chunking, Config, Model
from schemas.integrations import Integration, Limits
from tests.fakes.embedding_provider import DIMENSIONS, KEY, MODEL, FakeProvider
from tests.fakes.redis_server import free_port, running_redis
from tests.fakes.serving import serve
from tests.runners.world import Headrace, issue, run_quietly, write_export
from tests.transforms.allowance.world import bill, request
from transforms.allowance.base import Reservation
from transforms.postgres import Store
from transforms.providers.inputs import RemoteWords

ALLOWANCE = """
[[allowance.budgets]]
provider = "openai"
monthly_usd = 0.001
"""

REMOTE = """
[model]
integration = "large"
name = "text-embedding-3-large"
dimensions = 8
max_tokens = 512

[[integrations]]
name = "large"
provider = "openai"
model = "text-embedding-3-large"
dimensions = 8
api_key = "env:NO_SUCH_KEY"

[[integrations]]
name = "small"
provider = "openai"
model = "text-embedding-3-small"
api_key = "env:NO_SUCH_KEY"
"""

TICKETS = '[[sources]]\ntype = "export"\nname = "tickets"\npaths = ["a.jsonl"]\n'


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A server of this test alone."""
    with running_redis(tmp_path, free_port()) as url:
        yield url


def spent(store: Store, usd: str) -> None:
    reservation = Reservation(uuid4(), request("acme", usd))
    with store.connect_plainly() as connection:
        bill(connection, reservation, datetime.now(UTC), 100, Decimal(usd))


def test_limits_are_set_shown_and_removed(
    headrace: Headrace, write_config: Callable[[str], Path], database: Store
) -> None:
    config = write_config(ALLOWANCE)
    set_ = ("budgets", "set", "-c", config, "--client", "globex")
    assert headrace(*set_, "--monthly-usd", "50", "--requests-per-minute", "60")[0] == 0
    assert headrace(*set_, "--soft", "--tokens-per-hour", "1000")[0] == 0
    spent(database, "0.0004")
    code, out, _ = headrace("budgets", "list", "-c", config, "--json")
    of_file, of_table = json.loads(out)
    assert code == 0
    assert {name: of_table[name] for name in ("monthly_usd", "alert_threshold", "hard_limit", "from")} == {
        "monthly_usd": "50",
        "alert_threshold": "0.8",
        "hard_limit": False,
        "from": "table",
    }
    assert (of_table["requests_per_minute"], of_table["tokens_per_hour"], of_table["cost_per_day_usd"]) == (
        60,
        1000,
        None,
    )
    assert (of_file["client"], of_file["provider"], of_file["from"]) == ("acme", "openai", "file")
    assert of_file["spent_usd"] == of_file["spent_today_usd"] == "0.0004"
    assert "openai" in headrace("budgets", "list", "-c", config)[1]
    assert headrace("budgets", "remove", "-c", config, "--client", "globex")[0] == 0
    assert "globex" not in headrace("budgets", "list", "-c", config)[1]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("set", "--provider", "openai", "--monthly-usd", "5"), 1, "the configuration file sets this"),
        (("set", "--provider", "opnai", "--monthly-usd", "5"), 2, "--provider"),
        (("set", "--monthly-usd", "-5"), 2, "--monthly-usd"),
        (("set", "--soft"), 2, "--monthly-usd"),
        (("set",), 2, "give a limit or a budget"),
        (("remove", "--provider", "voyage"), 1, "have no limit or budget of client acme"),
    ],
)
def test_a_mistake_is_said_in_one_line(
    headrace: Headrace, write_config: Callable[[str], Path], words: tuple[str, ...], code: int, said: str
) -> None:
    ended, _, err = headrace("budgets", *words, "-c", write_config(ALLOWANCE))
    assert ended == code
    assert said in err
    assert "Traceback" not in err


def test_a_plan_that_a_budget_does_not_cover_proposes_a_cheaper_endpoint_for_a_new_space_alone(
    headrace: Headrace,
    write_config: Callable[[str], Path],
    tmp_path: Path,
    connection: psycopg.Connection,
    database: Store,
) -> None:
    write_export(tmp_path / "a.jsonl", [issue(n, words=400, comments=0) for n in range(60)])
    config = write_config(TICKETS + REMOTE + ALLOWANCE)

    def proposals() -> list[dict[str, Any]]:
        code, out, err = headrace("plan", "-c", config, "--json")
        assert code == 0, err
        return list(json.loads(out)["proposals"])

    (made,) = proposals()
    assert (made["client"], made["configured"]["integration"]) == ("acme", "large")
    assert made["cheaper"]["integration"] == "small"
    connection.execute(
        "INSERT INTO integrations (name, provider, model, url) VALUES ('unpriced', 'gateway', 'm', 'http://a.example')"
    )
    assert proposals() == [made], "nobody knows what it costs"
    out = headrace("plan", "-c", config)[1]
    assert "The budget of client acme leaves $0.0010 this month, less than" in out
    assert "small (text-embedding-3-small) takes up to" in out

    connection.execute("INSERT INTO clients (client) VALUES ('acme') ON CONFLICT DO NOTHING")
    connection.execute(
        "INSERT INTO client_ai_preferences SELECT 'acme', 1, integration_id FROM integrations WHERE name = 'large'"
    )
    assert proposals()[0]["cheaper"] is None, "the client wants nothing else"
    connection.execute("DELETE FROM client_ai_preferences")
    spent(database, "0.001")
    assert proposals()[0]["cheaper"] is None, "nothing is left"
    connection.execute("DELETE FROM ai_usage_tracking")

    identity, space_id = uuid4(), json.loads(headrace("plan", "-c", config, "--json")[1])["space_id"]
    connection.execute(
        "INSERT INTO embedding_spaces (space_id, definition, dimensions, vector_type, status)"
        " VALUES (%s, '{}', 8, 'vector', 'active')",
        [space_id],
    )
    connection.execute(
        "INSERT INTO documents"
        " (document_id, client, source, kind, native_id, updated_at, observed_at, payload_digest)"
        " VALUES (%s, 'acme', 'elsewhere', 'issue', '1', now(), now(), '')",
        [identity],
    )
    connection.execute(
        "INSERT INTO indexed_documents (space_id, document_id, fingerprint, chunks, tokens_seen, tokens_embedded,"
        " tokens_truncated) VALUES (%s, %s, '', 1, 1, 1, 0)",
        [space_id, identity],
    )
    assert proposals()[0]["cheaper"] is None, "the space has vectors: another model is another space"


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_what_a_budget_does_not_pay_for_waits_until_it_is_raised(
    kind: str,
    make_config: Callable[..., Config],
    database: Store,
    tmp_path: Path,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the provider billed is within the budget, to the last token, as it counts."""
    monkeypatch.setenv("TEST_PROVIDER_KEY", KEY)
    monkeypatch.setenv("TEST_REDIS", redis_url)
    price, budget = Decimal(10), Decimal("0.02")
    fake = FakeProvider(count=RemoteWords().count)
    with serve(fake) as url:
        integration = Integration(
            name="main",
            provider="gateway",
            model=MODEL,
            url=f"{url}/v1",
            api_key="env:TEST_PROVIDER_KEY",
            price_usd_per_million_tokens=price,
            price_as_of=date(2026, 11, 21),
            limits=Limits(max_inputs=4),
        )
        allowance = AllowanceSettings(
            kind=kind,
            url="env:TEST_REDIS" if kind == "redis" else None,
            budgets=(Budget(provider="gateway", monthly_usd=budget),),
        )
        config = make_config(write_export(tmp_path / "jira.jsonl", map(issue, range(40)))).model_copy(
            update={
                "model": Model(integration="main", name=MODEL, dimensions=DIMENSIONS, max_tokens=64),
                "integrations": (integration,),
                "chunking": Chunking(max_tokens=64),
                "allowance": allowance,
            }
        )
        summary = run_quietly(config)
        (why,) = summary.parked
        assert "client acme has used up its budget of $0.02 at gateway" in why
        assert summary.totals["dead_lettered"] == summary.parked[why]
        assert budget / 2 < price * fake.tokens_billed / 1_000_000 <= budget
        raised = Budget(provider="gateway", monthly_usd=Decimal(1))
        more = config.model_copy(update={"allowance": allowance.model_copy(update={"budgets": (raised,)})})
        assert run_quietly(more).parked == {}
    with database.connect_plainly() as connection:
        rows = connection.execute(
            "SELECT kind, level_usd FROM ai_budget_alerts ORDER BY level_usd"
        ).fetchall()
        billed = connection.execute(
            "SELECT sum(tokens_reported) FROM ai_usage_tracking WHERE provider = 'gateway'"
        ).fetchone()
        stored = connection.execute("SELECT count(*) FROM indexed_documents").fetchone()
    assert stored == (40,)
    assert rows == [("threshold", Decimal("0.016")), ("used_up", budget)]
    assert billed == (fake.tokens_billed,)

"""What a person is told of costs, and what goes on the bill."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.embedding_provider import FakeProvider
from tests.fakes.serving import serve
from tests.runners.world import Headrace
from tests.transforms.test_usage import event
from transforms.postgres import Store
from transforms.usage import write_usage

COSTS = {"acme": ("1.0049", "0.0000001"), "globex": ("0.0051",), "initech": ("0",)}


@pytest.fixture
def billed(database: Store, write_config: Callable[[str], Path]) -> Path:
    """A ledger of three clients in November 2026, and a call a minute before it; the configuration."""
    moment = datetime(2026, 11, 3, tzinfo=UTC)
    with database.connect() as connection:
        for client, costs in COSTS.items():
            for cost in costs:
                one = event(client=client, occurred_at=moment)
                write_usage(connection, replace(one, cost_usd=Decimal(cost), source="tickets"))
        before = event(client="acme", occurred_at=datetime(2026, 10, 31, 23, 59, tzinfo=UTC))
        write_usage(connection, replace(before, cost_usd=Decimal(7)))
    return write_config("")


def test_a_chargeback_is_the_ledger_to_the_cent_in_every_form(
    billed: Path, headrace: Headrace, database: Store
) -> None:
    code, out, _ = headrace("usage", "-c", billed, "--chargeback", "2026-11", "--json")
    report = json.loads(out)
    charges = {row["client"]: row["charge_usd"] for row in report["charges"]}
    assert (code, charges) == (0, {"acme": "1.00", "globex": "0.01", "initech": "0.00"})
    with database.connect() as connection:
        month = "date_trunc('month', occurred_at) = '2026-11-01'"
        found = connection.execute(f"SELECT sum(cost_usd) FROM ai_usage_tracking WHERE {month}").fetchone()
    assert Decimal(report["total"]["cost_usd"]) == (found or (None,))[0]
    assert sum(map(Decimal, charges.values())) == Decimal(report["total_usd"]) == Decimal("1.01")

    rows = list(
        csv.DictReader(io.StringIO(headrace("usage", "-c", billed, "--chargeback", "2026-11", "--csv")[1]))
    )
    assert {row["client"]: row["charge_usd"] for row in rows} == charges
    assert [row["cost_usd"] for row in rows] == ["1.0049001", "0.0051", "0"]
    assert "$1.01" in headrace("usage", "-c", billed, "--chargeback", "2026-11")[1]


def test_usage_is_summed_by_what_was_asked_for(billed: Path, headrace: Headrace) -> None:
    window = ("--range", "2026-10..2026-11")
    _, out, _ = headrace("usage", "-c", billed, *window, "--by", "source,client", "--json")
    report = json.loads(out)
    found = [(row["source"], row["client"], row["calls"]) for row in report["rows"]]
    assert found == [
        ("", "acme", 1),
        ("tickets", "acme", 2),
        ("tickets", "globex", 1),
        ("tickets", "initech", 1),
    ]
    assert report["total"]["calls"] == 5
    _, out, _ = headrace("usage", "-c", billed, *window, "--by", "client", "--client", "acme", "--csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["client"], row["calls"], row["cost_usd"]) == ("acme", "3", "8.0049001")
    _, out, _ = headrace("usage", "-c", billed, *window, "--by", "month,client")
    assert ("total" in out, "$8.0100" in out) == (True, True)


def test_sums_are_shown_whole_however_long_the_names_beside_them(
    billed: Path, headrace: Headrace, database: Store
) -> None:
    long = replace(event(), client="c" * 40, provider="p" * 40, model="m" * 80, source="s" * 40)
    with database.connect() as connection:
        write_usage(connection, replace(long, cost_usd=Decimal("12345.000000001"), tokens=123_456_789_012))
    _, out, _ = headrace("usage", "-c", billed, "--by", "day,client,provider,model,operation,source")
    assert ("$12,345.0000" in out, "123,456,789,012" in out, "…" in out) == (True, True, False)


def test_a_name_in_brackets_is_shown_as_it_is(billed: Path, headrace: Headrace, database: Store) -> None:
    with database.connect() as connection:
        write_usage(connection, replace(event(), model="[/bold]"))
    assert "[/bold]" in headrace("usage", "-c", billed, "--by", "model")[1]


def test_a_time_without_calls_is_said_and_still_has_its_columns(billed: Path, headrace: Headrace) -> None:
    window = ("usage", "-c", billed, "--range", "2020-01")
    assert "Nothing was embedded from 2020-01-01 to 2020-01-31." in headrace(*window)[1]
    assert headrace(*window, "--by", "client", "--csv")[1].startswith("client,calls,")
    assert json.loads(headrace(*window, "--json")[1])["rows"] == []


@pytest.mark.parametrize(
    "wrong",
    [("--range", "yesterday"), ("--by", "colour"), ("--chargeback", "7d"), ("--chargeback", "2026-11-01")],
)
def test_what_cannot_be_asked_is_refused_by_name(
    wrong: tuple[str, str], billed: Path, headrace: Headrace
) -> None:
    code, _, err = headrace("usage", "-c", billed, *wrong)
    assert (code, wrong[0] in err) == (2, True)


GATEWAYS = """
[[integrations]]
name = "proxy-{name}"
provider = "gateway"
model = "fake-small"
url = "{url}"
api_key = "env:FAKE_GATEWAY_KEY"
dimensions = 16
price_usd_per_million_tokens = 0.02
price_as_of = 2026-11-21
"""


def test_what_a_gateway_has_counted_stands_beside_the_ledger_with_the_difference(
    database: Store, write_config: Callable[[str], Path], headrace: Headrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeProvider(tokens_billed=5_000_000)  # 0.1 dollars
    monkeypatch.setenv("FAKE_GATEWAY_KEY", fake.key)
    with serve(fake) as url, serve(silent) as other:
        config = write_config(
            GATEWAYS.format(name="a", url=url)
            + GATEWAYS.format(name="b", url=url)
            + GATEWAYS.format(name="c", url=other)
        )
        with database.connect() as connection:
            for name, cost in (("proxy-a", "0.06"), ("proxy-b", "0.03"), ("proxy-c", "0.5"), (None, "9")):
                write_usage(connection, replace(event(), integration=name, cost_usd=Decimal(cost)))
        code, out, _ = headrace("usage", "-c", config, "--json")
        shown = headrace("usage", "-c", config)[1]
        mine = json.loads(headrace("usage", "-c", config, "--client", "acme", "--json")[1])
    shared, unknown = json.loads(out)["gateways"]
    assert (code, shared["integrations"]) == (0, ["proxy-a", "proxy-b"])
    figures = [Decimal(shared[name]) for name in ("ours_usd", "theirs_usd", "difference_usd")]
    assert figures == [Decimal("0.09"), Decimal("0.1"), Decimal("0.01")]
    assert (unknown["theirs_usd"], Decimal(unknown["ours_usd"])) == (None, Decimal("0.5"))
    assert "proxy-c" in unknown["problem"]
    assert ("$0.0900" in shown, "$0.0100" in shown, unknown["problem"] in shown) == (True, True, True)
    assert mine["gateways"] == []


async def silent(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """A gateway that counts nothing, as Text Embeddings Inference."""
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})

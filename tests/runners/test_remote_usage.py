"""What a paid model costs, from a run by a gateway to the bill: ours, theirs, and what the cache saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from tests.fakes.embedding_provider import FakeProvider
from tests.fakes.serving import serve
from tests.runners.world import Headrace, issue, write_export
from transforms.postgres import Store
from transforms.providers.inputs import RemoteWords

TOML = """
[model]
integration = "proxy"
name = "fake-small"
dimensions = 16
max_tokens = 64

[[integrations]]
name = "proxy"
provider = "gateway"
model = "{model}"
weights = "fake-small"
url = "{url}/v1"
api_key = "env:FAKE_GATEWAY_KEY"
dimensions = 16
price_usd_per_million_tokens = 0.02
price_as_of = 2026-11-21

[[sources]]
type = "export"
name = "tickets"
paths = ["tickets.jsonl"]
"""


def test_ledger_gateway_and_bill_agree_and_hits_cost_nothing(
    database: Store,
    write_config: Callable[[str], Path],
    tmp_path: Path,
    headrace: Headrace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_export(tmp_path / "tickets.jsonl", map(issue, range(12)))
    fake = FakeProvider(count=RemoteWords().count)
    monkeypatch.setenv("FAKE_GATEWAY_KEY", fake.key)
    with serve(fake) as url:
        config = write_config(TOML.format(url=url, model=fake.model))
        assert headrace("run", "-c", config)[0] == 0
        billed = fake.tokens_billed
        assert billed > 0
        with database.connect() as connection:
            connection.execute("TRUNCATE documents, source_cursors CASCADE")
        assert headrace("run", "-c", config)[0] == 0
        assert fake.tokens_billed == billed, "the second run is served by the cache"
        code, out, err = headrace("usage", "-c", config, "--by", "source,operation", "--json")
        charged = json.loads(headrace("usage", "-c", config, "--chargeback", "2020-01..2099-12", "--json")[1])
    assert code == 0, err
    report = json.loads(out)
    cost = Decimal("0.02") * billed / 1_000_000
    assert Decimal(report["total"]["cost_usd"]) == Decimal(charged["total"]["cost_usd"]) == cost
    documents = next(row for row in report["rows"] if row["operation"] == "embed_documents")
    assert (documents["source"], Decimal(documents["usd_saved"])) == (
        "tickets",
        Decimal(documents["cost_usd"]),
    )
    assert documents["tokens_saved"] == documents["tokens"]
    (gateway,) = report["gateways"]
    assert (gateway["integrations"], Decimal(gateway["ours_usd"])) == (["proxy"], cost)
    assert abs(Decimal(gateway["difference_usd"])) < Decimal("1e-12")  # it sums in floats

"""What was embedded once is not embedded again, as far as the cache reaches, and the rows are the same."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.usage import parse_period, read_usage
from runners import display
from schemas.config import Cache, Config
from tests.runners.world import issue, rows_of, run_quietly, write_export
from transforms.caches import memory
from transforms.postgres import Store

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize("cache", [Cache(), Cache(kind="postgres")], ids=lambda cache: cache.kind)
def test_an_index_that_was_emptied_is_filled_again_without_the_engine(
    cache: Cache, tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    export = write_export(tmp_path / "a.jsonl", [issue(n, words=200) for n in range(20)])
    config = make_config(export, max_buffer_tokens=1024).model_copy(update={"cache": cache})
    first = run_quietly(config)
    rows = rows_of(database, config)
    with database.connect() as connection:
        connection.execute("TRUNCATE documents, source_cursors CASCADE")
    if cache.kind == "postgres":
        memory.forget_shared()
    second = run_quietly(config, ["--direct_runner_bundle_repeat=1"])
    assert (first.usage.inputs, first.usage.cache_hits, first.usage.hit_rate) == (len(rows["chunks"]), 0, 0)
    assert (second.usage.inputs, second.usage.tokens, second.usage.cost_usd) == (0, 0, 0)
    assert second.usage.cache_hits >= first.usage.inputs
    assert second.usage.hit_rate == 1.0
    assert rows_of(database, config) == rows

    console = Console(record=True, width=120, quiet=False, file=(tmp_path / "out").open("w"))
    display.print_summary(console, second)
    assert f"{second.usage.cache_hits} from equal texts (100.0%)" in console.export_text()
    console.file.close()
    assert display.summary_as_dict(second)["usage"]["hit_rate"] == 1.0
    report = read_usage(config, ("source", "client"), parse_period("2d", datetime.now(UTC).date()))
    (row,) = report.rows
    assert row.group == {"source": "tickets", "client": "acme"}
    assert row.sums == report.total
    assert (row.sums.cache_hits, row.sums.inputs) == (second.usage.cache_hits, first.usage.inputs)
    assert row.sums.tokens_saved >= first.usage.tokens > 0
    with database.connect() as connection:
        daily = connection.execute("SELECT sum(inputs), sum(tokens_saved) FROM ai_usage_daily").fetchone()
    assert daily == (row.sums.inputs, row.sums.tokens_saved)


def test_without_a_cache_everything_is_embedded_again(
    tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    export = write_export(tmp_path / "a.jsonl", map(issue, range(5)))
    config = make_config(export).model_copy(update={"cache": Cache(kind="none")})
    first = run_quietly(config)
    with database.connect() as connection:
        connection.execute("TRUNCATE documents, source_cursors CASCADE")
    second = run_quietly(config)
    assert (second.usage.inputs, second.usage.cache_hits) == (first.usage.inputs, 0)

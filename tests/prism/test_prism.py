"""Prism gives what a run in this process gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import apache_beam as beam
import psutil
import pytest
from rich.console import Console

from runners.direct import run_bounded
from runners.fetch import build_prism
from runners.progress_bar import run_progress
from runners.run import RunSummary, run
from runners.targets import Runner, opened
from schemas.config import Config
from schemas.engines import Prism
from schemas.errors import BadConfig
from tests.runners.world import DSN, Headrace, issue, rows_of, run_quietly, write_export
from transforms import changes
from transforms.caches import memory
from transforms.postgres import Store


@pytest.fixture(scope="session", autouse=True)
def _prism() -> None:
    build_prism()


def _run(config: Config, *options: str) -> RunSummary:
    with (
        run_progress(Console(quiet=True), visible=False) as bar,
        opened(config, Runner.PRISM, options) as target,
    ):
        return run(config, bar, target)


@pytest.mark.parametrize("parallelism", [1, 3])
def test_rows_counts_and_ledger_are_those_of_a_run_in_this_process(
    make_config: Callable[..., Config], database: Store, tmp_path: Path, parallelism: int
) -> None:
    export = write_export(tmp_path / "a.jsonl", [issue(number) for number in range(60)])
    config = make_config(export, max_documents=25).model_copy(
        update={"prism": Prism(parallelism=parallelism)}
    )
    by_prism = _run(config)
    rows = rows_of(database, config)
    again = _run(config)
    with database.connect() as connection:
        connection.execute("TRUNCATE documents, source_cursors, ai_usage_tracking, runs CASCADE")
    memory.forget_shared()
    here = run_quietly(config)
    assert rows["documents"]
    assert rows == rows_of(database, config)
    assert by_prism.totals == here.totals == {"new": 60}
    assert again.totals == {"unchanged": 60}
    assert by_prism.tokens_seen == here.tokens_seen
    assert by_prism.usage.tokens == here.usage.tokens


def _refuse(_: object) -> None:
    raise BadConfig("model.threads: no such cores")


def test_an_error_of_ours_in_a_step_is_the_same_error_here(make_config: Callable[..., Config]) -> None:
    def build(pipeline: beam.Pipeline) -> None:
        pipeline | beam.Create([1]) | beam.Map(_refuse)

    with (
        opened(make_config(), Runner.PRISM) as target,
        pytest.raises(BadConfig, match=r"^model\.threads: no such cores$"),
    ):
        run_bounded(build, target)


def test_a_step_that_fails_is_one_line(
    make_config: Callable[..., Config], headrace: Headrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BadConfig("model.threads: no such cores")

    monkeypatch.setattr(changes, "split_page", refuse)  # steps are done in this process
    make_config()
    export = write_export(tmp_path / "a.jsonl", [issue(1)])
    config = tmp_path / "headrace.toml"
    config.write_text(
        f'[postgres]\ndsn = "env:{DSN}"\n[[sources]]\ntype = "export"\nname = "tickets"\npaths = ["{export}"]\n'
    )
    code, out, err = headrace("run", "-c", config, "--runner", "prism")
    assert (code, out, err) == (1, "", "headrace: model.threads: no such cores\n")


def test_without_prism_the_line_says_how_to_build_it(headrace: Headrace, tmp_path: Path) -> None:
    config = tmp_path / "headrace.toml"
    config.write_text('[prism]\nbinary = "not-there"\n')
    code, _, err = headrace("run", "-c", config, "--runner", "prism")
    assert code == 1
    assert err == (
        f"headrace: prism.binary: {tmp_path}/not-there is not a program: run `make prism`, or name another\n"
    )


def test_prism_ends_with_the_run_that_started_it(make_config: Callable[..., Config]) -> None:
    with opened(make_config(), Runner.PRISM):
        (prism,) = [one for one in psutil.Process().children(recursive=True) if "prism" in one.name()]
    assert not prism.is_running()

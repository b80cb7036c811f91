"""A run in which a source cannot be read: the others are, and it is said which was not, and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.stand_in import no_model
from extractors.base import Cursor, Extractor, OnWait, Page
from runners import slices
from runners.progress_bar import run_progress
from runners.run import RunSummary, run
from schemas.config import Config, Slices
from schemas.errors import AccessRefused, SinkUnavailable
from schemas.sources import Source
from tests.fakes.git_repo import Repo
from tests.runners.memory_source import MemorySource, building, configured
from tests.runners.world import Headrace
from transforms import runs
from transforms.postgres import Store
from transforms.source_states import SourceState, load_states

MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def _stand_in() -> Iterator[None]:
    with no_model():
        yield


@pytest.fixture
def sources() -> list[MemorySource]:
    """Three, with some documents each."""
    found = [MemorySource(name, page_records=1) for name in ("first", "second", "third")]
    for source in found:
        for number in range(3):
            source.put(f"{source.name}-{number}", "gate")
    return found


@pytest.fixture
def config(make_config: MakeConfig, sources: list[MemorySource]) -> Config:
    """A slice for each document."""
    names = tuple(configured(source.name) for source in sources)
    return make_config().model_copy(update={"sources": names, "slices": Slices(max_documents=1)})


def ran(config: Config, *sources: Extractor) -> RunSummary:
    with run_progress(Console(quiet=True), visible=False) as bar:
        return run(config, bar, build=building(*sources))


def stored(database: Store) -> dict[str, int]:
    with database.connect() as connection:
        rows = connection.execute("SELECT source, count(*) FROM documents GROUP BY source ORDER BY 1")
        return dict(rows.fetchall())


def state(database: Store, source: str) -> SourceState:
    with database.connect() as connection:
        return next(one for one in load_states(connection, "acme") if one.source == source)


def test_the_other_sources_are_read_and_it_is_said_why_one_was_not(
    config: Config, sources: list[MemorySource], database: Store
) -> None:
    sources[0].fails_in = 0
    summary = ran(config, *sources)
    assert summary.failures == {"first": "source 'first' did not answer"}
    assert not summary.ok
    assert stored(database) == {"second": 3, "third": 3}
    assert summary.indexes["acme"].count == 6
    with database.connect() as connection:
        last = runs.last_run(connection, "acme")
    assert last is not None
    assert (last.status, last.error) == ("failed", "first: source 'first' did not answer")
    assert state(database, "first").last_error == "source 'first' did not answer"
    assert state(database, "second").last_error is None


def test_what_a_source_gave_before_it_failed_is_kept_and_the_next_run_goes_on(
    config: Config, sources: list[MemorySource], database: Store
) -> None:
    sources[1].fails_in = 2
    summary = ran(config, *sources)
    assert summary.outcomes == {"first": {"new": 3}, "second": {"new": 2}, "third": {"new": 3}}
    assert list(summary.failures) == ["second"]
    assert ran(config, *sources).outcomes["second"]["new"] == 1
    assert stored(database) == {"first": 3, "second": 3, "third": 3}


def test_a_source_that_cannot_even_be_opened_is_one_of_them(
    config: Config, sources: list[MemorySource], database: Store
) -> None:
    def build(source: Source, client: str, data_dir: Path, on_wait: OnWait) -> Extractor:
        if source.name == "second":
            raise AccessRefused("token of source second: environment variable GONE is not set")
        return building(*sources)(source, client, data_dir, on_wait)

    with run_progress(Console(quiet=True), visible=False) as bar:
        summary = run(config, bar, build=build)
    assert summary.failures == {"second": "token of source second: environment variable GONE is not set"}
    assert stored(database) == {"first": 3, "third": 3}


def test_what_cannot_be_stored_ends_the_run(
    config: Config, sources: list[MemorySource], database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*given: object) -> None:
        raise SinkUnavailable("Postgres failed 8 times")

    monkeypatch.setattr(slices, "run_bounded", away)
    with pytest.raises(SinkUnavailable):
        ran(config, *sources)
    with database.connect() as connection:
        assert [one.source for one in load_states(connection, "acme")] == ["first"]


def test_ctrl_c_while_a_source_is_read_ends_the_run(
    config: Config, sources: list[MemorySource], database: Store
) -> None:
    class Interrupted(MemorySource):
        def pages(self, cursor: Cursor | None) -> Iterator[Page]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ran(config, sources[0], Interrupted("second"), sources[2])
    assert stored(database) == {"first": 3}
    with database.connect() as connection:
        last = runs.last_run(connection, "acme")
    assert last is not None
    assert last.status == "interrupted"


def test_the_command_line_shows_what_was_read_and_a_line_for_each_failure(
    headrace: Headrace, write_config: Callable[[str], Path], tmp_path: Path
) -> None:
    Repo(tmp_path / "code").commit("Dig the race")
    toml = (
        '[[sources]]\ntype = "export"\nname = "tickets"\npaths = ["gone.jsonl"]\n'
        '[[sources]]\ntype = "git"\nname = "code"\npath = "code"\n'
        '[[sources]]\ntype = "git"\nname = "other"\npath = "gone"\n'
    )
    config = write_config(toml)
    code, out, err = headrace("run", "-c", config)
    assert code == 1
    assert "code" in out
    first, second = err.strip().splitlines()
    assert "gone.jsonl: no such file: correct `paths` of source tickets" in first
    assert second.startswith("headrace: other: ")
    assert "no such folder" in second
    code, out, err = headrace("run", "-c", config, "--json")
    assert (code, list(json.loads(out)["failures"])) == (1, ["tickets", "other"])
    assert json.loads(out)["sources"]["code"]["read"] == 0
    assert len(err.strip().splitlines()) == 2

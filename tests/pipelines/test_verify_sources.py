"""`verify --sources` finds what source and store do not share, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from benchmarks.stand_in import no_model
from pipelines.verify_sources import verify_sources
from runners.progress_bar import run_progress
from runners.run import run
from schemas.config import Config
from tests.runners.conftest import make_config  # noqa: F401 - a fixture
from tests.runners.memory_source import MemorySource, building, configured
from transforms.postgres import Store


@pytest.fixture
def config(make_config: Callable[..., Config]) -> Config:  # noqa: F811
    return make_config().model_copy(update={"sources": (configured(),)})


@pytest.fixture
def source(config: Config) -> Iterator[MemorySource]:
    """With four documents, all stored."""
    source = MemorySource()
    for number in range(4):
        source.put(str(number), f"gate {number}")
    with no_model(), run_progress(Console(quiet=True), visible=False) as bar:
        run(config, bar, build=building(source))
        yield source


def test_a_store_that_holds_what_its_source_holds_is_fine(config: Config, source: MemorySource) -> None:
    (verdict,) = verify_sources(config, "acme", building(source))
    assert verdict.ok
    assert verdict.examples == {}


def test_orphans_and_gaps_are_counted_and_named(
    config: Config, source: MemorySource, database: Store
) -> None:
    source.delete("1")
    source.put("new", "weir")
    (verdict,) = verify_sources(config, "acme", building(source))
    assert not verdict.ok
    assert verdict.difference is not None
    assert (verdict.difference.missing_in_source, verdict.difference.missing_in_store) == (1, 1)
    assert verdict.examples == {"source": ["issue MILL-1"], "store": ["issue MILL-new"]}
    with database.connect() as connection:
        stored = connection.execute("SELECT count(*) FROM documents WHERE deleted_at IS NULL").fetchone()
    assert (stored, source.looked_at) == ((4,), [])


def test_a_source_that_cannot_be_asked_is_not_fine_and_an_export_is_skipped(
    config: Config, source: MemorySource
) -> None:
    source.fails_in = 0
    (verdict,) = verify_sources(config, "acme", building(source))
    assert (verdict.ok, verdict.error) == (False, "source 'tickets' did not answer")
    (verdict,) = verify_sources(config, "acme")
    assert (verdict.ok, verdict.difference) == (True, None)
    assert verdict.not_asked


def test_sources_of_another_client_are_not_asked(config: Config, source: MemorySource) -> None:
    assert verify_sources(config, "rival", building(source)) == []

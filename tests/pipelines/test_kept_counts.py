"""A job without an end counts outcomes as a bounded one does, and keeps them with its run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import UUID

import apache_beam as beam
import pytest

from benchmarks.stand_in import no_model
from extractors.base import Page
from pipelines.ingest import IngestJob, ingest
from runners.direct import run_bounded
from runners.slices import job_for, register_clients
from schemas.config import Config
from schemas.documents import Kind, Tombstone
from tests.runners.conftest import make_config
from tests.runners.memory_source import BEGIN, MemorySource, configured
from transforms import runs
from transforms.embedders.models import space_of
from transforms.postgres import Store

__all__ = ["make_config"]

RUN = UUID(int=7)


@pytest.fixture(autouse=True)
def _stand_in() -> Iterator[None]:
    with no_model():
        yield


@pytest.fixture
def job(make_config: Callable[..., Config], database: Store) -> IngestJob:
    config = make_config().model_copy(update={"sources": (configured("tickets"),)})
    space = space_of(config.model)
    with database.connect() as connection:
        register_clients(connection, config, space)
        runs.start_run(connection, RUN, "acme", space.space_id)
    return job_for(config, config.sources[0], database, space, RUN)


@pytest.fixture
def page() -> Page:
    """Three issues, one of them torn, and one that is gone."""
    source = MemorySource("tickets", page_records=3)
    for number in range(3):
        source.put(str(number), "gate")
    first, second, torn = next(source.pages(None)).records
    gone = Tombstone("acme", "tickets", Kind.ISSUE, "9", BEGIN, "404")
    return Page(records=(first, second, replace(torn, payload=b"{}")), tombstones=(gone,))


def _ran(job: IngestJob, page: Page) -> Counter[str]:
    counts, _ = run_bounded(
        lambda pipeline: ingest(pipeline | "Pages" >> beam.Create([page], reshuffle=False), job)
    )
    return counts


def test_what_the_runner_counts_is_kept_with_the_run(job: IngestJob, page: Page, database: Store) -> None:
    endless = replace(job, endless=True)
    first, again = _ran(endless, page), _ran(endless, page)
    assert (first["new"], first["dead_lettered"]) == (2, 1)
    assert (again["new"], again["unchanged"], again["dead_lettered"]) == (0, 3, 1)
    assert first.total() == again.total() == page.read
    with database.connect() as connection:
        assert runs.counts_of_run(connection, RUN) == {"tickets": first + again}


def test_the_counts_of_a_bounded_job_are_its_drivers_to_keep(
    job: IngestJob, page: Page, database: Store
) -> None:
    assert _ran(job, page).total() == page.read
    with database.connect() as connection:
        assert runs.counts_of_run(connection, RUN) == {}

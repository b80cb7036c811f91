"""`headrace reconcile`: every source's census against the store, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from uuid import UUID

import psycopg

from extractors.base import Extractor, Verifiable
from extractors.read import build_extractor
from pipelines.ingest import IngestJob
from pipelines.reconcile import NOT_VERIFIABLE, SourceReport, compared, reconcile
from runners.progress_bar import RunProgress
from runners.run import refresh_indexes
from runners.slices import (
    BuildExtractor,
    check_ready,
    cut,
    job_for,
    owner_of,
    register_clients,
    store_pages,
    wrote,
)
from schemas.config import Config
from schemas.errors import PipelineError, SetupError, UnknownName
from schemas.sources import Source
from transforms import runs
from transforms.embedders.models import space_of
from transforms.postgres import open_store
from transforms.sinks.faiss_index import IndexReport
from transforms.source_states import noted, one_line


@dataclass(frozen=True, slots=True)
class ReconcileSummary:
    """What a reconciliation found and did.

    Args:
        run_id: None for a dry run.
    """

    run_id: UUID | None
    reports: tuple[SourceReport, ...]
    indexes: dict[str, IndexReport] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return all(report.ok for report in self.reports)


def chosen(config: Config, name: str | None) -> Sequence[Source]:
    """The source of that name; all where there is no name.

    Raises:
        UnknownName: none is configured so.
    """
    found = [source for source in config.sources if name in (None, source.name)]
    if not found:
        known = ", ".join(source.name for source in config.sources) or "none"
        raise UnknownName(f"source {name!r} is not configured: expected one of {known}")
    return found


def reconcile_sources(
    config: Config,
    bar: RunProgress,
    *,
    name: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    build: BuildExtractor = build_extractor,
) -> ReconcileSummary:
    """Compare sources with the store and mend the difference; one that fails does not stop the others.

    Args:
        name: of one source; None for all.
        force: see `pipelines.reconcile.reconcile`.
        dry_run: take the census and compare, nothing else.
        build: makes the reader of a source.
    Raises:
        SetupError: there is nothing to compare, or another writer of this client.
    """
    bar.step("starting")
    check_ready(config)
    sources = chosen(config, name)
    store, space = open_store(config), space_of(config.model)
    reports = [SourceReport(source.name, owner_of(config, source)) for source in sources]
    pairs = list(zip(sources, reports, strict=True))
    with store.connect() as connection:
        if dry_run:
            for source, report in pairs:
                bar.source(source.name, None)
                with _isolated(report), _opened(build, source, config, bar) as extractor:
                    _compare(connection, extractor, report)
            return ReconcileSummary(None, tuple(reports))
        register_clients(connection, config, space)
        with runs.started(connection, config.client, space.space_id) as run_id:
            for source, report in pairs:
                bar.source(source.name, None)
                job = job_for(config, source, store, space, run_id)
                with _isolated(report), _opened(build, source, config, bar) as extractor:
                    _reconcile(connection, config, extractor, job, report, force)
            written = any(wrote(report.outcomes) for report in reports)
            indexes = refresh_indexes(connection, config, space, written, bar)
    return ReconcileSummary(run_id, tuple(reports), indexes)


def _opened(
    build: BuildExtractor, source: Source, config: Config, bar: RunProgress
) -> AbstractContextManager[Extractor]:
    return closing(build(source, config.client, config.data_dir, bar.waiting))


@contextmanager
def _isolated(report: SourceReport) -> Iterator[None]:
    """What fails here is said in the report, and the next source goes on."""
    try:
        yield
    except PipelineError as error:
        report.error = "" if str(error) == report.refused else one_line(error)


def _compare(connection: psycopg.Connection, extractor: Extractor, report: SourceReport) -> None:
    if not isinstance(extractor, Verifiable):
        report.not_asked = NOT_VERIFIABLE
        return
    with compared(connection, report.client, report.source, extractor.census()) as difference:
        report.difference = difference


def _reconcile(
    connection: psycopg.Connection,
    config: Config,
    extractor: Extractor,
    job: IngestJob,
    report: SourceReport,
    force: bool,
) -> None:
    if not isinstance(extractor, Verifiable):
        report.not_asked = NOT_VERIFIABLE
        return
    with noted(connection, report.client, report.source, "reconcile"), job.store.connect() as census:
        pages = reconcile(census, extractor, report, config.reconcile.max_share, force=force)
        for piece in cut(pages, config.slices):
            report.outcomes += store_pages(connection, job, piece.pages)
        if report.refused:
            raise SetupError(report.refused)

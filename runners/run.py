"""A run: every source brought up to date slice by slice, then the indexes. It outlasts an outage of Postgres."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import psycopg

from extractors.base import Cursor, Extractor
from extractors.read import build_extractor
from pipelines.ingest import IngestJob
from runners.outages import MOST_IN_A_ROW, connect_again, is_lost
from runners.parking import parked_pages
from runners.progress_bar import RunProgress
from runners.slices import (
    BuildExtractor,
    Slice,
    StoredSlice,
    check_ready,
    cut,
    job_for,
    keep_slice,
    owners,
    register_clients,
    run_slice,
    store_pages,
    wrote,
)
from runners.targets import HERE, Target
from schemas.config import Config, Slices
from schemas.errors import DatabaseUnreachable, PipelineError, RetryableError
from schemas.outcomes import MODERATED
from schemas.quality import QualityReport
from schemas.sources import Source
from schemas.spaces import EmbeddingSpace
from transforms import progress, runs
from transforms.dead_letters import count_parked
from transforms.detectors.base import KINDS
from transforms.embedders.models import space_of
from transforms.postgres import Store, open_store
from transforms.progress import Counts
from transforms.quality_reports import summarise_run
from transforms.sinks.faiss_index import IndexReport, update_index
from transforms.source_states import noted, one_line
from transforms.spaces import analyze, build_vector_index
from transforms.usage import RunUsage, usage_of_run
from transforms.usage_sums import refresh_daily_usage

BuildIndex = Callable[[psycopg.Connection, str, Callable[[float], None]], bool]
AfterSlice = Callable[[psycopg.Connection], None]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did.

    Args:
        outcomes: for each source, outcome -> records (`read` is their sum).
        tokens_seen: tokens of the documents' texts that were cut into chunks.
        tokens_truncated: of those, in no chunk.
        moderated: documents by what moderation made of them, `judged` among them; empty where nobody judges.
        redacted: kind -> values that were replaced in the texts worked on.
        work: in this process, the engine's time and that of the steps beside it among it.
        indexes: for each client, what became of its FAISS index.
        failures: for each source that could not be read to its end, why, on one line.
        parked: why documents wait for an endpoint -> how many; they are tried again by themselves.
    """

    run_id: UUID
    space: EmbeddingSpace
    duration_s: float
    outcomes: dict[str, Counter[str]]
    tokens_seen: int
    tokens_truncated: int
    usage: RunUsage
    quality: QualityReport
    work: Counts
    indexes: dict[str, IndexReport] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    parked: dict[str, int] = field(default_factory=dict)
    moderated: dict[str, int] = field(default_factory=dict)
    redacted: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.failures

    @property
    def totals(self) -> Counter[str]:
        """Outcome -> records over all sources."""
        return sum(self.outcomes.values(), Counter())


def run(
    config: Config,
    bar: RunProgress,
    target: Target = HERE,
    build: BuildExtractor = build_extractor,
    after_slice: AfterSlice = lambda connection: None,
    build_index: BuildIndex = build_vector_index,
) -> RunSummary:
    """Bring the index up to date with every configured source, then its FAISS files.

    A source that cannot be read does not keep the others from it, nor Postgres where it is away for a minute.

    Args:
        target: where each slice's pipeline is run.
        build: makes the reader of a source.
        after_slice: what it raises ends the run, whose slices so far stay.
        build_index: of vectors in Postgres.
    Raises:
        PipelineError: something that all sources need is not there, or what was read cannot be stored; what was
            committed before stays, and a later run goes on from there.
    """
    bar.step("starting")
    check_ready(config)
    running = _Running(config, open_store(config), bar, target, build, after_slice, build_index)
    connection = running.store.connect()
    while True:
        with connection:
            try:
                return running.over(connection)
            except (psycopg.OperationalError, psycopg.InterfaceError, RetryableError, DatabaseUnreachable):
                if running.outages == MOST_IN_A_ROW or not is_lost(connection):
                    raise
        running.outages += 1
        bar.step("waiting for Postgres")
        connection = connect_again(running.store, bar.waiting)


@dataclass(slots=True)
class _Running:
    """A run and what it has done so far, over however many connections.

    Args:
        unfinished: a slice whose rows are stored, and whose cursor is not.
        read: sources that have been read to their end, or failed.
        outages: of Postgres, in a row, without a slice kept in between.
    """

    config: Config
    store: Store
    bar: RunProgress
    target: Target
    build: BuildExtractor
    after_slice: AfterSlice
    build_index: BuildIndex
    started_s: float = field(default_factory=time.monotonic)
    before: Counts = field(default_factory=progress.current)
    run_id: UUID | None = None
    first_row_id: int = 0
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    texts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    unfinished: StoredSlice | None = None
    outages: int = 0

    def over(self, connection: psycopg.Connection) -> RunSummary:
        """Do what is left to do."""
        config, space = self.config, space_of(self.config.model)
        register_clients(connection, config, space)
        with runs.started(connection, config.client, space.space_id, self.run_id) as run_id:
            if self.run_id is None:
                self.run_id, self.first_row_id = run_id, runs.next_row_id(connection)
                if self.target.take_over and (said := self.target.take_over()):
                    self.bar.say(said)
            if self.unfinished is not None:
                self._keep(connection, self.unfinished)
            jobs = [job_for(config, source, self.store, space, run_id) for source in config.sources]
            for source, job in zip(config.sources, jobs, strict=True):
                if source.name not in self.read:
                    self._read(connection, source, job)
            for job in jobs:
                for piece in cut(parked_pages(connection, job), config.slices):
                    self.outcomes[job.source.name] += store_pages(connection, job, piece.pages, self.target)
            written = any(map(wrote, self.outcomes.values()))
            indexes = refresh_indexes(connection, config, space, written, self.bar, self.build_index)
            quality = summarise_run(connection, config.client, run_id, space.space_id, self.first_row_id)
            usage = usage_of_run(connection, run_id)
            parked = _parked(connection, owners(config))
            if self.failures:
                said = "; ".join(f"{name}: {why}" for name, why in self.failures.items())
                runs.finish_run(connection, run_id, "failed", said)
        texts = self.texts
        return RunSummary(
            run_id=run_id,
            space=space,
            duration_s=time.monotonic() - self.started_s,
            outcomes=self.outcomes,
            tokens_seen=texts["seen"],
            tokens_truncated=texts["truncated"],
            usage=usage,
            quality=quality,
            work=progress.current().since(self.before),
            indexes=indexes,
            failures=self.failures,
            parked=parked,
            moderated={name: texts[name] for name in MODERATED} if config.moderation is not None else {},
            redacted={kind: texts[kind] for kind in KINDS if texts[kind]},
        )

    def _read(self, connection: psycopg.Connection, source: Source, job: IngestJob) -> None:
        """Store what a source has, slice by slice.

        Raises:
            PipelineError: a slice could not be stored.
        """
        self.outcomes.setdefault(source.name, Counter())
        cursor = runs.load_cursor(connection, job.client, source.name, job.space.space_id, job.processing)
        self.bar.source(source.name, None)
        try:
            with noted(connection, job.client, source.name, "poll"):
                with _reading():
                    extractor = self.build(source, self.config.client, self.config.data_dir, self.bar.waiting)
                with closing(extractor):
                    with _reading():
                        self.bar.expect(extractor.estimate(cursor))  # may clone first, which is shown
                    with closing(_slices(extractor, cursor, self.config.slices)) as pieces:
                        for piece in pieces:
                            self._keep(connection, run_slice(job, piece, self.target, self.bar.note))
                            self.after_slice(connection)
        except _Unreadable as error:
            self.failures[source.name] = one_line(error)
        self.read.add(source.name)

    def _keep(self, connection: psycopg.Connection, stored: StoredSlice) -> None:
        self.unfinished = stored
        keep_slice(connection, stored)
        self.unfinished, self.outages = None, 0
        self.outcomes[stored.job.source.name] += stored.counts
        self.texts += stored.texts


def _parked(connection: psycopg.Connection, clients: Sequence[str]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for client in clients:
        total.update(count_parked(connection, client))
    return dict(total)


def refresh_indexes(
    connection: psycopg.Connection,
    config: Config,
    space: EmbeddingSpace,
    written: bool,
    bar: RunProgress,
    build_index: BuildIndex = build_vector_index,
) -> dict[str, IndexReport]:
    """Build Postgres's vector index where it is still missing, and bring up to date every owner's FAISS index and the
    daily sums of the ledger.

    Args:
        written: rows have changed since the planner's statistics were taken.
    """
    bar.step("index in Postgres")
    build_index(connection, space.space_id, partial(bar.step, "index in Postgres"))
    if written:
        analyze(connection, space.space_id)
    indexes = {}
    for client in owners(config):
        bar.step("FAISS index")
        indexes[client] = update_index(
            connection,
            config.data_dir,
            space,
            client,
            config.faiss,
            lambda done, total: bar.step("FAISS index", done / total),
        )
    refresh_daily_usage(connection)
    return indexes


class _Unreadable(PipelineError):
    """Reading a source failed, as its argument says; not storing what it gave, which concerns all sources."""


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except PipelineError as error:
        raise _Unreadable(error) from error


def _slices(extractor: Extractor, cursor: Cursor | None, limits: Slices) -> Generator[Slice]:
    with _reading():
        yield from cut(extractor.pages(cursor), limits)

"""Local runs, cut into slices.

Beam's in-process runner holds a stage in memory and does not stream, so a local run is a sequence of bounded
pipelines. A slice's cursor and counts are committed only after its rows are durable: a killed run starts again at
the slice it was in, finds what that slice had already stored "unchanged", and goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

import psycopg

from extractors.base import Cursor, Extractor, OnWait, Page
from extractors.read import build_extractor
from pipelines.ingest import IngestJob
from pipelines.ingest import build as build_pipeline
from runners.direct import run_bounded
from runners.outages import MOST_IN_A_ROW, connect_again, is_lost
from runners.parking import parked_pages
from runners.progress_bar import RunProgress
from runners.spools import spooled
from runners.targets import HERE, Target
from schemas.config import Config, Slices
from schemas.errors import BadConfig, CountsDoNotAddUp, DatabaseUnreachable, PipelineError, RetryableError
from schemas.outcomes import MODERATED, SKIPPED_PREFIX, Outcome
from schemas.quality import QualityReport
from schemas.sources import Source
from schemas.spaces import EmbeddingSpace
from transforms import progress, runs
from transforms.changes import split_page
from transforms.dead_letters import count_parked
from transforms.detectors.base import KINDS
from transforms.embedders.loading import load_words
from transforms.embedders.models import space_of
from transforms.postgres import Store, open_store
from transforms.progress import Counts
from transforms.quality_reports import summarise_run
from transforms.sinks.faiss_index import IndexReport, update_index
from transforms.source_states import note_changed, noted, one_line
from transforms.spaces import analyze, build_vector_index, register_space
from transforms.usage import RunUsage, usage_of_run
from transforms.usage_sums import refresh_daily_usage

BuildExtractor = Callable[[Source, str, Path, OnWait], Extractor]
BuildIndex = Callable[[psycopg.Connection, str, Callable[[float], None]], bool]
AfterSlice = Callable[[psycopg.Connection], None]
WRITING = {Outcome.NEW, Outcome.CHANGED, Outcome.DELETED}


@dataclass(frozen=True, slots=True)
class Slice:
    """Some pages to be run as one bounded pipeline; `cursor` resumes after them."""

    pages: tuple[Page, ...]
    cursor: Cursor | None


@dataclass(frozen=True, slots=True)
class StoredSlice:
    """A slice whose rows are durable.

    Args:
        counts: outcome -> records, what its source skipped among them.
        texts: what is counted of its texts.
    """

    job: IngestJob
    piece: Slice
    counts: Counter[str]
    texts: Counter[str]


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


def cut(pages: Iterable[Page], limits: Slices) -> Iterator[Slice]:
    """Gather pages into slices; a slice ends with the page that reaches a limit.

    What came before a failure is a slice too: a source may say what it could not read after all that it could.
    """
    gathered: list[Page] = []
    documents = payload_bytes = 0
    failure: PipelineError | None = None
    try:
        for page in pages:
            gathered.append(page)
            documents += page.read
            payload_bytes += sum(len(record.payload) for record in page.records)
            if documents >= limits.max_documents or payload_bytes >= limits.max_payload_mib * 1024 * 1024:
                yield Slice(tuple(gathered), page.cursor)
                gathered, documents, payload_bytes = [], 0, 0
    except PipelineError as error:
        failure = error
    if gathered:
        yield Slice(tuple(gathered), gathered[-1].cursor)
    if failure is not None:
        raise failure


def accounted(pages: Sequence[Page], outcomes: Counter[str]) -> Counter[str]:
    """Outcomes of a slice with what its source skipped.

    Raises:
        CountsDoNotAddUp: records read and records accounted for differ.
    """
    counts = Counter(outcomes)
    for page in pages:
        counts.update({f"{SKIPPED_PREFIX}{reason}": number for reason, number in page.skipped.items()})
    read = sum(page.read for page in pages)
    if read != counts.total():
        raise CountsDoNotAddUp(f"{read} records were read, {counts.total()} accounted for: {dict(counts)}")
    return counts


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


def check_ready(config: Config) -> None:
    """Find and verify the model before anything is written.

    Raises:
        BadConfig: there is nothing to read.
        SetupError: the model is not there, or not what it should be.
    """
    if not config.sources:
        raise BadConfig("no sources are configured: add a [[sources]] table, as the README shows")
    load_words(config.model)


def owner_of(config: Config, source: Source) -> str:
    """The client whose documents a source's are."""
    return source.client or config.client


def owners(config: Config) -> list[str]:
    """All clients whose documents the configured sources bring."""
    return sorted({owner_of(config, source) for source in config.sources})


def register_clients(connection: psycopg.Connection, config: Config, space: EmbeddingSpace) -> None:
    """Make the space known to all owners."""
    for client in owners(config):
        register_space(connection, space, config.postgres.vector_type, client)


def job_for(config: Config, source: Source, store: Store, space: EmbeddingSpace, run_id: UUID) -> IngestJob:
    """What the pipeline needs to know for a source."""
    return IngestJob(
        source,
        owner_of(config, source),
        run_id,
        store,
        space,
        config.model,
        config.chunking,
        config.cache,
        config.privacy,
        config.allowance,
        config.moderation,
    )


def wrote(outcomes: Counter[str]) -> bool:
    """Whether anything was stored or deleted."""
    return bool(outcomes.keys() & WRITING)


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


def needs_work(connection: psycopg.Connection, job: IngestJob, pages: Sequence[Page]) -> bool:
    """Whether anything in these pages must be stored. Records seen again are noted, as the pipeline would."""
    return any(
        page.tombstones
        or page.dead_letters
        or (page.records and split_page(connection, job.space.space_id, job.processing, page.records)[0])
        for page in pages
    )


def store_slice(connection: psycopg.Connection, job: IngestJob, piece: Slice) -> Counter[str]:
    """Put a slice through the pipeline in this process, then keep its cursor; gives outcomes.

    Raises:
        PipelineError: of any kind; the cursor is where it was.
    """
    stored = run_slice(job, piece)
    keep_slice(connection, stored)
    return stored.counts


def run_slice(
    job: IngestJob, piece: Slice, target: Target = HERE, note: Callable[[str], None] | None = None
) -> StoredSlice:
    """Put a slice through the pipeline; its cursor is where it was.

    Args:
        note: told how the job stands, where the target knows.
    Raises:
        PipelineError: of any kind.
    """
    counted, texts = run_pages(piece.pages, job, target, note)
    return StoredSlice(job, piece, accounted(piece.pages, counted), texts)


def keep_slice(connection: psycopg.Connection, stored: StoredSlice) -> None:
    """Keep a slice's cursor and counts."""
    job, piece = stored.job, stored.piece
    runs.commit_slice(
        connection,
        job.run_id,
        job.client,
        job.source.name,
        job.space.space_id,
        job.processing,
        piece.cursor,
        stored.counts,
    )
    _tell(connection, job, piece.pages, stored.counts)


def store_pages(
    connection: psycopg.Connection, job: IngestJob, pages: Sequence[Page], target: Target = HERE
) -> Counter[str]:
    """Put pages whose cursors mean nothing through the pipeline; gives outcomes.

    Raises:
        PipelineError: of any kind.
    """
    counted, _ = run_pages(pages, job, target)
    counts = accounted(pages, counted)
    runs.add_counts(connection, job.run_id, job.source.name, counts)
    _tell(connection, job, pages, counts)
    return counts


def _tell(
    connection: psycopg.Connection, job: IngestJob, pages: Sequence[Page], counts: Counter[str]
) -> None:
    progress.add(documents=sum(sum(page.skipped.values()) for page in pages))
    if wrote(counts):
        note_changed(connection, job.client, job.source.name)


def run_pages(
    pages: Sequence[Page], job: IngestJob, target: Target = HERE, note: Callable[[str], None] | None = None
) -> tuple[Counter[str], Counter[str]]:
    """Put pages through the pipeline, keeping no account of it; gives outcomes, and counts of texts.

    Raises:
        PipelineError: of any kind.
    """
    with spooled(pages, target) as spools:
        build = partial(build_pipeline, spools=spools, job=job, embed_hints=target.embed_hints)
        return run_bounded(build, target, note)

"""A slice: some pages of a source, put through one bounded pipeline.

Beam's in-process runner holds a stage in memory and does not stream, so a local run is a sequence of bounded
pipelines. A slice's cursor and counts are committed only after its rows are durable: a killed run starts again at
the slice it was in, finds what that slice had already stored "unchanged", and goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import psycopg

from extractors.base import Cursor, Extractor, OnWait, Page
from pipelines.ingest import IngestJob
from pipelines.ingest import build as build_pipeline
from runners.direct import run_bounded
from runners.spools import spooled
from runners.targets import HERE, Target
from schemas.config import Config, Slices
from schemas.errors import BadConfig, CountsDoNotAddUp, PipelineError
from schemas.outcomes import SKIPPED_PREFIX, Outcome
from schemas.sources import Source
from schemas.spaces import EmbeddingSpace
from transforms import progress, runs
from transforms.changes import split_page
from transforms.embedders.loading import load_words
from transforms.postgres import Store
from transforms.source_states import note_changed
from transforms.spaces import register_space

BuildExtractor = Callable[[Source, str, Path, OnWait], Extractor]
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

"""The main pipeline: pages of records in; rows, ledger, reports and dead letters out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import apache_beam as beam

from extractors.base import Page
from extractors.read import ExtractDocuments, ReadPages, extraction_settings
from pipelines.coders import Records, coded
from schemas.allowances import AllowanceSettings
from schemas.config import Cache, Chunking, Model, Privacy
from schemas.documents import (
    ChunkedDocument,
    DeadLetter,
    Document,
    EmbeddedBatch,
    SourceRecord,
    Tombstone,
)
from schemas.ids import settings_digest
from schemas.moderation import Moderation
from schemas.quality import BatchReport
from schemas.sources import SourceSettings
from schemas.spaces import EmbeddingSpace
from schemas.usage import UsageEvent
from transforms.changes import SkipUnchanged
from transforms.chunk import ChunkDocuments, chunking_settings
from transforms.embed import EmbedChunks
from transforms.moderate import ModerateDocuments, moderation_settings
from transforms.outcomes import OfRun
from transforms.postgres import Store
from transforms.providers.metering import Account
from transforms.quality import CheckVectors
from transforms.redact import RedactDocuments, redaction_settings
from transforms.sinks.ledger import WriteDeadLetters, WriteQuality, WriteUsage
from transforms.sinks.pgvector import DeleteFromPgvector, WriteToPgvector


@dataclass(frozen=True, slots=True)
class IngestJob:
    """What the pipeline needs to know; picklable, without secrets.

    Args:
        source: whose records these are, and how their text is taken.
        client: who owns the documents and pays.
        endless: no driver reads the runner's counters when it has ended: outcomes are added to the run's at once.
    """

    source: SourceSettings
    client: str
    run_id: UUID
    store: Store
    space: EmbeddingSpace
    model: Model
    chunking: Chunking
    cache: Cache
    privacy: Privacy
    allowance: AllowanceSettings = field(default_factory=AllowanceSettings)
    moderation: Moderation | None = None
    endless: bool = False

    @property
    def kept(self) -> OfRun | None:
        """Where outcomes are added, if at once."""
        return OfRun(self.run_id, self.source.name) if self.endless else None

    @property
    def redacts(self) -> bool:
        """Whether documents are redacted."""
        return self.privacy.redacts(self.client, self.model, self.moderation)

    @property
    def redacts_letters(self) -> bool:
        """Whether dead letters are: they never leave, but `always` is about the store, too."""
        return self.privacy.policy_of(self.client) == "always"

    @property
    def processing(self) -> bytes:
        """Digest of all that is done to a record: when it changes, the record is worked on again."""
        return processing_of(self.source, self.chunking, self.space, self.redacts, self.moderation)


def processing_of(
    source: SourceSettings,
    chunking: Chunking,
    space: EmbeddingSpace,
    redacts: bool,
    moderation: Moderation | None,
) -> bytes:
    """As `IngestJob.processing`. What is not redacted or judged does not depend on how it would be."""
    settings = {
        "extract": extraction_settings(source),
        "chunk": chunking_settings(chunking),
        "space": space.space_id,
    }
    if redacts:
        settings["redact"] = redaction_settings()
    if moderation is not None:
        settings["moderate"] = moderation_settings(moderation)
    return settings_digest(settings)


def build(
    pipeline: beam.Pipeline,
    spools: Sequence[Path | str],
    job: IngestJob,
    embed_hints: Mapping[str, str] | None = None,
) -> None:
    """Wire the steps for the pages of one slice. Steps are fused: nothing is shuffled between them.

    Args:
        spools: files with the pages, as paths or URLs of Beam's filesystems.
        embed_hints: Beam's resource hints for the embedding step, which is then in an environment of its own, so
            that what goes in and comes out of it is shuffled after all.
    """
    ingest(pipeline | "Read" >> ReadPages(spools), job, embed_hints)


def ingest(
    read: beam.PCollection[Page], job: IngestJob, embed_hints: Mapping[str, str] | None = None
) -> None:
    """Wire the steps for pages, however they were read: as `build`."""
    records = read | "Records" >> beam.Map(lambda page: page.records)
    gone = read | "Tombstones" >> beam.FlatMap(lambda page: page.tombstones)
    unreadable = read | "Unreadable" >> beam.FlatMap(lambda page: page.dead_letters)

    changed = records | "SkipUnchanged" >> SkipUnchanged(
        job.store, job.space.space_id, job.processing, job.kept
    )
    extracted = changed | "Extract" >> ExtractDocuments(job.source)
    redacted = extracted.documents | "Redact" >> RedactDocuments(job.redacts)
    chunked = redacted.documents | "Chunk" >> ChunkDocuments(job.chunking, job.model)
    account = Account(job.client, job.run_id, job.space.space_id, job.source.name)
    moderated = chunked.documents | "Moderate" >> ModerateDocuments(
        job.moderation, job.store, account, job.allowance
    )
    embed = EmbedChunks(
        job.model,
        job.store,
        job.cache,
        job.client,
        job.run_id,
        source=job.source.name,
        allowance=job.allowance,
    )
    if embed_hints:
        embed = embed.with_resource_hints(**embed_hints)
    embedded = moderated.documents | "Embed" >> embed
    checked = embedded.batches | "CheckVectors" >> CheckVectors(job.space)

    checked.batches | "WritePgvector" >> WriteToPgvector(
        job.store, job.processing, job.run_id, job.redacts_letters, job.kept
    )
    gone | "DeleteDocuments" >> DeleteFromPgvector(job.store, job.run_id, job.kept)
    embedded.usage | "WriteUsage" >> WriteUsage(job.store)
    checked.reports | "WriteQuality" >> WriteQuality(job.store, job.client, job.run_id, job.space.space_id)

    refused = (
        unreadable,
        extracted.dead_letters,
        redacted.dead_letters,
        chunked.dead_letters,
        moderated.dead_letters,
        embedded.dead_letters,
        checked.dead_letters,
    )
    letters = refused | "DeadLetters" >> beam.Flatten()
    letters | "WriteDeadLetters" >> WriteDeadLetters(job.store, job.redacts_letters, job.kept)

    coded(Page, read)
    coded(Records, records)
    coded(SourceRecord, changed)
    coded(Tombstone, gone)
    coded(Document, extracted.documents, redacted.documents)
    coded(ChunkedDocument, chunked.documents, moderated.documents)
    coded(EmbeddedBatch, embedded.batches, checked.batches)
    coded(UsageEvent, embedded.usage)
    coded(BatchReport, checked.reports)
    coded(DeadLetter, *refused, letters)

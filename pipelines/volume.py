"""How much there is to embed in each source: read as a run would read it, and nothing of it stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import UUID

import psycopg

from extractors.base import Extractor, OnWait
from extractors.read import build_extractor, to_document
from pipelines.ingest import processing_of
from pipelines.sampling import Estimate, Sample, counted, total
from schemas.config import Config
from schemas.documents import ChunkedDocument, ModelInput, SourceRecord
from schemas.errors import RecordError
from schemas.sources import GitHubSource, JiraSource, Source
from schemas.spaces import EmbeddingSpace
from transforms.changes import decide, stored_states
from transforms.chunk import chunk_document
from transforms.embedders.loading import load_words
from transforms.redact import redact_document
from transforms.reuse import stored_vectors
from transforms.runs import load_cursor

SAMPLE = 2000
"""Documents of a source that are cut."""
LOCAL_READ = 100 * SAMPLE
"""Records of a source on this disk that are read at the most; of one elsewhere, as many as are cut."""
KEPT_TOKENS = 131_072
"""Of model inputs, kept to try the engine with."""
AT_ONCE = 200
"""Documents whose stored vectors are looked up together."""

Basis = Literal["exact", "sampled", "beginning", "open end"]
"""Why figures are what they are.

`exact`: all was read and cut. `sampled`: all was read, a random part cut; the interval says how sure that is.
`beginning`: only the first records were read, and a random part of them cut: the rest is taken to be like them, which
no interval can say. `open end`: the same, and the source does not say how many more there are: figures are the least.
"""

BuildExtractor = Callable[[Source, str, Path, OnWait], Extractor]
Progress = Callable[[str, int, int | None], None]
"""Told a source's name, records read so far, and records thought to come in all."""


@dataclass(frozen=True, slots=True)
class SourceVolume:
    """What a run would find in a source.

    Args:
        read: records looked at.
        expected: records there are to read, as far as the source says.
        unchanged: of the expected, those stored already that would not be embedded again.
        cut: documents whose chunks were counted.
        documents: that would be worked on.
        chunks: that would get a vector.
        tokens: of their distinct texts in each document, special tokens included; texts that several documents share
            may be embedded once and are counted each time.
        reused: chunks of changed documents whose vectors are stored already.
    """

    source: str
    client: str
    basis: Basis
    read: int
    expected: int
    unchanged: int
    cut: int
    documents: int
    chunks: Estimate
    tokens: Estimate
    reused: Estimate


class Counted(NamedTuple):
    """What was counted of one document, or of several together."""

    payload_bytes: int
    chunks: int
    tokens: int
    reused: int


class Meter:
    """Counts what documents would cost to embed, as the pipeline would cut them.

    Args:
        connection: to the store; nothing is written.
    """

    def __init__(self, connection: psycopg.Connection, config: Config, space: EmbeddingSpace) -> None:
        self.inputs: list[ModelInput] = []
        self._kept_tokens = 0
        self._connection = connection
        self._chunking = config.chunking
        self._privacy = config.privacy
        self._client = config.client
        self._model = config.model
        self._moderation = config.moderation
        self._space = space
        self._max_tokens = min(config.chunking.max_tokens or space.max_tokens, space.max_tokens)
        self._words = load_words(config.model)
        row = connection.execute("SELECT to_regclass(%s)", [f"chunks_{space.space_id}"]).fetchone()
        self._has_vectors = row != (None,)

    def count(self, records: Sequence[SourceRecord], source: Source) -> Iterator[Counted]:
        """What each record has, in order; one that cannot be read has nothing."""
        for start in range(0, len(records), AT_ONCE):
            some = records[start : start + AT_ONCE]
            documents = [self._chunked(record, source) for record in some]
            known = self._known([document for document in documents if document is not None])
            for record, document in zip(some, documents, strict=True):
                chunks = document.chunks if document is not None else ()
                new = [chunk for chunk in chunks if (record.document_id, chunk.text_hash) not in known]
                # What a document says twice is embedded once.
                inputs = list({chunk.text_hash: chunk.model_input for chunk in new}.values())
                self._keep(inputs)
                yield Counted(len(record.payload), len(new), sum(map(len, inputs)), len(chunks) - len(new))

    def _chunked(self, record: SourceRecord, source: Source) -> ChunkedDocument | None:
        try:
            document = to_document(record, source)
            if self._privacy.redacts(source.client or self._client, self._model, self._moderation):
                document = redact_document(document)
        except Exception:  # whatever one record provokes, the others go on, as in the pipeline
            return None
        try:
            prefix = self._space.document_prefix
            return chunk_document(document, self._words, self._chunking, self._max_tokens, prefix)
        except RecordError:
            return None

    def _known(self, documents: Sequence[ChunkedDocument]) -> set[tuple[UUID, bytes]]:
        if not self._has_vectors:
            return set()
        return set(stored_vectors(self._connection, self._space.space_id, documents))

    def _keep(self, inputs: Sequence[ModelInput]) -> None:
        if self._kept_tokens < KEPT_TOKENS:
            self.inputs += inputs
            self._kept_tokens += sum(map(len, inputs))


def measure_source(
    connection: psycopg.Connection,
    config: Config,
    source: Source,
    space: EmbeddingSpace,
    meter: Meter,
    sample: int | None,
    progress: Progress,
    on_wait: OnWait,
    build: BuildExtractor = build_extractor,
) -> SourceVolume:
    """Read a source from where the next run would, as far as the bounds allow.

    Args:
        sample: documents to cut; None reads and cuts everything.
    Raises:
        PipelineError: the source cannot be read.
    """
    client = source.client or config.client
    redacts = config.privacy.redacts(client, config.model, config.moderation)
    processing = processing_of(source, config.chunking, space, redacts, config.moderation)
    cursor = load_cursor(connection, client, source.name, space.space_id, processing)
    most = most_read(source, sample)
    part, everything = Sample(sample or 1), Counted(0, 0, 0, 0)
    read = unchanged = to_work_on = 0
    is_whole = True
    with closing(build(source, config.client, config.data_dir, on_wait)) as extractor:
        estimate = extractor.estimate(cursor)
        progress(source.name, 0, estimate)
        for page in extractor.pages(cursor):
            if most is not None and read >= most and page.read:
                is_whole = False
                break
            work = _to_work_on(connection, space, processing, page.records)
            read += page.read
            to_work_on += len(work)
            unchanged += len(page.records) - len(work)
            if sample is None:
                everything = Counted(*map(sum, zip(everything, *meter.count(work, source), strict=True)))
            else:
                for record in work:
                    part.offer(record)
            progress(source.name, read, estimate)
    largest, others = list(meter.count(part.largest, source)), list(meter.count(part.others, source))
    scale = max(read, estimate or 0) / read if read and not is_whole else 1.0
    is_exact = is_whole and len(others) == part.others_seen

    def summed(field: str) -> Estimate:
        taken = sum(getattr(one, field) for one in (everything, *largest))
        rest = [getattr(one, field) for one in others]
        sizes = [one.payload_bytes for one in others]
        # Beyond what was read, giants are as frequent as in it.
        whole = total(rest, sizes, part.others_seen, part.others_bytes) + counted(taken)
        return whole.times(scale)

    return SourceVolume(
        source=source.name,
        client=client,
        basis=_basis(is_exact, is_whole, read, estimate),
        read=read,
        expected=round(read * scale),
        unchanged=round(unchanged * scale),
        cut=to_work_on if sample is None else len(largest) + len(others),
        documents=round(to_work_on * scale),
        chunks=summed("chunks"),
        tokens=summed("tokens"),
        reused=summed("reused"),
    )


def _basis(is_exact: bool, is_whole: bool, read: int, estimate: int | None) -> Basis:
    if is_exact:
        return "exact"
    if is_whole:
        return "sampled"
    return "open end" if estimate is None or estimate < read else "beginning"


def most_read(source: Source, sample: int | None) -> int | None:
    """Records of a source read for a plan; None for all. Requests to a site elsewhere cost time and quota."""
    if sample is None:
        return None
    return sample if isinstance(source, GitHubSource | JiraSource) else LOCAL_READ


def _to_work_on(
    connection: psycopg.Connection,
    space: EmbeddingSpace,
    processing: bytes,
    records: Sequence[SourceRecord],
) -> list[SourceRecord]:
    arrived = [(record, record.document_id) for record in records]
    stored = stored_states(connection, space.space_id, [document_id for _, document_id in arrived])
    return [
        record
        for record, document_id in arrived
        if decide(record.version, stored.get(document_id), processing) is None
    ]

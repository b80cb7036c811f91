"""Embed chunks: the one place where batches are made.

Documents gather in a capped buffer; the chunks of a full buffer are sorted by length, cut into padded batches of
at most so many tokens, run, and put back in order. Out comes one Arrow batch with whole documents, and one usage
event. Beam's own batching cannot do this: it counts elements, or sorts nothing, and sends a whole batch to the
dead letters when one record is bad.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from schemas.config import Model
from schemas.documents import Chunk, ChunkedDocument, DeadLetter, EmbeddedBatch
from schemas.errors import EngineFailed
from schemas.spaces import EmbeddingSpace, chunk_schema
from schemas.usage import UsageEvent, cost_usd
from transforms import progress
from transforms.embedders.base import Engine
from transforms.embedders.batching import EngineCall, embed_all
from transforms.embedders.loading import load_engine
from transforms.postgres import Store
from transforms.reuse import StoredVectors, stored_vectors
from transforms.session_fn import SessionFn

MAX_BUFFER_DOCUMENTS = 2048
"""Documents without text have no tokens to count, so they are counted themselves."""


def pack_batch(
    space: EmbeddingSpace, documents: Sequence[ChunkedDocument], vectors: npt.NDArray[np.float32]
) -> EmbeddedBatch:
    """Documents and their vectors as one Arrow batch.

    Args:
        vectors: float32, (chunks of all documents in order, dimensions).
    """
    rows = [(doc.document.record.document_id.bytes, chunk) for doc in documents for chunk in doc.chunks]
    schema = chunk_schema(space.dimensions)
    values = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1), pa.float32())
    columns = [
        pa.array([document_id for document_id, _ in rows], pa.binary(16)),
        pa.array([chunk.ordinal for _, chunk in rows], pa.int32()),
        pa.array([chunk.text for _, chunk in rows], pa.string()),
        pa.array([chunk.text_hash for _, chunk in rows], pa.binary(16)),
        pa.array([chunk.start_char for _, chunk in rows], pa.int32()),
        pa.array([chunk.end_char for _, chunk in rows], pa.int32()),
        pa.array([len(chunk.token_ids) for _, chunk in rows], pa.int32()),
        pa.FixedSizeListArray.from_arrays(values, space.dimensions),
    ]
    return EmbeddedBatch(space.space_id, tuple(documents), pa.RecordBatch.from_arrays(columns, schema=schema))


def embed_documents(
    engine: Engine,
    documents: Sequence[ChunkedDocument],
    known: StoredVectors,
    max_batch_tokens: int | None,
) -> tuple[EmbeddedBatch, list[DeadLetter], tuple[EngineCall, ...]]:
    """Embed the chunks of some documents, taking from `known` what is there.

    Returns:
        The batch of documents whose every chunk has a vector; a dead letter for each of the others; and the
        calls made into the engine.
    """
    owned = [(doc, chunk) for doc in documents for chunk in doc.chunks]
    keys = [(doc.document.record.document_id, chunk.text_hash) for doc, chunk in owned]
    new = [row for row, key in enumerate(keys) if key not in known]
    result = embed_all(engine, [owned[row][1].token_ids for row in new], max_batch_tokens)
    vectors = np.zeros((len(owned), engine.space.dimensions), np.float32)
    vectors[new] = result.vectors
    for row, key in enumerate(keys):
        if key in known:
            vectors[row] = known[key]
    letters: dict[int, DeadLetter] = {}
    for index, reason in result.failed.items():
        doc, chunk = owned[new[index]]
        letters.setdefault(id(doc), _engine_letter(doc, chunk, reason))
    good = [doc for doc in documents if id(doc) not in letters]
    keep = [row for row, (doc, _) in enumerate(owned) if id(doc) not in letters]
    return pack_batch(engine.space, good, vectors[keep]), list(letters.values()), result.log


def _engine_letter(doc: ChunkedDocument, chunk: Chunk, reason: str) -> DeadLetter:
    where = f"chunk {chunk.ordinal} of {len(chunk.token_ids)} tokens: {reason}"
    return DeadLetter(doc.document.record, "embed", EngineFailed.__name__, where, EngineFailed.retriable)


def usage_events(
    engine: Engine,
    calls: Sequence[EngineCall],
    reused: int,
    client: str,
    run_id: UUID | None,
    now: datetime,
) -> Iterator[UsageEvent]:
    """The ledger's rows for one buffer.

    A local engine computes a buffer in many small padded batches; those that went alike (same attempt, same error)
    are one row, which says how many they were. What was taken from stored vectors is a row at no cost.
    """
    alike: dict[tuple[int, str | None], list[EngineCall]] = defaultdict(list)
    for call in calls:
        alike[call.attempt, call.error].append(call)
    event = partial(
        UsageEvent,
        client=client,
        run_id=run_id,
        provider=engine.facts.provider,
        operation="embed_documents",
        model=engine.space.model,
        space_id=engine.space.space_id,
        tokens_reported=None,
        occurred_at=now,
    )
    for (attempt, error), batches in sorted(alike.items(), key=lambda item: item[0][0]):
        tokens = sum(call.tokens for call in batches)
        # Calls of several streams run side by side, each on its share of the threads.
        seconds = sum(call.seconds for call in batches) / engine.facts.streams
        yield event(
            event_id=uuid4(),
            inputs=sum(call.inputs for call in batches),
            tokens=tokens,
            cost_usd=cost_usd(tokens, engine.facts.price),
            machine_seconds=seconds * engine.facts.threads,
            latency_s=seconds,
            attempt=attempt,
            error_type=error,
            metadata={
                "batches": len(batches),
                "padded_tokens": sum(call.padded_tokens for call in batches),
            },
        )
    if reused:
        yield event(
            event_id=uuid4(),
            inputs=0,
            tokens=0,
            cost_usd=Decimal(0),
            machine_seconds=0.0,
            latency_s=0.0,
            reused=reused,
        )


def _utc_now() -> datetime:
    return datetime.now(UTC)


class EmbedChunks(beam.PTransform):  # type: ignore[misc]
    """`PCollection[ChunkedDocument]` -> `batches`, `usage`, `dead_letters`.

    Args:
        model: which engine, and the sizes of batch and buffer.
        store: where vectors of unchanged chunks are looked up.
        client: who pays.
        run_id: for the ledger.
        clock: gives the time of a usage event, UTC.
    """

    def __init__(
        self,
        model: Model,
        store: Store,
        client: str,
        run_id: UUID | None,
        clock: Callable[[], datetime] = _utc_now,
    ) -> None:
        super().__init__()
        self._fn = _EmbedFn(model, store, client, run_id, clock)

    def expand(self, documents: beam.PCollection[ChunkedDocument]) -> Any:
        return documents | "Embed" >> beam.ParDo(self._fn).with_outputs(
            "usage", "dead_letters", main="batches"
        )


class _EmbedFn(SessionFn):
    def __init__(
        self, model: Model, store: Store, client: str, run_id: UUID | None, clock: Callable[[], datetime]
    ) -> None:
        super().__init__(store)
        self._model = model
        self._client = client
        self._run_id = run_id
        self._clock = clock

    def setup(self) -> None:
        super().setup()
        self._engine = load_engine(self._model)

    def start_bundle(self) -> None:
        self._buffer: list[ChunkedDocument] = []
        self._buffered_tokens = 0

    def process(self, document: ChunkedDocument) -> Iterator[Any]:
        self._buffer.append(document)
        self._buffered_tokens += document.tokens_embedded
        full = self._buffered_tokens >= self._model.max_buffer_tokens
        if full or len(self._buffer) >= MAX_BUFFER_DOCUMENTS:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        # Only global windows reach this step; event time travels inside the records.
        window = GlobalWindow()
        for output in self._flush():
            if isinstance(output, beam.pvalue.TaggedOutput):
                value = WindowedValue(output.value, window.max_timestamp(), [window])
                yield beam.pvalue.TaggedOutput(output.tag, value)
            else:
                yield WindowedValue(output, window.max_timestamp(), [window])

    def _flush(self) -> Iterator[Any]:
        documents, self._buffer, self._buffered_tokens = self._buffer, [], 0
        if not documents:
            return
        space_id = self._engine.space.space_id
        known = self._session.run(lambda connection: stored_vectors(connection, space_id, documents))
        batch, letters, calls = embed_documents(self._engine, documents, known, self._model.max_batch_tokens)
        for event in usage_events(self._engine, calls, len(known), self._client, self._run_id, self._clock()):
            yield beam.pvalue.TaggedOutput("usage", event)
        chunks = sum(len(document.chunks) for document in documents)
        progress.add(chunks=chunks, tokens=sum(call.tokens for call in calls))
        for letter in letters:
            yield beam.pvalue.TaggedOutput("dead_letters", letter)
        if batch.documents:
            yield batch

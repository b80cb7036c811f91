"""Embed chunks: the one place where batches are made.

Documents gather in a capped buffer; the chunks of a full buffer are sorted by length, cut into padded batches of
at most so many tokens, run, and put back in order. Out comes one Arrow batch with whole documents, and one usage
event. Beam's own batching cannot do this: it counts elements, or sorts nothing, and sends a whole batch to the
dead letters when one record is bad.

A full buffer is embedded on a thread of its own: what goes before (extracting, chunking) fills the next one and what
follows writes the last one meanwhile. At most one buffer is with the engine and one filling.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from schemas.allowances import AllowanceSettings
from schemas.config import Cache, Model
from schemas.documents import Chunk, ChunkedDocument, DeadLetter, EmbeddedBatch
from schemas.errors import EngineFailed, Parked
from schemas.spaces import EmbeddingSpace, chunk_schema
from transforms import progress
from transforms.background import Ahead, Discarded
from transforms.caches.base import CacheScope, Vector, VectorCache, input_key
from transforms.caches.opening import open_cache
from transforms.embedders.base import Engine, Vectors
from transforms.embedders.batching import EngineCall, embed_all
from transforms.embedders.calls import usage_events
from transforms.embedders.loading import load_engine, load_fp32_engine
from transforms.embedders.models import space_of
from transforms.postgres import Store
from transforms.providers.metering import Account
from transforms.reuse import StoredVectors, stored_vectors
from transforms.session_fn import SessionFn

if TYPE_CHECKING:
    from transforms.providers.engine import RemoteEngine

NO_LIMITS = AllowanceSettings()

MAX_BUFFER_DOCUMENTS = 2048
"""Documents without text have no tokens to count, so they are counted themselves."""

Place = tuple[UUID, bytes]
"""Document id and text hash, as in `StoredVectors`."""

_log = logging.getLogger(__name__)


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
        pa.array([len(chunk.model_input) for _, chunk in rows], pa.int32()),
        pa.FixedSizeListArray.from_arrays(values, space.dimensions),
    ]
    return EmbeddedBatch(space.space_id, tuple(documents), pa.RecordBatch.from_arrays(columns, schema=schema))


def embed_documents(
    engine: Engine,
    documents: Sequence[ChunkedDocument],
    known: StoredVectors,
    max_batch_tokens: int | None,
    in_fp32: Callable[[], Engine] | None = None,
) -> tuple[EmbeddedBatch, list[DeadLetter], tuple[EngineCall, ...]]:
    """Embed the chunks of some documents, taking from `known` what is there.

    Args:
        in_fp32: as for `embed_all`.
    Returns:
        The batch of documents whose every chunk has a vector; a dead letter for each of the others; and the
        calls made into the engine.
    """
    batch, letters, log, _ = _embed(engine, documents, known, max_batch_tokens, in_fp32)
    return batch, letters, log


def _embed(
    engine: Engine,
    documents: Sequence[ChunkedDocument],
    known: StoredVectors,
    max_batch_tokens: int | None,
    in_fp32: Callable[[], Engine] | None,
) -> tuple[EmbeddedBatch, list[DeadLetter], tuple[EngineCall, ...], dict[Place, Vector]]:
    """As `embed_documents`, with the vectors computed now, those of documents that failed among them."""
    owned = [(doc, chunk) for doc in documents for chunk in doc.chunks]
    keys = [(doc.document.record.document_id, chunk.text_hash) for doc, chunk in owned]
    new = [row for row, key in enumerate(keys) if key not in known]
    result = embed_all(engine, [owned[row][1].model_input for row in new], max_batch_tokens, in_fp32)
    vectors = np.zeros((len(owned), engine.space.dimensions), np.float32)
    vectors[new] = result.vectors
    for row, key in enumerate(keys):
        if key in known:
            vectors[row] = known[key]
    letters: dict[int, DeadLetter] = {}
    for index, error in result.failed.items():
        doc, chunk = owned[new[index]]
        letters.setdefault(id(doc), _engine_letter(doc, chunk, error))
    good = [doc for doc in documents if id(doc) not in letters]
    keep = [row for row, (doc, _) in enumerate(owned) if id(doc) not in letters]
    computed = {keys[row]: vectors[row] for index, row in enumerate(new) if index not in result.failed}
    batch = pack_batch(engine.space, good, vectors[keep])
    return batch, list(letters.values()), result.log, computed


def _engine_letter(doc: ChunkedDocument, chunk: Chunk, error: EngineFailed | Parked) -> DeadLetter:
    record, kind = doc.document.record, type(error).__name__
    if isinstance(error, Parked):
        return DeadLetter(record, "embed", kind, str(error), True)
    where = f"chunk {chunk.ordinal} of {len(chunk.model_input)} tokens: {error}"
    return DeadLetter(record, "embed", kind, where, error.retriable)


@dataclass(frozen=True, slots=True)
class EmbeddedBuffer:
    """What became of a buffer.

    Args:
        chunks: of all of its documents.
        reused: chunks whose vector was stored with their own document.
        cache_hits: further chunks that the engine was not given: the cache, or an equal one beside them, answers.
        tokens_saved: of those.
        engine_s: wall seconds in the engine.
    """

    batch: EmbeddedBatch
    letters: list[DeadLetter]
    calls: tuple[EngineCall, ...]
    chunks: int
    reused: int
    cache_hits: int
    tokens_saved: int
    engine_s: float


def embed_buffer(
    engine: Engine,
    documents: Sequence[ChunkedDocument],
    stored: StoredVectors,
    cache: VectorCache,
    client: str,
    max_batch_tokens: int | None,
    in_fp32: Callable[[], Engine] | None = None,
) -> EmbeddedBuffer:
    """As `embed_documents`, with a cache before the engine; what the engine computed is put into it.

    So are the vectors of documents that failed elsewhere: when these are tried again, nothing is paid for twice.

    Args:
        stored: vectors of the documents' own unchanged chunks.
        client: whose entries of the cache are looked at.
    """
    scope = CacheScope(client, engine.space.space_id, engine.space.dimensions)
    keys = _input_keys(documents, stored)
    hits = cache.get_many(scope, list(dict.fromkeys(keys.values())))
    known = stored | {place: hits[key] for place, key in keys.items() if key in hits}
    batch, letters, calls, computed = _embed(engine, documents, known, max_batch_tokens, in_fp32)
    cache.put_many(scope, {keys[place]: vector for place, vector in computed.items()})
    saved = _lengths_saved(documents, keys, hits)
    return EmbeddedBuffer(
        batch,
        letters,
        calls,
        chunks=sum(len(document.chunks) for document in documents),
        reused=len(stored),
        cache_hits=len(saved),
        tokens_saved=sum(saved),
        engine_s=sum(call.seconds for call in calls) / engine.facts.streams,
    )


def _input_keys(documents: Sequence[ChunkedDocument], stored: StoredVectors) -> dict[Place, bytes]:
    """Cache key of each chunk that is not in `stored`."""
    places = {
        (doc.document.record.document_id, chunk.text_hash): chunk.model_input
        for doc in documents
        for chunk in doc.chunks
    }
    return {place: input_key(one) for place, one in places.items() if place not in stored}


def _lengths_saved(
    documents: Sequence[ChunkedDocument], keys: Mapping[Place, bytes], hits: Iterable[bytes]
) -> list[int]:
    """Tokens of each chunk that the engine is not given, though its vector was not stored with its document.

    With the tokens that the engine is given these are the tokens of all such chunks, wherever buffers are cut and
    whatever the cache knows.
    """
    known = set(hits)
    saved: list[int] = []
    for doc in documents:
        for chunk in doc.chunks:
            key = keys.get((doc.document.record.document_id, chunk.text_hash))
            if key in known:
                saved.append(len(chunk.model_input))
            elif key is not None:
                known.add(key)
    return saved


def _utc_now() -> datetime:
    return datetime.now(UTC)


class EmbedChunks(beam.PTransform):  # type: ignore[misc]
    """`PCollection[ChunkedDocument]` -> `batches`, `usage`, `dead_letters`.

    Args:
        model: which engine, and the sizes of batch and buffer.
        store: where vectors of unchanged chunks are looked up.
        cache: where vectors of equal inputs are looked up.
        client: who pays.
        run_id: for the ledger.
        source: name of the configured source, for the ledger.
        clock: gives the time of a usage event, UTC.
        allowance: what clients may use where the model is a remote one.
    """

    def __init__(
        self,
        model: Model,
        store: Store,
        cache: Cache,
        client: str,
        run_id: UUID | None,
        clock: Callable[[], datetime] = _utc_now,
        source: str = "",
        allowance: AllowanceSettings = NO_LIMITS,
    ) -> None:
        super().__init__()
        self._fn = _EmbedFn(model, store, cache, client, run_id, clock, source, allowance)

    def expand(self, documents: beam.PCollection[ChunkedDocument]) -> Any:
        return documents | "Embed" >> beam.ParDo(self._fn).with_outputs(
            "usage", "dead_letters", main="batches"
        )


class _Stoppable:
    """An engine that takes no further batch once `stop` is set."""

    def __init__(self, engine: Engine, stop: threading.Event) -> None:
        self.space = engine.space
        self.facts = engine.facts
        self._engine = engine
        self._stop = stop

    def run(self, batch: Sequence[Any]) -> Vectors:
        if self._stop.is_set():
            raise Discarded
        return self._engine.run(batch)


class _EmbedFn(SessionFn):
    """The session belongs to the calling thread, the cache to the embedding one."""

    def __init__(
        self,
        model: Model,
        store: Store,
        cache: Cache,
        client: str,
        run_id: UUID | None,
        clock: Callable[[], datetime],
        source: str,
        allowance: AllowanceSettings = NO_LIMITS,
    ) -> None:
        super().__init__(store)
        self._model = model
        self._cache_settings = cache
        self._client = client
        self._run_id = run_id
        self._clock = clock
        self._source = source
        self._allowance = allowance

    def setup(self) -> None:
        super().setup()
        self._remote = self._open_remote()
        self._engine: Engine = self._remote or load_engine(self._model)
        self._max_buffer_tokens = self._model.max_buffer_tokens
        if self._remote is not None:  # a request for each of its streams
            facts = self._remote.facts
            self._max_buffer_tokens = max(self._max_buffer_tokens, facts.streams * facts.max_batch_tokens)
        self._cache = open_cache(self._cache_settings, self._store, self._clock)
        self._ahead: Ahead[EmbeddedBuffer] = Ahead("embed")

    def start_bundle(self) -> None:
        self._ahead.discard()  # of a bundle that failed
        self._buffer: list[ChunkedDocument] = []
        self._buffered_tokens = 0
        self._bundle_began = time.perf_counter()
        self._engine_s = 0.0
        self._waited_before_s = self._ahead.waited_s

    def process(self, document: ChunkedDocument) -> Iterator[Any]:
        self._buffer.append(document)
        self._buffered_tokens += document.tokens_embedded
        full = self._buffered_tokens >= self._max_buffer_tokens
        if full or len(self._buffer) >= MAX_BUFFER_DOCUMENTS:
            yield from self._hand_over()

    def finish_bundle(self) -> Iterator[Any]:
        # Only global windows reach this step; event time travels inside the records.
        window = GlobalWindow()
        for output in self._drain():
            if isinstance(output, beam.pvalue.TaggedOutput):
                value = WindowedValue(output.value, window.max_timestamp(), [window])
                yield beam.pvalue.TaggedOutput(output.tag, value)
            else:
                yield WindowedValue(output, window.max_timestamp(), [window])

    def teardown(self) -> None:
        self._ahead.close()
        if self._remote is not None:
            self._remote.close()
        self._cache.close()
        super().teardown()

    def _open_remote(self) -> RemoteEngine | None:
        """None where the model runs here."""
        if self._model.is_local:
            return None
        from transforms.providers.engine import open_remote_engine  # client libraries and a vocabulary

        account = Account(self._client, self._run_id, space_of(self._model).space_id, self._source)
        return open_remote_engine(self._model, "document", self._store, account, self._allowance)

    def _drain(self) -> Iterator[Any]:
        yield from self._hand_over()
        yield from self._outputs(self._collect())
        seconds = time.perf_counter() - self._bundle_began
        waited_s = self._ahead.waited_s - self._waited_before_s
        _log.debug(
            "bundle of %.2f s: engine at work %.2f s, waited for it %.2f s; reading, chunking and writing %.2f s",
            seconds,
            self._engine_s,
            waited_s,
            seconds - waited_s,
        )

    def _hand_over(self) -> Iterator[Any]:
        """Give the buffer to the embedding thread, and on what that made of the one before."""
        documents, self._buffer, self._buffered_tokens = self._buffer, [], 0
        if not documents:
            return
        space_id = self._engine.space.space_id
        stored = self._session.run(lambda connection: stored_vectors(connection, space_id, documents))

        remote = self._remote

        def work(stop: threading.Event) -> EmbeddedBuffer:
            if remote is not None:
                engine = remote.stopped_by(stop)
                return embed_buffer(engine, documents, stored, self._cache, self._client, None)
            return embed_buffer(
                _Stoppable(self._engine, stop),
                documents,
                stored,
                self._cache,
                self._client,
                self._model.max_batch_tokens,
                partial(load_fp32_engine, self._model),
            )

        before = self._collect()
        self._ahead.start(work)  # first: the outputs are written while it runs
        yield from self._outputs(before)

    def _collect(self) -> EmbeddedBuffer | None:
        waited_s = self._ahead.waited_s
        done = self._ahead.collect()
        if done is not None:
            self._engine_s += done.engine_s
            progress.add(
                chunks=done.chunks,
                tokens=sum(call.tokens for call in done.calls),
                engine_s=done.engine_s,
                wait_s=self._ahead.waited_s - waited_s,
            )
        return done

    def _outputs(self, done: EmbeddedBuffer | None) -> Iterator[Any]:
        if done is None:
            return
        events = usage_events(
            self._engine,
            () if self._remote else done.calls,  # a remote engine's requests are in the ledger already
            done.reused,
            self._client,
            self._run_id,
            self._clock(),
            done.cache_hits,
            done.tokens_saved,
            self._source,
        )
        for event in events:
            yield beam.pvalue.TaggedOutput("usage", event)
        for letter in done.letters:
            yield beam.pvalue.TaggedOutput("dead_letters", letter)
        if done.batch.documents:
            yield done.batch

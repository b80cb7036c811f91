"""One buffer of documents through an engine: a vector that is not known is computed once. Knows no Beam.

Chunks are sorted by length, cut into padded batches of at most so many tokens, run, and put back in order. Out comes
one Arrow batch with whole documents; a document with a chunk that an engine cannot embed is a dead letter, those
beside it are not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.documents import Chunk, ChunkedDocument, DeadLetter, EmbeddedBatch
from schemas.errors import EngineFailed, Parked
from schemas.spaces import EmbeddingSpace, chunk_schema
from transforms.caches.base import CacheScope, Vector, VectorCache, input_key
from transforms.embedders.base import Engine
from transforms.embedders.batching import EngineCall, embed_all
from transforms.reuse import StoredVectors

Place = tuple[UUID, bytes]
"""Document id and text hash, as in `StoredVectors`."""


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
        cache_hits: further chunks with a vector that the engine was not given: the cache, or an equal one beside
            them, answers.
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
    saved = _lengths_saved(documents, keys, hits, {keys[place] for place in computed})
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
    documents: Sequence[ChunkedDocument],
    keys: Mapping[Place, bytes],
    hits: Iterable[bytes],
    computed: set[bytes],
) -> list[int]:
    """Tokens of each chunk that has a vector which is neither stored with its document nor computed for this chunk.

    With the tokens of what was computed these are the tokens of all chunks that have a vector now, wherever buffers
    are cut and whatever the cache knows. A chunk that failed, or is parked, saved nothing.
    """
    answered = set(hits)
    saved: list[int] = []
    for doc in documents:
        for chunk in doc.chunks:
            key = keys.get((doc.document.record.document_id, chunk.text_hash))
            if key in answered:
                saved.append(len(chunk.model_input))
            elif key in computed:
                answered.add(key)
    return saved

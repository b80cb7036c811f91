"""Embedding keeps documents whole, reuses what is known, and writes down every call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.documents import Chunk, ChunkedDocument, Document, Format, Kind, SourceRecord
from schemas.errors import EngineFailed
from schemas.ids import text_hash
from schemas.spaces import EmbeddingSpace
from schemas.usage import LOCAL
from transforms.embed import embed_documents, usage_events
from transforms.embedders.base import EngineFacts, TokenIds, Vectors
from transforms.quality import batch_vectors

SPACE = EmbeddingSpace("fake", "0" * 64, "exact", "mean", True, dimensions=3, max_tokens=64)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
POISON = 666


def vector_of(ids: TokenIds) -> np.ndarray:
    """A vector that depends on the text alone, so that swapped rows are seen."""
    raw = np.array([len(ids), ids.sum() % 97, ids[0] % 31], np.float32) + 1
    return raw / np.linalg.norm(raw)


@dataclass
class FakeEngine:
    """Fails on a batch with `POISON` in it."""

    space: EmbeddingSpace = SPACE
    facts: EngineFacts = field(
        default_factory=lambda: EngineFacts("local", "fake", "1", "fp32", 2, 1, 512, LOCAL)
    )
    seen: list[int] = field(default_factory=list)

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        self.seen.append(len(batch))
        if any(POISON in ids for ids in batch):
            raise EngineFailed("it broke")
        return np.stack([vector_of(ids) for ids in batch])


def chunked(native_id: str, texts: Sequence[Sequence[int]]) -> ChunkedDocument:
    record = SourceRecord("acme", "jira", Format.JIRA_ISSUE, Kind.ISSUE, native_id, b"{}", NOW)
    chunks = tuple(
        Chunk(n, str(ids), text_hash(str(ids)), 0, 1, np.array(ids, np.int32)) for n, ids in enumerate(texts)
    )
    return ChunkedDocument(Document(record, native_id, "ABC", "", "text"), chunks, 1, 0)


token_lists = st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=20), max_size=6)


@given(st.lists(token_lists, min_size=1, max_size=8))
def test_every_row_is_the_vector_of_its_own_chunk(documents: list[list[list[int]]]) -> None:
    given_documents = [chunked(str(n), texts) for n, texts in enumerate(documents)]
    batch, letters, _ = embed_documents(FakeEngine(), given_documents, {}, max_batch_tokens=40)
    assert letters == []
    assert batch.documents == tuple(given_documents)
    expected = [vector_of(chunk.token_ids) for document in given_documents for chunk in document.chunks]
    np.testing.assert_array_equal(batch_vectors(batch.chunks), np.array(expected, np.float32).reshape(-1, 3))
    owners = [d.document.record.document_id.bytes for d in given_documents for _ in d.chunks]
    assert batch.chunks.column("document_id").to_pylist() == owners


def test_a_bad_chunk_takes_its_own_document_to_the_dead_letters_and_no_other() -> None:
    documents = [chunked("1", [[1, 2], [3]]), chunked("2", [[4], [POISON, 5], [6]]), chunked("3", [[7]])]
    batch, letters, calls = embed_documents(FakeEngine(), documents, {}, max_batch_tokens=100)
    assert [doc.document.key for doc in batch.documents] == ["1", "3"]
    assert batch.chunks.num_rows == 3
    (letter,) = letters
    assert (letter.record.native_id, letter.stage, letter.error_type) == ("2", "embed", "EngineFailed")
    assert letter.reason == "chunk 1 of 2 tokens: it broke"
    assert letter.retriable
    assert [call.error for call in calls].count("EngineFailed") >= 2


def test_known_vectors_are_taken_and_not_computed() -> None:
    document = chunked("1", [[1, 2], [3, 4]])
    stored = np.array([0.0, 0.6, 0.8], np.float32)
    known = {(document.document.record.document_id, document.chunks[0].text_hash): stored}
    engine = FakeEngine()
    batch, _, calls = embed_documents(engine, [document], known, max_batch_tokens=100)
    np.testing.assert_array_equal(
        batch_vectors(batch.chunks), np.stack([stored, vector_of(document.chunks[1].token_ids)])
    )
    assert (engine.seen, len(calls)) == ([1], 1)


def test_a_known_vector_serves_only_the_document_it_belongs_to() -> None:
    mine, other = chunked("1", [[1, 2]]), chunked("2", [[1, 2]])
    known = {(other.document.record.document_id, other.chunks[0].text_hash): np.zeros(3, np.float32)}
    engine = FakeEngine()
    batch, _, _ = embed_documents(engine, [mine], known, max_batch_tokens=100)
    np.testing.assert_array_equal(batch_vectors(batch.chunks)[0], vector_of(mine.chunks[0].token_ids))


def test_equal_texts_of_two_documents_are_computed_once_and_stored_twice() -> None:
    engine = FakeEngine()
    batch, _, calls = embed_documents(
        engine, [chunked("1", [[1, 2]]), chunked("2", [[1, 2]])], {}, max_batch_tokens=100
    )
    assert (sum(engine.seen), calls[0].inputs, batch.chunks.num_rows) == (1, 1, 2)


def test_documents_without_chunks_pass_through() -> None:
    engine = FakeEngine()
    batch, letters, calls = embed_documents(engine, [chunked("1", [])], {}, max_batch_tokens=100)
    assert (len(batch.documents), batch.chunks.num_rows, letters, calls, engine.seen) == (1, 0, [], (), [])


def test_the_ledger_counts_every_batch_and_keeps_failed_ones_apart() -> None:
    engine = FakeEngine()
    documents = [chunked("1", [[1, 2], [POISON], [3]])]
    _, _, calls = embed_documents(engine, documents, {}, max_batch_tokens=100)
    events = list(usage_events(engine, calls, 0, "acme", None, NOW))
    assert sum(event.metadata["batches"] for event in events) == len(engine.seen)
    assert sum(event.inputs for event in events) == sum(engine.seen)
    failed = [event for event in events if event.error_type is not None]
    assert sum(event.metadata["batches"] for event in failed) == sum(call.error is not None for call in calls)
    assert {event.attempt for event in failed} > {1}


def test_a_buffer_that_went_well_is_one_row() -> None:
    engine = FakeEngine()
    documents = [chunked(str(n), [[n, n + 1]]) for n in range(50)]
    _, _, calls = embed_documents(engine, documents, {}, max_batch_tokens=20)
    (event,) = usage_events(engine, calls, 0, "acme", None, NOW)
    assert (event.inputs, event.tokens, event.metadata["batches"]) == (50, 100, len(engine.seen))


def test_reused_vectors_are_a_row_at_no_cost() -> None:
    (event,) = usage_events(FakeEngine(), (), 7, "acme", None, NOW)
    assert (event.reused, event.inputs, event.tokens, event.cost_usd) == (7, 0, 0, Decimal(0))


@pytest.mark.parametrize("reused", [0, 3])
def test_machine_seconds_count_every_thread(reused: int) -> None:
    engine = FakeEngine()
    _, _, calls = embed_documents(engine, [chunked("1", [[1]])], {}, max_batch_tokens=100)
    events = list(usage_events(engine, calls, reused, "acme", None, NOW))
    assert events[0].machine_seconds == pytest.approx(2 * events[0].latency_s)
    assert sum(event.reused for event in events) == reused

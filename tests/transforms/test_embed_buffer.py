"""Embedding keeps documents whole, reuses what is known, and writes down every call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Parked
from schemas.usage import Price
from tests.transforms.fake_engine import NOW, POISON, FakeEngine, chunked, vector_of
from transforms.caches.base import NoCache, VectorCache
from transforms.caches.memory import MemoryCache
from transforms.embed_buffer import embed_buffer, embed_documents
from transforms.embedders.base import TokenIds, Vectors
from transforms.embedders.calls import usage_events
from transforms.quality import batch_vectors

token_lists = st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=20), max_size=6)


@given(st.lists(token_lists, min_size=1, max_size=8))
def test_every_row_is_the_vector_of_its_own_chunk(documents: list[list[list[int]]]) -> None:
    given_documents = [chunked(str(n), texts) for n, texts in enumerate(documents)]
    batch, letters, _ = embed_documents(FakeEngine(), given_documents, {}, max_batch_tokens=40)
    assert letters == []
    assert batch.documents == tuple(given_documents)
    expected = [vector_of(chunk.model_input) for document in given_documents for chunk in document.chunks]
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
        batch_vectors(batch.chunks), np.stack([stored, vector_of(document.chunks[1].model_input)])
    )
    assert (engine.seen, len(calls)) == ([1], 1)


def test_a_known_vector_serves_only_the_document_it_belongs_to() -> None:
    mine, other = chunked("1", [[1, 2]]), chunked("2", [[1, 2]])
    known = {(other.document.record.document_id, other.chunks[0].text_hash): np.zeros(3, np.float32)}
    engine = FakeEngine()
    batch, _, _ = embed_documents(engine, [mine], known, max_batch_tokens=100)
    np.testing.assert_array_equal(batch_vectors(batch.chunks)[0], vector_of(mine.chunks[0].model_input))


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


def fresh_cache() -> MemoryCache:
    return MemoryCache(2**20, timedelta(days=1), "float32", lambda: NOW)


@given(st.lists(st.lists(token_lists, max_size=4), min_size=1, max_size=4))
def test_with_a_cache_every_vector_is_as_without_and_no_input_is_computed_twice(
    buffers: list[list[list[list[int]]]],
) -> None:
    engine, cache = FakeEngine(), fresh_cache()
    seen: set[tuple[int, ...]] = set()
    for number, texts in enumerate(buffers):
        documents = [chunked(f"{number}.{n}", text) for n, text in enumerate(texts)]
        chunks = [tuple(chunk.model_input.tolist()) for document in documents for chunk in document.chunks]
        asked = set(chunks)
        done = embed_buffer(engine, documents, {}, cache, "acme", 100)
        plain, _, _ = embed_documents(FakeEngine(), documents, {}, 100)
        assert done.batch.chunks == plain.chunks
        assert sum(call.inputs for call in done.calls) == len(asked - seen)
        assert done.cache_hits == len(chunks) - len(asked - seen)
        assert done.tokens_saved == sum(map(len, chunks)) - sum(map(len, asked - seen))
        seen |= asked
    assert sum(engine.seen) == len(seen)


@given(st.lists(token_lists, max_size=12), st.integers(1, 12), st.integers(1, 12))
def test_tokens_computed_and_saved_are_the_tokens_of_all_chunks_wherever_buffers_are_cut(
    texts: list[list[list[int]]], one_way: int, other_way: int
) -> None:
    documents = [chunked(str(number), text) for number, text in enumerate(texts)]
    of_chunks = [len(chunk.model_input) for document in documents for chunk in document.chunks]
    ways: list[tuple[int, VectorCache]] = [(one_way, fresh_cache()), (other_way, NoCache())]
    for size, cache in ways:
        buffers = [documents[start : start + size] for start in range(0, len(documents), size)]
        done = [embed_buffer(FakeEngine(), buffer, {}, cache, "acme", 100) for buffer in buffers]
        calls = [call for one in done for call in one.calls]
        assert sum(call.tokens for call in calls) + sum(one.tokens_saved for one in done) == sum(of_chunks)
        assert sum(call.inputs for call in calls) + sum(one.cache_hits for one in done) == len(of_chunks)


def test_what_could_not_be_embedded_saved_nothing_however_often_it_is_there() -> None:
    texts = [[POISON, 1], [POISON, 1], [1, 2, 3], [1, 2, 3]]
    documents = [chunked(str(number), [text]) for number, text in enumerate(texts)]
    done = embed_buffer(FakeEngine(), documents, {}, fresh_cache(), "acme", 100)
    assert len(done.letters) == 2
    assert (done.cache_hits, done.tokens_saved) == (1, 3)


def test_one_clients_vectors_never_serve_another() -> None:
    engine, cache = FakeEngine(), fresh_cache()
    documents = [chunked("1", [[1, 2]])]
    assert embed_buffer(engine, documents, {}, cache, "acme", 100).cache_hits == 0
    assert embed_buffer(engine, documents, {}, cache, "globex", 100).cache_hits == 0
    assert embed_buffer(engine, documents, {}, cache, "acme", 100).cache_hits == 1


def test_what_the_engine_failed_on_is_not_kept() -> None:
    cache = fresh_cache()
    documents = [chunked("1", [[1], [POISON]]), chunked("2", [[3]])]
    for hits in (0, 2):
        done = embed_buffer(FakeEngine(), documents, {}, cache, "acme", 100)
        assert (done.cache_hits, len(done.letters), len(done.batch.documents)) == (hits, 1, 1)


def test_a_document_parked_in_the_middle_is_a_letter_and_what_was_computed_of_it_is_kept() -> None:
    class Parking(FakeEngine):
        def run(self, batch: Sequence[TokenIds]) -> Vectors:
            if any(POISON in ids for ids in batch):
                raise Parked("no endpoint can be asked: a: HTTP 503", 30.0)
            return super().run(batch)

    cache = fresh_cache()
    document = chunked("1", [[1, 2, 3], [POISON, 5]])
    done = embed_buffer(Parking(), [document], {}, cache, "acme", max_batch_tokens=3)
    assert not done.batch.documents
    (letter,) = done.letters
    assert (letter.stage, letter.error_type, letter.retriable) == ("embed", "Parked", True)
    assert letter.reason == "no endpoint can be asked: a: HTTP 503"
    again = embed_buffer(Parking(), [document], {}, cache, "acme", max_batch_tokens=3)
    assert again.cache_hits == 1


def test_a_stored_vector_is_preferred_and_not_counted_as_a_hit() -> None:
    cache = fresh_cache()
    document = chunked("1", [[1, 2]])
    embed_buffer(FakeEngine(), [document], {}, cache, "acme", 100)
    own = np.array([0.0, 0.6, 0.8], np.float32)
    stored = {(document.document.record.document_id, document.chunks[0].text_hash): own}
    done = embed_buffer(FakeEngine(), [document], stored, cache, "acme", 100)
    np.testing.assert_array_equal(batch_vectors(done.batch.chunks)[0], own)
    assert (done.reused, done.cache_hits) == (1, 0)


def test_hits_and_reused_vectors_are_one_row_at_no_cost() -> None:
    (event,) = usage_events(FakeEngine(), (), 7, "acme", None, NOW, cache_hits=3)
    assert (event.reused, event.cache_hits, event.inputs, event.cost_usd) == (7, 3, 0, Decimal(0))


def test_a_hit_costs_nothing_and_says_what_the_provider_would_have_asked() -> None:
    engine = FakeEngine()
    price = Price(Decimal("0.13"), NOW.date(), "a page")
    engine.facts = replace(engine.facts, provider="openai", price=price)
    (event,) = usage_events(engine, (), 0, "acme", None, NOW, cache_hits=2, tokens_saved=3, source="tickets")
    assert (event.cost_usd, event.tokens, event.tokens_saved) == (Decimal(0), 0, 3)
    assert (event.usd_saved, event.source) == (Decimal("0.00000039"), "tickets")

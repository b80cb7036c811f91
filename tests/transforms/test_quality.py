"""Bad vectors are found before they are stored."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.documents import Chunk, ChunkedDocument, Document, Format, Kind, SourceRecord
from schemas.quality import QualityReport, merge_reports
from schemas.spaces import EmbeddingSpace
from transforms.embed_buffer import pack_batch
from transforms.quality import batch_identity, batch_vectors, check_batch, inspect_vectors

SPACE = EmbeddingSpace("test", "0" * 64, "exact", "mean", True, dimensions=4, max_tokens=16)


def unit(*values: float) -> np.ndarray:
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


def chunked(native_id: str, texts: list[str]) -> ChunkedDocument:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    record = SourceRecord("acme", "jira", Format.JIRA_ISSUE, Kind.ISSUE, native_id, b"{}", at)
    chunks = tuple(
        Chunk(ordinal, text, text.encode().ljust(16, b"."), 0, len(text), np.array([101, 102], np.int32))
        for ordinal, text in enumerate(texts)
    )
    return ChunkedDocument(Document(record, native_id, "ABC", "", "\n".join(texts)), chunks, 0, 0)


@pytest.mark.parametrize(
    ("vector", "what"),
    [
        ([np.nan, 0, 0, 0], "is not finite"),
        ([np.inf, 0, 0, 0], "is not finite"),
        ([0, 0, 0, 0], "is zero"),
        ([0.5, 0, 0, 0], "has norm 0.500 in a normalised space"),
    ],
)
def test_a_bad_vector_is_named_and_lowers_the_score(vector: list[float], what: str) -> None:
    vectors = np.stack([unit(1, 2, 3, 4), np.array(vector, np.float32)])
    report, bad = inspect_vectors(vectors, [b"a", b"b"], SPACE)
    assert bad == {1: what}
    assert report.vectors == 2
    assert report.quality_score == (1.0 if "norm" in what else 0.5)


def test_vectors_of_another_dimension_are_all_bad() -> None:
    report, bad = inspect_vectors(np.ones((2, 3), np.float32), [b"a", b"b"], SPACE)
    assert (report.wrong_dimension, report.quality_score) == (2, 0.0)
    assert set(bad) == {0, 1}


def test_equal_vectors_count_as_duplicates_only_when_their_texts_differ() -> None:
    vector = unit(1, 2, 3, 4)
    vectors = np.stack([vector, vector, vector, unit(4, 3, 2, 1)])
    report, bad = inspect_vectors(vectors, [b"one", b"one", b"other", b"last"], SPACE)
    assert (report.duplicates, report.quality_score, bad) == (1, 0.75, {})


def test_no_vectors_is_perfect_quality() -> None:
    report, bad = inspect_vectors(np.zeros((0, 4), np.float32), [], SPACE)
    assert (report.quality_score, bad) == (1.0, {})


def test_a_document_with_one_bad_vector_goes_whole_to_the_dead_letters() -> None:
    documents = [chunked("1", ["a", "b"]), chunked("2", ["c", "d"]), chunked("3", [])]
    vectors = np.stack([unit(1, 0, 0, 1), unit(0, 1, 0, 1), unit(0, 0, 1, 1), np.full(4, np.nan, np.float32)])
    good, report, letters = check_batch(pack_batch(SPACE, documents, vectors), SPACE)
    assert [doc.document.key for doc in good.documents] == ["1", "3"]
    np.testing.assert_array_equal(batch_vectors(good.chunks), vectors[:2])
    (letter,) = letters
    assert (letter.record.native_id, letter.stage, letter.error_type) == ("2", "quality", "BadVector")
    assert letter.reason == "vector of chunk 1 is not finite"
    assert report.not_finite == 1


def test_a_batch_is_the_same_when_it_is_embedded_again_and_another_when_its_documents_are_read_again() -> (
    None
):
    document = chunked("1", ["a"])
    vector = unit(1, 2, 3, 4)[None]
    once = batch_identity(pack_batch(SPACE, [document], vector))
    assert batch_identity(pack_batch(SPACE, [document], -vector)) == once
    record = document.document.record
    later = replace(record, observed_at=record.observed_at + timedelta(microseconds=1))
    again = replace(document, document=replace(document.document, record=later))
    other = replace(document, document=replace(document.document, record=replace(record, native_id="2")))
    assert len({once, *(batch_identity(pack_batch(SPACE, [one], vector)) for one in (again, other))}) == 3


def test_a_good_batch_passes_untouched() -> None:
    batch = pack_batch(SPACE, [chunked("1", ["a"])], unit(1, 2, 3, 4)[None])
    good, _, letters = check_batch(batch, SPACE)
    assert good is batch
    assert letters == []


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_merged_reports_say_what_one_report_over_all_would_have_said(sizes: list[int]) -> None:
    generator = np.random.default_rng(sum(sizes))
    parts = [generator.normal(size=(size, 4)).astype(np.float32) for size in sizes]
    names = [str(n).encode() for n in range(sum(sizes))]
    space = EmbeddingSpace("t", "0", "exact", "mean", False, 4, 16)
    whole, _ = inspect_vectors(np.concatenate(parts), names, space)
    merged = merge_reports([inspect_vectors(part, names, space)[0] for part in parts])
    assert merged.vectors == whole.vectors
    for name in ("norm_min", "norm_mean", "norm_max", "norm_std"):
        assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-6)


def test_merging_nothing_is_an_empty_report() -> None:
    assert merge_reports([]) == QualityReport(0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)

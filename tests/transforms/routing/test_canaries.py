"""Vectors of known sentences: near enough is the same space, and one that is off is another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import CanaryMismatch
from tests.fakes.embedding_provider import vector_of
from transforms.routing.canaries import LOWEST_COSINE, SENTENCES, compare

DIMENSIONS = 64
KNOWN = np.array([vector_of(sentence, DIMENSIONS) for sentence in SENTENCES])


def turned(row: int, cosine: float) -> np.ndarray:
    """`KNOWN`, with one vector turned away from its own."""
    vectors = KNOWN.astype(np.float64)
    aside = vector_of("aside", DIMENSIONS).astype(np.float64)
    aside -= (aside @ vectors[row]) * vectors[row]
    aside /= np.linalg.norm(aside)
    vectors[row] = cosine * vectors[row] + np.sqrt(1 - cosine**2) * aside
    return vectors.astype(np.float32)


@given(st.integers(0, len(SENTENCES) - 1), st.floats(-1, LOWEST_COSINE - 1e-5))
def test_one_sentence_that_is_off_is_enough(row: int, cosine: float) -> None:
    with pytest.raises(CanaryMismatch, match="a does not give the vectors of this space"):
        compare(KNOWN, turned(row, cosine), "a")


@given(st.integers(0, len(SENTENCES) - 1), st.floats(LOWEST_COSINE + 1e-5, 1), st.floats(1e-3, 1e3))
def test_rounding_and_length_do_not_matter(row: int, cosine: float, length: float) -> None:
    compare(KNOWN, np.float32(length) * turned(row, cosine), "a")


def test_vectors_of_zeros_or_of_another_length_are_off() -> None:
    with pytest.raises(CanaryMismatch):
        compare(KNOWN, np.zeros_like(KNOWN), "a")
    with pytest.raises(CanaryMismatch, match="shape"):
        compare(KNOWN, KNOWN[:, :-1], "a")

"""The scores that the benchmarks print mean what they are called."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scoring import ndcg, recall, spearman

JUDGED = {"a": 2, "b": 1}


def test_an_ideal_ranking_has_a_gain_of_one() -> None:
    assert ndcg(["a", "b", "x"], JUDGED) == pytest.approx(1)
    assert recall(["x", "a", "b"], JUDGED) == 1


def test_gain_falls_with_the_logarithm_of_the_place() -> None:
    ideal = 2 + 1 / math.log2(3)
    assert ndcg(["x", "a", "y", "b"], JUDGED) == pytest.approx((2 / math.log2(3) + 1 / math.log2(5)) / ideal)


def test_what_comes_after_the_cut_counts_nothing() -> None:
    assert ndcg(["x"] * 10 + ["a"], JUDGED) == 0
    assert recall(["x"] * 9 + ["b", "a"], JUDGED) == 0.5


def test_without_anything_relevant_the_scores_are_zero() -> None:
    assert ndcg(["a"], {}) == recall(["a"], {}) == 0


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    # By hand: ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4.
    assert spearman([1, 2, 2, 3], [10, 30, 20, 40]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_a_side_that_never_varies_has_no_correlation() -> None:
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


VALUES = st.lists(st.integers(-1000, 1000), min_size=2, max_size=50, unique=True)


@given(VALUES)
def test_only_the_order_matters(values: list[int]) -> None:
    stretched = np.exp(np.array(values) / 1000)
    assert spearman(values, stretched) == pytest.approx(1)
    assert spearman(values, -stretched) == pytest.approx(-1)

"""Rates, shares and ratios are computed as they are described."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import (
    ceiling_texts_per_s,
    cosines,
    encoder_flops,
    median_ratio,
    relative_difference,
    share_of_ceiling,
    usd_per_million_tokens,
)
from transforms.embedders.encoder import EncoderShape

SHAPE = EncoderShape(
    family="bert",
    hidden=4,
    layers=3,
    heads=2,
    intermediate=8,
    max_positions=16,
    first_position=0,
    epsilon=1e-12,
    relative_buckets=0,
)


def test_operations_are_those_of_every_matrix_product_of_a_layer() -> None:
    tokens, hidden, inner = 5, SHAPE.hidden, SHAPE.intermediate
    products = [
        *[(tokens, hidden, hidden)] * 4,  # query, key, value, output
        (tokens, hidden, inner),
        (tokens, inner, hidden),
        (tokens, hidden, tokens),  # scores, over all heads
        (tokens, tokens, hidden),  # their weighted sum
    ]
    by_hand = 3 * sum(2 * rows * inner * columns for rows, inner, columns in products)
    assert encoder_flops(SHAPE, [tokens]) == by_hand


@given(st.lists(st.integers(1, 256), min_size=1, max_size=20))
def test_operations_of_several_inputs_are_the_sum_of_each(lengths: list[int]) -> None:
    assert encoder_flops(SHAPE, lengths) == pytest.approx(
        sum(encoder_flops(SHAPE, [length]) for length in lengths)
    )


def test_an_engine_at_the_ceiling_has_a_share_of_one() -> None:
    flops = encoder_flops(SHAPE, [16] * 10)
    rate = ceiling_texts_per_s(flops, 10, ceiling_gflops=2.0)
    assert share_of_ceiling(flops, 10 / rate, 2.0) == pytest.approx(1.0)


def test_a_machine_that_slows_both_down_changes_no_ratio() -> None:
    quiet = {1: 1.0, 2: 1.0, 3: 1.0}
    assert median_ratio(quiet, {1: 3.0, 2: 3.0, 3: 3.0}) == 3.0
    assert median_ratio({1: 1.0, 2: 9.0, 3: 1.0}, {1: 3.0, 2: 27.0, 3: 3.0}) == 3.0


def test_rounds_that_only_one_side_has_do_not_count() -> None:
    assert median_ratio({1: 1.0, 2: 1.0}, {2: 4.0, 3: 100.0}) == 4.0
    assert median_ratio({1: 1.0}, {2: 4.0}) is None


def test_a_million_tokens_at_a_million_an_hour_cost_an_hour() -> None:
    assert usd_per_million_tokens(1e6 / 3600, usd_per_hour=0.09) == pytest.approx(0.09)


def test_cosine_ignores_length_and_sees_a_swapped_row() -> None:
    reference = np.array([[1, 0], [0, 1]], np.float32)
    assert cosines(reference * 7, reference) == pytest.approx([1, 1])
    assert cosines(reference[::-1], reference) == pytest.approx([0, 0])


def test_a_difference_is_relative_to_the_reference() -> None:
    assert relative_difference(0.99, 1.1) == pytest.approx(-0.1)

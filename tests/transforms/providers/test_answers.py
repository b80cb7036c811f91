"""Vectors from answers: whatever order they come in, and nothing that cannot be right."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import BadAnswer
from transforms.providers.answers import to_vectors, whole_number

DIMENSIONS = 3


def row(number: int) -> list[float]:
    return [float(number), 0.5, -1.0]


@given(st.permutations(range(12)))
def test_vectors_come_in_the_order_asked_whatever_the_order_of_the_answer(order: list[int]) -> None:
    vectors = to_vectors("here", [(number, row(number)) for number in order], 12, DIMENSIONS, None)
    assert vectors[:, 0].tolist() == list(range(12))


@given(st.lists(st.integers(-2, 5) | st.none() | st.booleans() | st.just("0"), max_size=6))
def test_numbers_that_are_not_each_once_are_refused(numbers: list[Any]) -> None:
    count = 4
    answer = [(number, row(0)) for number in numbers]
    if sorted(map(repr, numbers)) == sorted(map(repr, range(count))):
        assert to_vectors("here", answer, count, DIMENSIONS, None).shape == (count, DIMENSIONS)
    else:
        with pytest.raises(BadAnswer, match="for 4 texts") as raised:
            to_vectors("here", answer, count, DIMENSIONS, 7)
        assert raised.value.tokens_reported == 7


@pytest.mark.parametrize(
    "values",
    [
        None,
        "abc",
        {},
        [],
        [1.0, 2.0],
        [1.0, 2.0, 3.0, 4.0],
        [1.0, 2.0, None],
        [1.0, 2.0, "x"],
        [1.0, 2.0, [3.0]],
        [1.0, 2.0, 1e39],
        [1.0, 2.0, 10**400],
    ],
)
def test_what_is_no_vector_is_refused(values: Any) -> None:
    with pytest.raises(BadAnswer):
        to_vectors("here", [(0, row(0)), (1, values)], 2, DIMENSIONS, None)


def test_of_no_texts_there_are_no_vectors() -> None:
    assert to_vectors("here", [], 0, DIMENSIONS, 0).shape == (0, DIMENSIONS)


@pytest.mark.parametrize(
    ("said", "count"),
    [(0, 0), (12, 12), (12.0, 12), (12.5, None), (-1, None), (True, None), ("12", None), (None, None)],
)
def test_a_count_is_a_whole_number(said: Any, count: int | None) -> None:
    assert whole_number(said) == count


def test_a_count_without_end_is_none() -> None:
    assert whole_number(float("inf")) is None
    assert whole_number(float("nan")) is None

"""Batches lose, repeat and reorder nothing, and one bad input spoils no other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import EngineFailed, Parked
from schemas.spaces import EmbeddingSpace
from schemas.usage import LOCAL
from transforms.embedders.base import EngineFacts, TokenIds, Vectors
from transforms.embedders.batching import embed_all, padding_ratio, plan_batches

lengths_of_rows = st.lists(st.integers(1, 300), max_size=80)
inputs = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), max_size=40)


class Counting:
    """An engine whose vector says which input it came from; it breaks on the token ids it is told to."""

    def __init__(
        self, fails_on: int | None = None, nan_on: int | None = None, nan_alone: bool = True
    ) -> None:
        self.space = EmbeddingSpace("counting", "0" * 64, "exact", "mean", False, 2, 256)
        self.facts = EngineFacts("local", "counting", "1", "fp32", 1, 1, 512, LOCAL)
        self.fails_on, self.nan_on, self.nan_alone = fails_on, nan_on, nan_alone
        self.batches: list[list[TokenIds]] = []

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        self.batches.append(list(batch))
        if any(self.fails_on in ids for ids in batch):
            raise EngineFailed("a token this engine cannot take")
        vectors = np.array([vector_of(ids) for ids in batch], dtype=np.float32)
        if self.nan_alone or len(self.batches) == 1:
            vectors[[self.nan_on in ids for ids in batch]] = np.nan
        return vectors


def vector_of(ids: Sequence[int] | TokenIds) -> tuple[float, float]:
    return float(len(ids)), float(sum(int(token) * 7**place for place, token in enumerate(ids)))


def arrays(rows: Sequence[Sequence[int]]) -> list[TokenIds]:
    return [np.array(row, dtype=np.int32) for row in rows]


@given(lengths_of_rows, st.integers(1, 2000), st.booleans())
def test_every_row_is_in_exactly_one_batch(lengths: list[int], budget: int, pads: bool) -> None:
    batches = plan_batches(lengths, budget, pads)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@given(lengths_of_rows, st.integers(1, 2000))
def test_a_batch_stays_within_its_budget_unless_a_single_row_is_longer(
    lengths: list[int], budget: int
) -> None:
    for batch in plan_batches(lengths, budget):
        longest = max(lengths[index] for index in batch)
        assert len(batch) * longest <= budget or len(batch) == 1


@given(lengths_of_rows, st.integers(1, 2000))
def test_without_padding_a_batch_is_as_full_as_its_budget_allows(lengths: list[int], budget: int) -> None:
    batches = [[lengths[index] for index in batch] for batch in plan_batches(lengths, budget, pads=False)]
    assert all(sum(batch) <= budget or len(batch) == 1 for batch in batches)
    assert all(sum(batch) + after[0] > budget for batch, after in pairwise(batches))


@given(lengths_of_rows, st.integers(1, 2000))
def test_batches_go_from_long_to_short(lengths: list[int], budget: int) -> None:
    flat = [lengths[index] for batch in plan_batches(lengths, budget) for index in batch]
    assert flat == sorted(lengths, reverse=True)


def test_a_parked_batch_fails_as_a_whole_and_is_not_halved() -> None:
    class Parking(Counting):
        def run(self, batch: Sequence[TokenIds]) -> Vectors:
            if any(9 in ids for ids in batch):
                self.batches.append(list(batch))
                raise Parked("no endpoint can be asked")
            return super().run(batch)

    engine = Parking()
    result = embed_all(engine, arrays([[1], [9], [2], [1, 1, 1]]), 3)
    assert set(result.failed) == {0, 1, 2}
    assert all(isinstance(error, Parked) for error in result.failed.values())
    assert tuple(result.vectors[3]) == vector_of([1, 1, 1])
    assert (len(engine.batches), [call.error for call in result.log]) == (2, [None, "Parked"])


def test_padding_is_the_share_of_computed_tokens_that_nobody_asked_for() -> None:
    assert padding_ratio([10, 5], [np.array([0, 1])]) == pytest.approx(0.25)
    assert padding_ratio([10, 10], [np.array([0, 1])]) == 0
    assert padding_ratio([], []) == 0


def test_sorting_by_length_pads_less_than_taking_rows_as_they_come() -> None:
    lengths = np.tile([10, 240], 32)
    as_they_come = [np.arange(start, start + 8) for start in range(0, 64, 8)]
    assert padding_ratio(lengths, plan_batches(lengths, 2048)) < 0.05 < padding_ratio(lengths, as_they_come)


@given(inputs, st.integers(1, 40))
def test_vectors_come_back_in_the_order_of_the_inputs(rows: list[list[int]], budget: int) -> None:
    result = embed_all(Counting(), arrays(rows), budget)
    assert [tuple(vector) for vector in result.vectors.tolist()] == [vector_of(row) for row in rows]
    assert result.vectors.dtype == np.float32
    assert not result.failed


@given(inputs, st.integers(1, 40))
def test_equal_inputs_run_once(rows: list[list[int]], budget: int) -> None:
    engine = Counting()
    result = embed_all(engine, arrays(rows), budget)
    ran = [tuple(ids.tolist()) for batch in engine.batches for ids in batch]
    assert sorted(ran) == sorted({tuple(row) for row in rows})
    assert result.inputs == len(ran)
    assert result.tokens == sum(len(row) for row in ran)


@given(inputs, st.integers(1, 40), st.integers(1, 6))
def test_halving_fails_the_bad_inputs_and_no_others(rows: list[list[int]], budget: int, bad: int) -> None:
    result = embed_all(Counting(fails_on=bad), arrays(rows), budget)
    assert set(result.failed) == {number for number, row in enumerate(rows) if bad in row}
    for number, row in enumerate(rows):
        assert tuple(result.vectors[number].tolist()) == ((0, 0) if bad in row else vector_of(row))


@given(inputs, st.integers(1, 40), st.integers(1, 6))
def test_the_log_has_every_call_the_engine_saw(rows: list[list[int]], budget: int, bad: int) -> None:
    engine = Counting(fails_on=bad, nan_on=7 - bad)
    result = embed_all(engine, arrays(rows), budget)
    assert result.calls == len(engine.batches)
    assert [call.inputs for call in result.log] == [len(batch) for batch in engine.batches]
    assert result.computed_tokens >= result.tokens
    assert result.inputs == len({tuple(row) for row in rows})


def test_one_bad_input_among_many_costs_a_logarithm_of_calls() -> None:
    rows = [[1, 2, number] for number in range(10, 266)]
    engine = Counting(fails_on=100)
    result = embed_all(engine, arrays(rows), 10_000)
    assert list(result.failed) == [90]
    assert result.calls == 1 + 2 * 8
    assert {call.error for call in result.log} == {None, "EngineFailed"}


def test_a_nan_that_was_a_passing_fault_is_gone_when_computed_alone() -> None:
    engine = Counting(nan_on=3, nan_alone=False)
    result = embed_all(engine, arrays([[1], [3], [5]]), 100)
    assert not result.failed
    assert tuple(result.vectors[1].tolist()) == vector_of([3])
    assert [len(batch) for batch in engine.batches] == [3, 1]


def test_a_nan_that_stays_fails_its_own_row_after_one_more_try() -> None:
    engine = Counting(nan_on=3)
    result = embed_all(engine, arrays([[1], [3], [5], [3]]), 100)
    assert set(result.failed) == {1, 3}
    assert [len(batch) for batch in engine.batches] == [3, 1]
    assert np.isfinite(result.vectors).all()


def test_an_answer_of_the_wrong_shape_is_a_failure_not_a_broadcast() -> None:
    class OneTooFew(Counting):
        def run(self, batch: Sequence[TokenIds]) -> Vectors:
            return super().run(batch)[:-1]

    result = embed_all(OneTooFew(), arrays([[1], [2]]), 100)
    assert set(result.failed) == {0, 1}
    assert "shape" in str(result.failed[0])


def test_no_input_is_no_call() -> None:
    result = embed_all(Counting(), [], 100)
    assert result.vectors.shape == (0, 2)
    assert (result.calls, result.tokens, result.engine_seconds) == (0, 0, 0)

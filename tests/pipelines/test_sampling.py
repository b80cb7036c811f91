"""Estimates hold the truth as often as they say, and what was counted is no estimate."""

from __future__ import annotations

import random
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from pipelines.sampling import Estimate, Sample, counted, total
from schemas.documents import Format, Kind, SourceRecord

AT = datetime(2026, 1, 1, tzinfo=UTC)


def record(number: int, payload_bytes: int) -> SourceRecord:
    return SourceRecord("acme", "s", Format.JIRA_ISSUE, Kind.ISSUE, str(number), b"x" * payload_bytes, AT, AT)


def test_what_was_counted_whole_is_no_estimate() -> None:
    assert total([3, 4], [30, 50], records=2, payload_bytes=80) == Estimate(7, 7, 7)
    assert total([], [], records=0, payload_bytes=0) == counted(0)


def test_a_sum_is_scaled_by_the_size_of_the_payloads_not_by_their_number() -> None:
    found = total([10, 20, 30], [100, 200, 300], records=100, payload_bytes=50_000)
    assert (found.value, found.low, found.high) == (5000, 5000, 5000)


def test_nineteen_intervals_of_twenty_hold_the_truth() -> None:
    chance = random.Random(1)
    sizes = [round(chance.lognormvariate(7, 1.2)) + 1 for _ in range(4000)]
    tokens = [round(size * chance.uniform(0.05, 0.3)) for size in sizes]
    hits = 0
    for _ in range(400):
        part = chance.sample(range(len(sizes)), 200)
        found = total([tokens[n] for n in part], [sizes[n] for n in part], len(sizes), sum(sizes))
        hits += found.low <= sum(tokens) <= found.high
    assert 0.92 <= hits / 400 <= 0.98


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 1000), st.integers(0, 1000)), max_size=5))
def test_the_error_of_a_sum_is_no_more_than_the_sum_of_errors(parts: list[tuple[int, int, int]]) -> None:
    added = counted(0)
    for value, below, above in parts:
        added += Estimate(value, max(0, value - below), value + above)
    assert added.value == sum(value for value, _, _ in parts)
    assert added.low <= added.value <= added.high
    assert added.high - added.value <= sum(above for _, _, above in parts) + len(parts)


def test_the_largest_are_taken_for_certain_and_the_others_by_chance() -> None:
    sample = Sample(most=50)
    for number in range(1000):
        sample.offer(record(number, payload_bytes=1 + number * 7919 % 1000))
    assert sorted(len(one.payload) for one in sample.largest) == list(range(991, 1001))
    assert len(sample.others) == 40
    assert (sample.others_seen, sample.others_bytes) == (990, sum(range(1, 991)))


def test_each_of_the_others_is_as_likely_as_any_other() -> None:
    taken = [0] * 100
    for seed in range(300):
        sample = Sample(most=25)
        sample._chance = random.Random(seed)
        for number in range(100):
            sample.offer(record(number, payload_bytes=10))
        for one in sample.others:
            taken[int(one.native_id)] += 1
    assert taken[95:] == [0] * 5  # of equal size the last are the largest
    fifths = [sum(taken[start : start + 19]) / sum(taken) for start in range(0, 95, 19)]
    assert all(0.17 < share < 0.23 for share in fifths)


@given(st.lists(st.integers(0, 5000), max_size=200))
def test_a_sample_stays_within_its_bytes_and_forgets_no_record(sizes: list[int]) -> None:
    sample = Sample(most=40, max_bytes=20_000)
    for number, size in enumerate(sizes):
        sample.offer(record(number, size))
        assert sum(len(one.payload) for one in sample.largest) <= 10_000
        assert sum(len(one.payload) for one in sample.others) <= 10_000
    assert sample.others_seen + len(sample.largest) == len(sizes)
    kept = [one.native_id for one in (*sample.largest, *sample.others)]
    assert len(set(kept)) == len(kept) <= 40


def test_the_same_stream_gives_the_same_sample() -> None:
    first, second = Sample(most=20), Sample(most=20)
    for number in range(500):
        for sample in (first, second):
            sample.offer(record(number, number % 37))
    assert (first.largest, first.others) == (second.largest, second.others)

"""When a watcher looks again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.schedule import MAX_BACK_OFF_S, after_success, back_off_s
from runners.schedule import parse_duration, refresh_at

START = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.floats(0.1, 1e5), st.floats(0, 1e6))
def test_polls_start_whole_intervals_apart_and_missed_ones_are_left_out(
    interval_s: float, took_s: float
) -> None:
    now = START + timedelta(seconds=took_s)
    following = after_success(START, now, interval_s)
    intervals = (following - START).total_seconds() / interval_s
    assert abs(intervals - round(intervals)) < 1e-3
    assert intervals > 0.99
    assert (following - now).total_seconds() >= -1e-3 or took_s < interval_s
    assert (following - now).total_seconds() <= interval_s + 1e-3


@given(st.integers(1, 10_000), st.floats(0.1, 1e5))
def test_back_off_grows_and_is_bounded(failures: int, interval_s: float) -> None:
    wait_s = back_off_s(failures, interval_s)
    assert interval_s <= wait_s <= max(interval_s, min(MAX_BACK_OFF_S, interval_s * 2.0 ** min(failures, 60)))


def test_a_wait_that_the_source_asked_for_is_kept() -> None:
    assert back_off_s(1, 60, asked_s=5000) == 5000


def test_an_index_is_refreshed_when_changes_pause_or_have_gone_on_for_a_while() -> None:
    assert refresh_at(first_change_s=10, last_change_s=10, refreshed_s=0, took_s=0.1) == 11
    assert refresh_at(first_change_s=10, last_change_s=13.9, refreshed_s=0, took_s=0.1) == 14


def test_refreshing_a_large_index_takes_at_most_a_tenth_of_the_time() -> None:
    assert refresh_at(first_change_s=110, last_change_s=110, refreshed_s=100, took_s=60) == 640


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2h", 7200)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "1d", "m10"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90s, 10m or 1h30m"):
        parse_duration(text)

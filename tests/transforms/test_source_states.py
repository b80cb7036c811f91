"""How it stands with a source is told from its row, whoever wrote it and whether he still lives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from schemas.errors import SourceTimeout
from transforms.source_states import (
    SourceState,
    load_states,
    note_begun,
    note_ended,
    note_left,
    note_waiting,
    noted,
    one_line,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("state", "condition"),
    [
        (SourceState("s"), "ok"),
        (SourceState("s", next_poll_at=ago(0.5)), "ok"),
        (SourceState("s", next_poll_at=ago(2)), "overdue"),
        (SourceState("s", consecutive_failures=1, next_poll_at=ago(-1)), "failing"),
        (SourceState("s", reconcile_error="refused"), "failing"),
        (SourceState("s", busy_since=ago(1), last_heard_at=ago(1)), "reading"),
        (SourceState("s", busy_since=ago(60), last_heard_at=ago(1)), "reading"),
        (SourceState("s", busy_since=ago(60), last_heard_at=ago(20)), "stuck"),
        (SourceState("s", busy_since=ago(60), last_heard_at=ago(20), waiting_until=ago(-5)), "waiting"),
        (SourceState("s", busy_since=ago(60), last_heard_at=ago(20), waiting_until=ago(5)), "reading"),
        (SourceState("s", busy_since=ago(60), last_heard_at=ago(40), waiting_until=ago(20)), "stuck"),
    ],
)
def test_a_condition_is_one_word(state: SourceState, condition: str) -> None:
    assert state.condition(NOW) == condition


def test_lag_is_the_age_of_the_last_good_poll() -> None:
    assert SourceState("s").lag_s(NOW) is None
    assert SourceState("s", last_success_at=ago(2)).lag_s(NOW) == 120


def read(connection: psycopg.Connection) -> SourceState:
    (state,) = load_states(connection, "acme")
    return state


def test_a_poll_that_succeeds_forgets_earlier_failures(connection: psycopg.Connection) -> None:
    for minute in (3, 2):
        note_begun(connection, "acme", "s", "poll", ago(minute))
        note_ended(connection, "acme", "s", "poll", SourceTimeout("no answer"), NOW)
    state = read(connection)
    assert (state.consecutive_failures, state.last_error, state.last_success_at) == (2, "no answer", None)
    note_begun(connection, "acme", "s", "poll", ago(1))
    note_waiting(connection, "acme", "s", "rate limit", NOW)
    assert read(connection).waiting_for == "rate limit"
    note_ended(connection, "acme", "s", "poll", None, NOW)
    state = read(connection)
    assert (state.consecutive_failures, state.last_error, state.last_success_at) == (0, None, ago(1))
    assert (state.waiting_for, state.busy_since, state.next_poll_at) == (None, None, NOW)


def test_a_failed_reconciliation_is_kept_until_one_succeeds_and_is_no_failed_poll(
    connection: psycopg.Connection,
) -> None:
    note_begun(connection, "acme", "s", "reconcile", ago(3))
    note_ended(connection, "acme", "s", "reconcile", SourceTimeout("no answer"))
    note_begun(connection, "acme", "s", "poll", ago(2))
    note_ended(connection, "acme", "s", "poll", None)
    state = read(connection)
    assert (state.reconcile_error, state.consecutive_failures) == ("no answer", 0)
    assert (state.last_success_at, state.last_reconciled_at) == (ago(2), None)
    note_begun(connection, "acme", "s", "reconcile", ago(1))
    note_ended(connection, "acme", "s", "reconcile", None)
    state = read(connection)
    assert (state.reconcile_error, state.last_reconciled_at, state.last_polled_at) == (None, ago(1), ago(2))


def test_a_look_ends_as_its_block_does(connection: psycopg.Connection) -> None:
    with pytest.raises(SourceTimeout), noted(connection, "acme", "s", "poll"):
        raise SourceTimeout("no answer")
    assert (read(connection).last_error, read(connection).busy_with) == ("no answer", None)
    with pytest.raises(KeyboardInterrupt), noted(connection, "acme", "s", "poll"):
        raise KeyboardInterrupt
    assert (read(connection).consecutive_failures, read(connection).busy_with) == (1, None)
    with noted(connection, "acme", "s", "poll"):
        assert read(connection).busy_with == "poll"
    assert read(connection).consecutive_failures == 0


def test_a_watcher_that_leaves_plans_nothing(connection: psycopg.Connection) -> None:
    note_begun(connection, "acme", "s", "poll", ago(1))
    note_ended(connection, "acme", "s", "poll", None, NOW)
    note_left(connection, "acme", ["s"])
    assert read(connection).next_poll_at is None


def test_an_error_that_is_not_ours_is_named_and_not_quoted() -> None:
    assert one_line(SourceTimeout("no\nanswer")) == "no answer"
    try:
        {}["token=hunter2"]
    except KeyError as error:
        said = one_line(error)
    assert said.startswith("unexpected KeyError in test_an_error")
    assert "hunter2" not in said

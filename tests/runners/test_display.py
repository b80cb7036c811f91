"""What a person is shown: whole, and under the right heading."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from runners.display import print_rows, print_status
from runners.display_dead_letters import print_dead_letters

LETTER: dict[str, Any] = {
    "source": "tickets",
    "native_id": "30007",
    "locator": "tickets.json:1",
    "stage": "moderate",
    "error_type": "Flagged",
    "reason": "chunk 0: violence",
    "retriable": False,
    "attempts": 1,
    "last_seen_at": datetime(2026, 11, 3, 9, 5, tzinfo=UTC),
    "resolved_at": None,
}


def words(text: io.StringIO) -> list[list[str]]:
    """Of each line."""
    return [line.split() for line in text.getvalue().splitlines() if line.strip()]


def shown(*letters: dict[str, Any]) -> list[list[str]]:
    text = io.StringIO()
    print_dead_letters(Console(file=text, width=120), letters)
    return words(text)


def test_a_count_that_only_some_rows_have_stands_under_its_own_heading() -> None:
    text = io.StringIO()
    rows = [{"source": "git", "new": 11}, {"source": "jira", "dead_lettered": 1, "new": 12}]
    print_rows(Console(file=text), rows, "none")
    heading, _, *lines = words(text)
    assert heading == ["source", "new", "dead", "lettered"]
    assert lines == [["git", "11", "-"], ["jira", "12", "1"]]


@pytest.mark.parametrize("width", [60, 200])
def test_a_job_s_words_are_not_broken_however_narrow_the_screen(width: int) -> None:
    text = io.StringIO()
    job = {"job": "f" * 32, "state": "RUNNING", "records_read": 12000, "last_failure": "a worker was lost"}
    print_status(Console(file=text, width=width), {"flink_jobs": [job, job | {"job": "e" * 32}]})
    heading, *lines = [" ".join(line) for line in words(text)]
    assert heading == "flink jobs"
    if width == 200:
        assert lines[0] == "job state records read last failure"
        assert lines[2:] == [f"{letter * 32} RUNNING 12,000 a worker was lost" for letter in "fe"]
    else:
        for letter, job_lines in zip("fe", (lines[:4], lines[4:]), strict=True):
            job_facts = ["state RUNNING", "records read 12,000", "last failure a worker was lost"]
            assert job_lines == [f"job {letter * 32}", *job_facts]


def test_a_letter_is_one_line_that_says_what_failed_where_and_why() -> None:
    heading, _, line = shown(LETTER)
    assert "resolved" not in heading
    assert " ".join(line) == ("2026-11-03 09:05 tickets 30007 moderate Flagged: chunk 0: violence no 1")


def test_a_record_without_an_id_is_named_by_where_it_was_read() -> None:
    assert "tickets.json:1" in shown({**LETTER, "native_id": ""})[2]


def test_when_a_letter_was_resolved_is_shown_where_one_was() -> None:
    resolved = {**LETTER, "resolved_at": datetime(2026, 11, 4, 10, 0, tzinfo=UTC)}
    heading, _, one, other = shown(resolved, LETTER)
    assert heading[-1] == "resolved"
    assert (one[-2:], other[-1]) == (["2026-11-04", "10:00"], "1")


def test_no_letters_are_said_in_words() -> None:
    assert shown() == [["No", "dead", "letters."]]

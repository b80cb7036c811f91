"""What a person is shown: whole, and under the right heading."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from runners.display import print_rows
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

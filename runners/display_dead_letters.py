"""Dead letters for people: what failed, where and why. All that is known of one is in the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from runners.display import print_rows


def print_dead_letters(console: Console, letters: Sequence[Mapping[str, Any]]) -> None:
    """A line a letter; the column of when it was resolved is there where one was."""
    any_resolved = any(letter["resolved_at"] for letter in letters)
    print_rows(console, [_row(letter, any_resolved) for letter in letters], "No dead letters.")


def _row(letter: Mapping[str, Any], any_resolved: bool) -> dict[str, Any]:
    row = {
        "last_seen": f"{letter['last_seen_at']:%Y-%m-%d %H:%M}",
        "source": letter["source"],
        "record": letter["native_id"] or letter["locator"],
        "stage": letter["stage"],
        "why": f"{letter['error_type']}: {letter['reason']}",
        "retriable": letter["retriable"],
        "attempts": letter["attempts"],
    }
    if any_resolved:
        resolved = letter["resolved_at"]
        row["resolved"] = f"{resolved:%Y-%m-%d %H:%M}" if resolved else ""
    return row

"""Payloads are parsed as sources write them, odd as they are, and never by luck."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InvalidPayload
from schemas.payloads import GitHubIssue, JiraIssue, parse_json, parse_time, validate

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2025-03-01T13:00:00.000+0100", NOON),
        ("2025-03-01T12:00:00Z", NOON),
        ("2025-03-01T07:00:00-05:00", NOON),
        ("2025-03-01 12:00:00", NOON),
        ("2025-03-01 12:00:00 UTC", NOON),
        (1740830400000, NOON),
        (1740830400, NOON),
        ("yesterday", None),
        ("", None),
        (None, None),
        (True, None),
        (1e300, None),
        (float("nan"), None),
        ("0001-01-01T00:00:00+23:00", None),
        ({}, None),
    ],
)
def test_a_moment_is_read_in_every_form_a_source_writes_it(value: Any, expected: datetime | None) -> None:
    assert parse_time(value) == expected


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(-(2**53), 2**53), st.lists, max_leaves=10
    )
)
def test_json_is_parsed_as_it_was_written(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


def test_a_lone_surrogate_becomes_a_replacement_character_and_a_pair_stays() -> None:
    assert parse_json(rb'"a\ud83d b \ud83d\ude00"') == "a\ufffd b \U0001f600"


@pytest.mark.parametrize("raw", [b"", b"{", b"NaN", b'{"a": Infinity}', b'"\xff"', b"[" * 200_000, b"{} {}"])
def test_what_is_no_json_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any of them
        parse_json(raw)


def test_a_wrong_shape_names_its_place_and_never_its_content() -> None:
    with pytest.raises(InvalidPayload, match="fields") as caught:
        validate(JiraIssue, {"key": "A-1", "fields": "private words"})
    assert "private" not in str(caught.value)


def test_names_are_read_from_objects_and_from_names() -> None:
    labels: list[Any] = ["a", {"name": "b"}, {"title": "c"}, None, 7, {"id": 1}]
    issue = validate(
        GitHubIssue, {"number": "7", "labels": labels, "milestone": {"title": "v1"}, "body": None}
    )
    assert (issue.labels, issue.milestone, issue.number, issue.body) == (("a", "b", "c", "7"), "v1", 0, "")

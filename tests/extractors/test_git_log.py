"""The bytes that git writes about commits, and the payload made of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.git_log import (
    COUNTS,
    EARLIEST,
    LATEST,
    MAX_FILES,
    LoggedCommit,
    parse_date,
    parse_log,
    payload_of,
)
from extractors.git_process import GitFailed, split_stream

SHA = b"2ac89889f4cc330edd479f8dcbef02828522455b"
HEADER = (SHA, b"", b"Ada", b"1700000000 +0100", b"Bob", b"1700000001 -0330", b"Dig\n", b"")


def parse(*tokens: bytes) -> list[LoggedCommit]:
    return list(parse_log(iter(tokens)))


def test_a_commit_without_changes_is_followed_by_the_next() -> None:
    assert [commit.message for commit in parse(*HEADER, *HEADER)] == ["Dig", "Dig"]


def test_counts_renames_and_binary_files_are_read() -> None:
    (commit,) = parse(
        *HEADER, b"\n1\t2\ta\tb", b"0\t0\t", b"old", b"new", b"-\t-\tlogo.png", b"3\t0\tline\nbreak"
    )
    assert commit.changes.listed == [
        {"path": "a\tb", "additions": 1, "deletions": 2},
        {"path": "new", "old_path": "old", "additions": 0, "deletions": 0},
        {"path": "logo.png", "additions": None, "deletions": None, "binary": True},
        {"path": "line\nbreak", "additions": 3, "deletions": 0},
    ]
    assert (commit.changes.files, commit.changes.additions, commit.changes.deletions) == (4, 4, 2)


def test_names_alone_have_no_counts() -> None:
    (commit,) = parse(*HEADER, b"\nA", b"a", b"D", b"b")
    assert commit.changes.listed == [
        {"path": "a", "additions": None, "deletions": None},
        {"path": "b", "additions": None, "deletions": None},
    ]


def test_a_path_that_looks_like_a_commit_is_a_path() -> None:
    (commit,) = parse(*HEADER, b"\n0\t0\t", SHA, SHA, b"1\t1\t" + SHA)
    assert [change["path"] for change in commit.changes.listed] == [SHA.decode()] * 2


def test_a_path_that_is_not_utf8_keeps_its_bytes_readable() -> None:
    (commit,) = parse(*HEADER, b"\n1\t0\tcaf\xe9")
    assert commit.changes.listed[0]["path"] == "caf\\xe9"


def test_a_message_that_is_not_utf8_is_replaced_and_marked() -> None:
    (commit,) = parse(*HEADER[:6], b"caf\xe9\n\n", b"")
    assert (commit.message, commit.message_not_utf8) == ("caf�", True)


def test_a_vast_commit_lists_some_files_and_counts_all() -> None:
    (commit,) = parse(*HEADER, b"\n1\t0\tf", *(b"1\t0\tf%d" % n for n in range(MAX_FILES + 9)))
    assert len(commit.changes.listed) == MAX_FILES
    assert (commit.changes.files, commit.changes.additions) == (MAX_FILES + 10, MAX_FILES + 10)


@pytest.mark.parametrize("length", range(1, len(HEADER)))
def test_an_answer_that_ends_inside_a_commit_is_refused(length: int) -> None:
    with pytest.raises(GitFailed):
        parse(*HEADER[:length])


def test_an_answer_of_another_shape_is_refused() -> None:
    with pytest.raises(GitFailed):
        parse(b"usage: git diff-tree")


def test_the_payload_of_a_shallow_boundary_claims_no_parents() -> None:
    (commit,) = parse(SHA, SHA, *HEADER[2:])
    payload = payload_of(commit, "tunnel", "", boundary=True, detail=COUNTS)
    assert payload["shallow_boundary"] is True
    assert payload["parents"] == ()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("1700000000 +0545", "2023-11-15T03:58:20+05:45"),
        ("1700000000 -0330", "2023-11-14T18:43:20-03:30"),
        ("1700000000 +9999", "2023-11-14T22:13:20+00:00"),
        ("", "1970-01-01T00:00:00+00:00"),
        ("nonsense", "1970-01-01T00:00:00+00:00"),
        ("99999999999999 +0000", "9999-12-30T00:00:00+00:00"),
        ("9" * 5000 + " +0000", "1970-01-01T00:00:00+00:00"),
        ("-99999999999999 -1200", "0001-01-01T12:00:00-12:00"),
    ],
)
def test_a_date_of_git_becomes_one_that_a_calendar_holds(raw: str, expected: str) -> None:
    assert parse_date(raw).isoformat() == expected


@given(st.from_regex(r"-?[0-9]{1,25} [+-][0-9]{1,5}", fullmatch=True))
def test_no_date_leaves_what_can_be_stored(raw: str) -> None:
    assert EARLIEST <= parse_date(raw) <= LATEST


@given(st.lists(st.binary(max_size=5)), st.integers(1, 7))
def test_a_stream_is_split_the_same_whatever_its_blocks(pieces: list[bytes], size: int) -> None:
    stream = b"".join(piece.replace(b"\0", b"x") + b"\0" for piece in pieces)

    def blocks() -> Iterator[bytes]:
        for at in range(0, len(stream), size):
            yield stream[at : at + size]

    assert list(split_stream(blocks(), b"\0")) == [piece.replace(b"\0", b"x") for piece in pieces]

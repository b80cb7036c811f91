"""A commit's payload as a document."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.commits import MAX_PATHS, MAX_PATHS_IN_TEXT, commit_to_document
from schemas.documents import BEGINNING, Document, Format, Kind, Link, SourceRecord
from schemas.errors import InvalidPayload

SHA = "2ac89889f4cc330edd479f8dcbef02828522455b"


def record(payload: bytes) -> SourceRecord:
    return SourceRecord("acme", "tunnel", Format.GIT_COMMIT, Kind.COMMIT, SHA, payload, BEGINNING)


def document(**fields: Any) -> Document:
    payload = {
        "repo": "acme/tunnel",
        "sha": SHA,
        "parents": ["1" * 40],
        "author": "Ada",
        "author_date": "2024-02-07T08:20:31+01:00",
        "committer": "Bob",
        "commit_date": "2024-02-08T08:20:31+05:45",
        "message": "Dig deeper\n\nThe rock is soft, see #4.",
        "stats": {"files": 1, "additions": 3, "deletions": 1},
        "files": [{"path": "src/dig.py", "additions": 3, "deletions": 1}],
    }
    return commit_to_document(record(orjson.dumps(payload | fields)))


def changed(path: str, additions: int = 1) -> dict[str, Any]:
    return {"path": path, "additions": additions, "deletions": 0}


def test_the_message_comes_first_and_the_paths_follow() -> None:
    found = document(web_url="https://github.com/acme/tunnel")
    assert found.title == "Dig deeper"
    assert found.text == (
        "# Dig deeper\n\nThe rock is soft, see #4.\n\nFiles changed: 1, +3 -1\n\n- src/dig.py +3 -1"
    )
    assert (found.key, found.project, found.author) == (SHA, "acme/tunnel", "Ada")
    assert found.url == f"https://github.com/acme/tunnel/commit/{SHA}"
    assert found.created_at == datetime(2024, 2, 7, 7, 20, 31, tzinfo=UTC)
    assert found.links == (Link("mentions", "github", "acme/tunnel#4"),)
    assert found.attributes["paths"] == ["src/dig.py"]
    assert found.attributes["merge"] is False


def test_a_subject_over_several_lines_is_one_title() -> None:
    assert document(message="Dig\ndeeper\n\nbody").title == "Dig deeper"


def test_a_merge_keeps_its_subject_and_is_marked() -> None:
    found = document(message="Merge branch 'x'", parents=["1" * 40, "2" * 40], stats=None, files=[])
    assert (found.title, found.text) == ("Merge branch 'x'", "# Merge branch 'x'")
    assert found.attributes["merge"] is True


def test_an_empty_message_leaves_the_paths() -> None:
    found = document(message="")
    assert (found.title, found.text) == ("", "Files changed: 1, +3 -1\n\n- src/dig.py +3 -1")


def test_a_bare_number_is_no_link_where_the_repository_is_only_a_folder() -> None:
    assert document(repo="tunnel").links == ()


def test_renames_and_binary_files_and_unknown_counts_are_told() -> None:
    files = [
        {"path": "new", "old_path": "old", "additions": 0, "deletions": 2},
        {"path": "logo.png", "additions": None, "deletions": None, "binary": True},
        {"path": "unknown", "additions": None, "deletions": None},
        {"path": 'a\n"b', "additions": 1, "deletions": 0},
    ]
    lines = document(files=files).text.splitlines()
    assert lines[-4:] == ["- old => new +0 -2", "- logo.png (binary)", "- unknown", '- a\\n"b +1 -0']


def test_of_many_files_the_largest_changes_stand_in_the_text_in_their_order() -> None:
    files = [changed(f"src/part{n % 3}/f{n}.py", additions=n % 500) for n in range(5461)]
    found = document(files=files, stats={"files": 5461, "additions": 9, "deletions": 9})
    lines = [line for line in found.text.splitlines() if line.startswith("- ")]
    assert len(lines) == MAX_PATHS_IN_TEXT + 1
    assert lines[0] == "- src/part1/f490.py +490 -0"
    assert lines[-1] == "- and 5361 more files in src/part0/, src/part2/, src/part1/"
    assert len(found.text) < 5000
    assert len(found.attributes["paths"]) == MAX_PATHS
    assert found.attributes["paths_left_out"] == 4461
    assert found.attributes["paths_left_out_of_text"] == 5361


def test_trailers_become_attributes_and_people_leave_the_text() -> None:
    found = document(
        message="Dig\n\nDeeper.\n\nFixes: PROJ-3\nCo-authored-by: Cy <cy@example.org>\n"
        "Reviewed-by: Di\n  Da <d@example.org>\n"
        "Change-Id: I0123\nSigned-off-by: Ada <ada@example.org>\n(cherry picked from commit abc)"
    )
    assert found.attributes["trailers"] == {
        "fixes": ["PROJ-3"],
        "co-authored-by": ["Cy"],
        "reviewed-by": ["Di Da"],
        "change-id": ["I0123"],
        "signed-off-by": ["Ada"],
    }
    assert found.text.startswith("# Dig\n\nDeeper.\n\nFixes: PROJ-3\n\nFiles changed")
    assert found.links == (Link("fixes", "jira_issue", "PROJ-3"),)


@pytest.mark.parametrize(
    "last",
    [
        "PROJ-12: add a flag",
        "https://example.org/page",
        "Prose that ends in\nNote: this",
        "Signed-off-by: Ada\n" + "prose\n" * 4,
    ],
)
def test_a_last_paragraph_that_is_no_block_of_trailers_stays_whole(last: str) -> None:
    found = document(message=f"Dig\n\n{last}")
    assert last.strip() in found.text
    assert found.attributes["trailers"] == {}


def test_a_block_that_git_signed_may_be_three_quarters_prose() -> None:
    found = document(message="Dig\n\nSigned-off-by: Ada\none\ntwo\nthree")
    assert found.attributes["trailers"] == {"signed-off-by": ["Ada"]}
    assert "one\ntwo\nthree" in found.text


def test_the_subject_is_never_a_trailer() -> None:
    found = document(message="fix: dig")
    assert (found.title, found.attributes["trailers"]) == ("fix: dig", {})


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("2024-02-07T08:20:31+51:00", datetime(2024, 2, 7, 8, 20, 31, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", datetime(1, 1, 1, tzinfo=UTC)),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_a_date_that_no_calendar_holds_does_not_fail_the_commit(
    date: str | None, expected: datetime | None
) -> None:
    assert document(author_date=date).created_at == expected


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (b"{", "(record)"),
        (b"[]", "(record)"),
        (orjson.dumps({"repo": "r"}), "sha"),
        (orjson.dumps({"repo": "r", "sha": "HEAD"}), "sha"),
        (orjson.dumps({"repo": "r", "sha": SHA, "message": 1}), "message"),
        (orjson.dumps({"repo": "r", "sha": SHA, "files": [{"path": "a"}, {}]}), "files.1.path"),
        (
            orjson.dumps({"repo": "r", "sha": SHA, "files": [{"path": "a", "additions": -1}]}),
            "files.0.additions",
        ),
    ],
)
def test_a_malformed_payload_is_refused_by_the_name_of_its_field(payload: bytes, path: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        commit_to_document(record(payload))
    assert caught.value.path == path


@given(st.text(), st.text(), st.lists(st.text(min_size=1), max_size=3))
def test_any_message_and_path_can_be_stored(message: str, author: str, paths: list[str]) -> None:
    found = document(
        message=message.encode("utf-8", "replace").decode(),
        author=author.encode("utf-8", "replace").decode(),
        files=[changed(path.encode("utf-8", "replace").decode()) for path in paths],
    )
    assert "\n" not in found.title
    assert b"\\u0000" not in orjson.dumps([found.text, found.title, found.author, found.attributes])


@given(
    st.lists(
        st.sampled_from(
            ["Signed-off-by: A", "  more", "prose", "", "Key: v", "#c", "(cherry picked from commit 1)"]
        )
    )
)
def test_no_line_of_prose_vanishes_with_the_trailers(lines: list[str]) -> None:
    found = document(message="\n".join(["Subject", "", *lines]))
    assert found.text.count("prose") == lines.count("prose")


@pytest.mark.shared_data
def test_every_real_commit_becomes_a_document(shared_data: Path) -> None:
    count = 0
    for path in sorted((shared_data / "git").glob("*.jsonl*")):
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                found = commit_to_document(record(line))
                count += 1
                assert found.text
                assert found.created_at is not None
                assert "\x00" not in found.text
    assert count > 17_000

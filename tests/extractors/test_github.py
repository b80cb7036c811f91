"""GitHub's issues, pulls, comments and reviews become documents that say where they belong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extractors.github import (
    archive_item_to_document,
    comment_to_document,
    issue_to_document,
    labelled_issue_to_document,
)
from schemas.documents import BEGINNING, Document, Format, Kind, Link, SourceRecord
from schemas.errors import InvalidPayload

API, WEB = "https://api.github.com/repos/acme/sluice", "https://github.com/acme/sluice"
SHA = "9d2c1a7b6e5f40312233445566778899aabbccdd"
BOTS = ("*-bot",)


def record(payload: Any, kind: Kind = Kind.ISSUE, native_id: str = "5") -> SourceRecord:
    return SourceRecord(
        "acme", "gh", Format.UNKNOWN, kind, native_id, json.dumps(payload).encode(), BEGINNING
    )


def issue(kind: Kind = Kind.ISSUE, repository: str | None = None, **payload: Any) -> Document:
    payload = {
        "number": 7,
        "title": "Pump stalls",
        "repository_url": API,
        "html_url": f"{WEB}/issues/7",
    } | payload
    return issue_to_document(record(payload, kind), repository=repository)


def comment(kind: Kind, native_id: str = "5", comments: bool = True, **payload: Any) -> Document:
    payload = {"id": 5, "user": {"login": "ines"}, "body": "Well seen."} | payload
    return comment_to_document(
        record(payload, kind, native_id), comments=comments, bots=BOTS, repository=None
    )


def test_an_issue_is_title_body_and_facts_and_its_comments_are_counted() -> None:
    found = issue(
        body="It **stalls**, see #6.", state="open", labels=[{"name": "bug"}], comments=3, user=None
    )
    assert found.text == "# Pump stalls\n\nIt **stalls**, see #6.\n\nState: open; Labels: bug"
    assert (found.key, found.project, found.author) == ("acme/sluice#7", "acme/sluice", "")
    assert found.url == f"{WEB}/issues/7"
    assert (found.comments_total, found.comments_dropped) == (3, {"not_in_payload": 3})
    assert found.links == (Link("mentions", "github", "acme/sluice#6"),)


def test_a_pull_request_of_a_deleted_fork_and_account_is_read() -> None:
    base = {"ref": "main", "repo": {"full_name": "acme/sluice"}}
    found = issue(Kind.PULL, head={"ref": "fix", "repo": None}, base=base, body=None, user=None,
                  state="closed", merged_at="2025-03-01T12:00:00Z", comments=1, review_comments=2)  # fmt: skip
    assert found.text == "# Pump stalls\n\nState: merged"
    assert (found.attributes["head"], found.attributes["base"], found.comments_total) == ("fix", "main", 3)


def test_the_issue_shape_of_a_pull_request_is_merged_too() -> None:
    inside = {"url": f"{API}/pulls/7", "merged_at": "2025-03-01T12:00:00Z"}
    assert issue(Kind.PULL, pull_request=inside, state="closed").attributes["state"] == "merged"


def test_the_configured_repository_stands_in_for_a_missing_one() -> None:
    assert issue(repository="acme/weir", repository_url=None, html_url=None).key == "acme/weir#7"
    with pytest.raises(InvalidPayload, match="`repository` in the configuration"):
        issue(repository_url=None, html_url=None)
    with pytest.raises(InvalidPayload, match="number"):
        issue(number=None, html_url=None)


def test_a_comment_names_its_issue_and_links_to_it() -> None:
    found = comment(Kind.COMMENT, issue_url=f"{API}/issues/7", html_url=f"{WEB}/issues/7#issuecomment-5")
    assert (found.title, found.key) == ("Comment on acme/sluice#7", "acme/sluice#7 (comment 5)")
    assert found.text == "# Comment on acme/sluice#7\n\nWell seen."
    assert found.links == (Link("parent", "github", "acme/sluice#7"),)
    assert (found.comments_total, found.comments_kept) == (1, 1)


def test_a_comment_on_a_commit_links_to_the_commit() -> None:
    found = comment(Kind.COMMENT, "commit:5", commit_id=SHA, html_url=f"{WEB}/commit/{SHA}#commitcomment-5")
    assert found.title == f"Comment on acme/sluice@{SHA[:12]}"
    assert found.links == (Link("parent", "commit", SHA),)


def test_a_review_comment_has_its_path_and_the_end_of_its_hunk() -> None:
    hunk = "@@ -1,20 +1,20 @@\n" + "\n".join(f" line {n}" for n in range(20)) + "\n+```"
    found = comment(
        Kind.REVIEW_COMMENT, pull_request_url=f"{API}/pulls/7", path="src/pump.py", diff_hunk=hunk, line=21,
        in_reply_to_id=4,
    )  # fmt: skip
    context = "\n".join(f" line {n}" for n in range(13, 20))
    assert found.text == (
        "# Review comment on acme/sluice#7\n\nOn `src/pump.py`:\n\n"
        f"````diff\n{context}\n+```\n````\n\nWell seen."
    )
    assert (found.attributes["path"], found.attributes["line"], found.attributes["in_reply_to"]) == (
        "src/pump.py",
        21,
        "4",
    )


@pytest.mark.parametrize(
    ("payload", "comments", "reason"),
    [
        ({"user": {"login": "renovate", "type": "Bot"}}, True, "bot"),
        ({"user": {"login": "merge-bot", "type": "User"}}, True, "bot"),
        ({"body": ""}, True, "empty"),
        ({"body": None}, True, "empty"),
        ({"body": "<!-- template -->"}, True, "empty"),
        ({}, False, "excluded"),
    ],
)
def test_a_dropped_comment_has_no_text_and_says_why(
    payload: dict[str, Any], comments: bool, reason: str
) -> None:
    url = f"{API}/pulls/7"
    found = comment(Kind.REVIEW, comments=comments, pull_request_url=url, state="APPROVED", **payload)
    assert (found.text, found.comments_total, found.comments_dropped) == ("", 1, {reason: 1})
    assert found.attributes["state"] == "APPROVED"


def archived(*, comments: bool = True, **payload: Any) -> Document:
    item = {
        "kind": "pull",
        "repo": "acme/sluice",
        "number": 7,
        "title": "Fix the pump",
        "body": "Closes #6.",
        "state": "MERGED",
        "comments": [
            {"author": "ines", "body": "Good.", "createdAt": "2025-03-01T12:00:00Z"},
            {"author": "renovate[bot]", "body": "Linked."},
        ],
        "reviews": [
            {
                "author": None,
                "body": "Nearly.",
                "state": "COMMENTED",
                "comments": [{"body": "This line.", "path": "src/pump.py"}, {"body": ""}],
            },
            {"author": "priya", "body": "", "state": "APPROVED", "comments": []},
        ],
    } | payload
    return archive_item_to_document(record(item, Kind.PULL), comments=comments, bots=BOTS)


def test_an_archived_pull_has_everything_inside() -> None:
    found = archived()
    assert found.text == (
        "# Fix the pump\n\nCloses #6.\n\nState: merged\n\n"
        "## Comment by ines, 2025-03-01\n\nGood.\n\n"
        "## Review by ghost\n\nNearly.\n\n"
        "## Review comment by ghost on `src/pump.py`\n\nThis line."
    )
    assert (found.comments_total, found.comments_kept, found.comments_dropped) == (
        6,
        3,
        {"bot": 1, "empty": 2},
    )
    assert ("github", "acme/sluice#6") in {(link.target_kind, link.target_key) for link in found.links}
    without = archived(comments=False)
    assert without.text == "# Fix the pump\n\nCloses #6.\n\nState: merged"
    assert without.comments_dropped == {"bot": 1, "excluded": 5}


def test_an_archived_item_must_say_where_it_is_from() -> None:
    with pytest.raises(InvalidPayload, match="repo, number"):
        archived(repo="")


def test_a_labelled_issue_is_known_by_its_digest() -> None:
    payload = {
        "repo": "acme/sluice",
        "created_at": "2023-08-26 06:33:37",
        "label": "bug",
        "title": "T",
        "body": "B",
    }
    found = labelled_issue_to_document(record(payload, native_id="0123456789abcdef"))
    assert (found.key, found.text) == ("acme/sluice (0123456789ab)", "# T\n\nB\n\nLabels: bug")
    assert found.created_at is not None
    assert found.created_at.hour == 6

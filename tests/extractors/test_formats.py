"""A payload is told by its shape, and known by what never changes about it."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import pytest

from extractors.formats import Found, Gone, Passed, Unreadable, recognise
from extractors.github_ids import database_id, number_of, repository_of, split_url
from schemas.documents import BEGINNING, Format, Kind

API, WEB = "https://api.github.com/repos/acme/sluice", "https://github.com/acme/sluice"
SHA = "9d2c1a7b6e5f40312233445566778899aabbccdd"
MARCH = datetime(2025, 3, 1, 12, tzinfo=UTC)


def only(value: Any, repository: str | None = None) -> Any:
    (item,) = recognise(value, repository)
    return item


def issue(**more: Any) -> dict[str, Any]:
    return {
        "id": 77,
        "node_id": "MDU6SXNzdWU3Nw==",
        "number": 7,
        "title": "Pump",
        "body": None,
        "user": None,
        "repository_url": API,
        "html_url": f"{WEB}/issues/7",
        "created_at": "2025-02-01T00:00:00Z",
        "updated_at": "2025-03-01T12:00:00Z",
    } | more


def comment(**more: Any) -> dict[str, Any]:
    return {
        "id": 5,
        "body": "yes",
        "user": {"login": "ines"},
        "issue_url": f"{API}/issues/7",
        "html_url": f"{WEB}/issues/7#issuecomment-5",
        "created_at": "2025-03-01T12:00:00Z",
    } | more


def packed(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


PULL_NODE = base64.b64encode(b"011:PullRequest4242").decode()
PULL = issue(
    id=4242, node_id=PULL_NODE, head={"ref": "x", "repo": None}, base={"repo": {"full_name": "acme/sluice"}}
)
PULL_AS_ISSUE = issue(node_id=PULL_NODE, pull_request={"url": f"{API}/pulls/7"})
JIRA = {"id": "10", "key": "A-1", "fields": {"updated": "2025-03-01T13:00:00.000+0100"}}
COMMIT = {"sha": SHA, "repo": "acme/sluice", "message": "Fix", "commit_date": "2025-03-01T13:00:00+01:00"}
REST_COMMIT = {"sha": SHA, "url": f"{API}/commits/{SHA}", "commit": {"message": "Fix"}}
ARCHIVED = {"number": 7, "createdAt": "2025-03-01T12:00:00Z", "id": "MDU6SXNzdWU3Nw=="}
REVIEW = comment(pull_request_url=f"{API}/pulls/7", state="APPROVED")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (JIRA, (Format.JIRA_ISSUE, Kind.ISSUE, "10")),
        ({"issuekey": "A-1", "project": "a", "title": "t"}, (Format.JIRA_FLAT, Kind.ISSUE, "A-1")),
        (issue(), (Format.GITHUB_ISSUE, Kind.ISSUE, "77")),
        (PULL, (Format.GITHUB_PULL, Kind.PULL, "4242")),
        (PULL_AS_ISSUE, (Format.GITHUB_ISSUE, Kind.PULL, "4242")),
        (comment(), (Format.GITHUB_COMMENT, Kind.COMMENT, "5")),
        (comment(commit_id=SHA, html_url=f"{WEB}/commit/{SHA}"), (Format.GITHUB_COMMENT, Kind.COMMENT, "commit:5")),
        (REVIEW, (Format.GITHUB_REVIEW, Kind.REVIEW, "5")),
        (REVIEW | {"path": "a.py"}, (Format.GITHUB_REVIEW_COMMENT, Kind.REVIEW_COMMENT, "5")),
        (COMMIT, (Format.GIT_COMMIT, Kind.COMMIT, SHA)),
        (REST_COMMIT, (Format.GIT_COMMIT, Kind.COMMIT, SHA)),
        (ARCHIVED | {"kind": "issue"}, (Format.GITHUB_ARCHIVE, Kind.ISSUE, "77")),
        (ARCHIVED | {"kind": "pull", "id": PULL_NODE}, (Format.GITHUB_ARCHIVE, Kind.PULL, "4242")),
    ],
)  # fmt: skip
def test_a_record_is_told_by_its_shape(value: dict[str, Any], expected: tuple[str, str, str]) -> None:
    found = only(value)
    assert (found.format, found.kind, found.native_id) == expected
    assert found.body is value or found.format is Format.GIT_COMMIT
    for wrapped in ({"kind": "x", "record": value}, {"stream": "x", "record": value}):
        assert only(wrapped).native_id == found.native_id


def test_rest_and_graphql_give_one_identity_and_both_shapes_of_a_pull_too() -> None:
    assert only(PULL).native_id == only(PULL_AS_ISSUE).native_id == "4242"
    old_pull = {key: value for key, value in PULL.items() if key != "node_id"}
    old_as_issue = {key: value for key, value in PULL_AS_ISSUE.items() if key != "node_id"}
    assert only(old_pull).native_id == only(old_as_issue).native_id == "acme/sluice#7"


@pytest.mark.parametrize(
    ("node_id", "expected"),
    [
        ("MDU6SXNzdWU3Nw==", "77"),
        (PULL_NODE, "4242"),
        ("PR_" + packed(b"\x93\x00\xce\x00\x09\x6a\xaf\xce\x4b\x25\x7e\x9a"), "1260748442"),
        ("I_" + packed(b"\x92\xcd\x01\x02\x05"), "5"),
        ("PR_kwDO", ""), ("PR_", ""), ("%%%", ""), ("", ""), (None, ""), ("ü", ""), ("A" * 500, ""),
    ],
)  # fmt: skip
def test_a_node_id_gives_its_database_id_or_nothing(node_id: Any, expected: str) -> None:
    assert database_id(node_id) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"{API}/issues/7", ("acme/sluice", 7)),
        (f"{API}/pulls/7/comments", ("acme/sluice", 7)),
        (f"{WEB}/pull/7#discussion_r1", ("acme/sluice", 7)),
        ("https://git.example.com/api/v3/repos/acme/sluice/issues/7", ("acme/sluice", 7)),
        (f"{API}/issues/comments/5", ("acme/sluice", 0)),
        (f"{WEB}/commit/{SHA}", ("acme/sluice", 0)),
        (API, ("acme/sluice", 0)),
        ("https://github.com/acme", ("", 0)),
        ("pull/7", ("", 0)),
        (None, ("", 0)),
    ],
)
def test_an_address_gives_repository_and_number(url: Any, expected: tuple[str, int]) -> None:
    assert split_url(url) == expected


def test_a_payload_that_names_no_repository_takes_the_configured_one() -> None:
    assert repository_of({"number": 3}, "acme/sluice") == "acme/sluice"
    assert number_of({"number": True, "issue_url": f"{API}/issues/7"}) in (1, 7)


def test_a_listing_that_lost_a_record_deletes_nothing() -> None:
    vanished = {"op": "vanished", "snapshot_at": "2025-03-01T12:00:00Z", "record": None}
    assert only(vanished) == Passed("vanished")


def test_the_time_of_a_snapshot_is_when_the_record_was_observed() -> None:
    found = only({"op": "silent_update", "snapshot_at": "2025-03-01T12:00:00Z", "record": issue()})
    assert (found.observed_at, found.updated_at) == (MARCH, MARCH)


@pytest.mark.parametrize(
    ("event", "payload", "kind"),
    [
        ("issues", {"issue": issue()}, Kind.ISSUE),
        ("issue_comment", {"issue": issue(), "comment": comment()}, Kind.COMMENT),
        ("pull_request", {"pull_request": PULL}, Kind.PULL),
        ("pull_request_review", {"pull_request": PULL, "review": REVIEW}, Kind.REVIEW),
    ],
)
def test_a_deletion_becomes_a_tombstone_of_the_event_s_main_object(
    event: str, payload: dict[str, Any], kind: Kind
) -> None:
    kept = only({"event": event, "payload": {"action": "edited", **payload}})
    gone = only({"event": event, "payload": {"action": "deleted", **payload}})
    assert isinstance(kept, Found)
    assert gone == Gone(kind, kept.native_id, MARCH, "deleted")


def test_a_transferred_issue_is_gone_here_and_found_there() -> None:
    moved = issue(id=99, repository_url="https://api.github.com/repos/acme/weir")
    payload = {"action": "transferred", "issue": issue(), "changes": {"new_issue": moved}}
    gone, found = recognise({"event": "issues", "payload": payload})
    assert isinstance(gone, Gone)
    assert isinstance(found, Found)
    assert (gone.native_id, gone.reason, found.native_id) == ("77", "transferred", "99")


def test_a_push_gives_its_commits_with_the_time_of_the_push() -> None:
    commits = [
        {"sha": SHA, "message": "One", "author": {"name": "Ines"}},
        {"id": SHA[::-1], "added": ["a.py"]},
    ]
    pushed = {"type": "PushEvent", "repo": {"name": "acme/sluice"}, "created_at": "2025-03-01T12:00:00Z"}
    first, second = recognise({**pushed, "payload": {"commits": commits}})
    assert isinstance(first, Found)
    assert isinstance(second, Found)
    assert (first.native_id, first.updated_at, first.body["repo"]) == (SHA, MARCH, "acme/sluice")
    assert second.body["files"] == [{"path": "a.py", "additions": None, "deletions": None}]
    assert only({**pushed, "payload": {"commits": []}}) == Passed("event:push_without_commits")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"type": "WatchEvent", "payload": {"action": "started"}}, "event:WatchEvent"),
        ({"event": "ping", "payload": {"zen": "x"}}, "event:ping"),
        ({"event": "x" * 500, "payload": {}}, "event:other"),
        ({"event": "closed", "actor": None, "id": 1}, "event:closed"),
        ({"webhookEvent": "sprint_started"}, "event:sprint_started"),
    ],
)
def test_what_has_no_text_is_passed_over_with_its_reason(value: dict[str, Any], reason: str) -> None:
    assert only(value) == Passed(reason)


def test_a_jira_webhook_is_its_issue_and_a_deletion_a_tombstone() -> None:
    at = 1740830400000
    changed = only({"webhookEvent": "jira:issue_updated", "timestamp": at, "issue": JIRA})
    assert (changed.native_id, changed.updated_at, changed.observed_at) == ("10", MARCH, MARCH)
    gone = only(
        {"file": "x", "payload": {"webhookEvent": "jira:issue_deleted", "timestamp": at, "issue": JIRA}}
    )
    assert gone == Gone(Kind.ISSUE, "10", MARCH, "deleted")


def test_a_comment_s_webhook_never_outdates_the_whole_issue() -> None:
    stub = {"id": "10", "key": "A-1", "fields": {"summary": "Pump"}}
    said = {"body": "It runs again.", "created": "2025-03-01T12:00:00.000+0000"}
    found = only({"webhookEvent": "comment_created", "timestamp": 1, "issue": stub, "comment": said})
    assert (found.native_id, found.updated_at) == ("10", BEGINNING)
    assert found.body["fields"]["comment"]["comments"] == [said]
    assert "comment" not in stub["fields"]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({}, "(record)"),
        ({"adf": {"type": "doc"}}, "(record)"),
        ({"key": "A-1", "fields": {}}, "id"),
        ({"id": True, "fields": {}}, "id"),
        ({"sha": "HEAD", "message": "x"}, "sha"),
        ({"sha": SHA}, "message"),
        (issue(id=None), "id"),
        ({"body": "x", "user": None}, "issue_url"),
        ({"kind": "issue", "record": [1]}, "(record)"),
    ],
)
def test_what_is_unreadable_says_where(value: dict[str, Any], path: str) -> None:
    item = only(value)
    assert isinstance(item, Unreadable)
    assert item.path == path

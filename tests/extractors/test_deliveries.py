"""Every delivery names documents, asks for a poll, or is ignored for a reason."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.deliveries import MAX_REFERENCES, Hint, parse_body, read_delivery
from extractors.formats import Found, Gone, recognise
from schemas.documents import Kind, Reference
from schemas.errors import InvalidPayload

REPOSITORY = "https://api.github.com/repos/acme/mill"
ISSUE = {
    "id": 101,
    "number": 7,
    "url": f"{REPOSITORY}/issues/7",
    "repository_url": REPOSITORY,
    "html_url": "https://github.com/acme/mill/issues/7",
    "title": "Gate jams",
}
COMMENT = {"id": 555, "issue_url": f"{REPOSITORY}/issues/7", "body": "It does.", "user": None}


def _keys(hint: Hint) -> list[tuple[Kind, str, str]]:
    return [(one.kind, one.native_id, one.key) for one in hint.references]


@pytest.mark.parametrize("action", ["opened", "edited", "deleted", "closed", "labeled", "transferred"])
def test_an_issue_is_named_whatever_happened_to_it(action: str) -> None:
    hint = read_delivery("github", "issues", {"action": action, "issue": ISSUE})
    assert hint.event == f"issues.{action}"
    assert _keys(hint) == [(Kind.ISSUE, "101", "acme/mill#7")]


def test_a_transferred_issue_is_named_at_both_places() -> None:
    there = {**ISSUE, "id": 202, "number": 1, "repository_url": f"{REPOSITORY}-2"}
    body = {"action": "transferred", "issue": ISSUE, "changes": {"new_issue": there}}
    assert [key for _, _, key in _keys(read_delivery("github", "issues", body))] == [
        "acme/mill#7",
        "acme/mill-2#1",
    ]


def test_a_comment_is_named_with_the_issue_that_counts_it() -> None:
    body = {"action": "deleted", "issue": ISSUE, "comment": COMMENT}
    assert _keys(read_delivery("github", "issue_comment", body)) == [
        (Kind.COMMENT, "555", "acme/mill#7 (comment 555)"),
        (Kind.ISSUE, "101", "acme/mill#7"),
    ]


def test_a_push_says_where_to_and_names_nothing() -> None:
    body = {"ref": "refs/heads/main", "repository": {"clone_url": "https://github.com/acme/mill.git"}}
    assert read_delivery("github", "push", body) == Hint(
        "push", pushed_to=("https://github.com/acme/mill.git",)
    )


def test_a_renamed_repository_is_known_by_both_names() -> None:
    body = {
        "action": "renamed",
        "repository": {"full_name": "acme/sluice"},
        "changes": {"repository": {"name": {"from": "mill"}}},
    }
    assert read_delivery("github", "repository", body).repositories == ("acme/mill", "acme/sluice")


@pytest.mark.parametrize(
    "event", ["jira:issue_created", "jira:issue_updated", "jira:issue_deleted", "comment_deleted"]
)
def test_an_issue_of_jira_is_named_by_its_id(event: str) -> None:
    body = {"webhookEvent": event, "issue": {"id": "10040", "key": "TES-41"}}
    assert _keys(read_delivery("jira", "", body)) == [(Kind.ISSUE, "10040", "TES-41")]


def test_a_comment_of_a_jira_server_names_its_issue_by_its_address_alone() -> None:
    body = {
        "webhookEvent": "comment_created",
        "comment": {"self": "http://jira.example.com/rest/api/2/issue/10040/comment/10019"},
    }
    assert _keys(read_delivery("jira", "", body)) == [(Kind.ISSUE, "10040", "")]


def test_a_link_names_both_of_its_issues() -> None:
    body = {
        "webhookEvent": "issuelink_deleted",
        "issueLink": {"id": 3, "sourceIssueId": 10040, "destinationIssueId": 10041},
    }
    assert _keys(read_delivery("jira", "", body)) == [(Kind.ISSUE, "10040", ""), (Kind.ISSUE, "10041", "")]


@pytest.mark.parametrize(
    "event", ["worklog_created", "sprint_started", "jira:version_released", "user_created", 3]
)
def test_other_news_of_jira_is_ignored_with_a_reason(event: Any) -> None:
    hint = read_delivery("jira", "", {"webhookEvent": event, "worklog": {"issueId": "10040"}})
    assert hint.references == ()
    assert hint.ignored


def test_a_thread_names_a_bounded_number_of_comments() -> None:
    said = [{"id": 1000 + n, "pull_request_url": f"{REPOSITORY}/pulls/9"} for n in range(5000)]
    hint = read_delivery("github", "pull_request_review_thread", {"thread": {"comments": said}})
    assert len(hint.references) == MAX_REFERENCES


def test_a_form_holds_the_same_as_json() -> None:
    raw = orjson.dumps({"issue": ISSUE, "zen": "ümläut & 100 % + more"})
    form = b"payload=" + quote_plus(raw).encode()
    assert parse_body(form, form=True) == parse_body(raw, form=False)


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (b"", False),
        (b"{", False),
        (b"[1]", False),
        (b"\xff\xfe", False),
        (b"[" * 100_000, False),
        (b"", True),
        (b"payload=", True),
        (b"payload={}&payload={}", True),
        (b"other={}", True),
        ("payload=ü".encode(), True),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, form: bool) -> None:
    with pytest.raises(InvalidPayload):
        parse_body(body, form=form)


_WORDS = [
    *("id", "key", "number", "self", "url", "from", "action", "webhookEvent", "sourceIssueId", "user"),
    *("issue", "comment", "comments", "review", "thread", "changes", "new_issue", "repository", "issueLink"),
]
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=6),
    max_leaves=20,
)
_EVENTS = st.sampled_from(
    ["issues", "issue_comment", "repository", "push", "pull_request_review_thread", "\0"]
)
_SAID = st.sampled_from(["comment_created", "transferred", "renamed"])


@given(_EVENTS, st.dictionaries(st.sampled_from(_WORDS), _JSON | _SAID))
def test_no_body_breaks_it_and_every_id_is_a_number(event: str, body: dict[str, Any]) -> None:
    for hint in (read_delivery("github", event, body), read_delivery("jira", "", body)):
        assert "\0" not in hint.event
        assert all(one.native_id.isdigit() or "#" in one.native_id for one in hint.references)
        assert bool(hint.references or hint.repositories or hint.pushed_to) != bool(hint.ignored) or (
            event in ("push", "repository")
        )


@pytest.mark.shared_data
def test_every_real_delivery_of_github_names_asks_or_is_ignored(shared_data: Path) -> None:
    with gzip.open(shared_data / "github" / "webhook_payloads_octokit.jsonl.gz") as lines:
        messages = [orjson.loads(line) for line in lines]
    assert len(messages) == 80
    for message in messages:
        hint = read_delivery("github", message["event"], message["payload"])
        asks = hint.references or hint.repositories or hint.pushed_to
        assert bool(asks) != bool(hint.ignored), message["file"]
        if message["event"] in ("issues", "pull_request", "issue_comment") or "review" in message["event"]:
            assert hint.references, message["file"]


@pytest.mark.shared_data
def test_real_deliveries_name_documents_as_exports_do(shared_data: Path) -> None:
    with gzip.open(shared_data / "github" / "webhook_payloads_octokit.jsonl.gz") as lines:
        messages = [orjson.loads(line) for line in lines]
    compared = 0
    for message in messages:
        hint = read_delivery("github", message["event"], message["payload"])
        for item in recognise(message):
            if isinstance(item, (Found, Gone)) and hint.references and item.kind is not Kind.ISSUE:
                assert Reference(item.kind, item.native_id) in hint.references, message["file"]
                compared += 1
    assert compared > 20


@pytest.mark.shared_data
def test_every_real_delivery_of_jira_names_its_issue(shared_data: Path) -> None:
    lines = (shared_data / "jira" / "jira_webhooks.jsonl").read_bytes().splitlines()
    assert len(lines) == 29
    for line in lines:
        assert _keys(read_delivery("jira", "", orjson.loads(line)["payload"])) == [
            (Kind.ISSUE, "10040", "TES-41")
        ]

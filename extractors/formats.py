"""What a JSON value of an export is: records, news of a deletion, or nothing for us. Pure, told by shape alone.

Identities: Jira's numeric id; GitHub's database id, the same from REST and GraphQL (`github_ids` says how, and
why a pull request needs care); `commit:` and the database id for a comment on a commit, which GitHub numbers
apart from other comments; a commit's sha. A flat Jira table has only keys, a labelled data set only texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from extractors.github_ids import database_id, pull_native_id, repository_of
from schemas.documents import BEGINNING, Format, Kind
from schemas.ids import digest
from schemas.payloads import parse_time

Value = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A record; `body` is the very object that was given, or one cut or made from it."""

    format: Format
    kind: Kind
    native_id: str
    body: Value
    updated_at: datetime
    observed_at: datetime = BEGINNING


@dataclass(frozen=True, slots=True)
class Gone:
    """A record was deleted at its source."""

    kind: Kind
    native_id: str
    updated_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Passed:
    """None of ours, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Of no known shape, or without what its shape promises at `path`."""

    body: Any
    path: str
    expected: str


Item = Found | Gone | Passed | Unreadable

ANYTHING_KNOWN = "a known format (Jira or GitHub REST, webhook, archive, event or commit; see the README)"


def recognise(value: Any, repository: str | None = None) -> Iterator[Item]:
    """What `value`, a line of an export or an element of a listing, holds.

    Args:
        repository: `owner/repo` for GitHub payloads that do not say.
    """
    if not isinstance(value, dict):
        yield Unreadable(value, "(record)", "a JSON object")
        return
    payload = value.get("payload")
    if isinstance(payload, dict):
        yield from _message(value, payload, repository)
    elif "webhookEvent" in value:
        yield _jira_webhook(value)
    elif "record" in value and not value.keys().isdisjoint(("kind", "stream", "op")):
        yield _wrapped(value, repository)
    else:
        members = value.get("issues", value.get("items"))
        if isinstance(members, list) and "fields" not in value:
            for member in members:
                yield _record(member, repository)
        else:
            yield _record(value, repository)


def is_error_answer(value: Any) -> bool:
    """An API's refusal (`{"message": ..., "documentation_url": ...}`) saved in place of data."""
    if not isinstance(value, dict) or not value:
        return False
    github, jira = (
        {"message", "documentation_url", "status", "errors"},
        {"errorMessages", "errors", "warningMessages"},
    )
    return ("message" in value and value.keys() <= github) or (
        "errorMessages" in value and value.keys() <= jira
    )


# Envelopes


def _wrapped(value: Value, repository: str | None) -> Item:
    """`{kind|stream|op, record}`; to vanish from a listing is not to be deleted, since listings fall short."""
    record = value["record"]
    if value.get("op") == "vanished" or record is None:
        return Passed("vanished")
    observed_at = parse_time(value.get("snapshot_at")) or BEGINNING
    return _record(record, _string(value.get("repo")) or repository, observed_at)


def _message(value: Value, payload: Value, repository: str | None) -> Iterator[Item]:
    """A webhook body with its event's name, or an event of a GitHub timeline."""
    event, kind = value.get("event"), value.get("type")
    if "webhookEvent" in payload:
        yield _jira_webhook(payload)
    elif isinstance(event, str):
        yield from _github_message(event, payload, repository, None)
    elif isinstance(kind, str) and kind.endswith("Event"):
        name = _string(_mapping(value.get("repo")).get("name")) or repository
        yield from _github_message(_WEBHOOK_NAMES.get(kind, kind), payload, name, value.get("created_at"))
    else:
        yield Unreadable(value, "(record)", ANYTHING_KNOWN)


_WEBHOOK_NAMES = {
    "IssuesEvent": "issues",
    "IssueCommentEvent": "issue_comment",
    "PullRequestEvent": "pull_request",
    "PullRequestReviewEvent": "pull_request_review",
    "PullRequestReviewCommentEvent": "pull_request_review_comment",
    "CommitCommentEvent": "commit_comment",
    "PushEvent": "push",
}
_MAIN_OBJECT = {
    "issues": "issue",
    "issue_comment": "comment",
    "pull_request": "pull_request",
    "pull_request_review": "review",
    "pull_request_review_comment": "comment",
    "commit_comment": "comment",
}


def _github_message(event: str, payload: Value, repository: str | None, at: Any) -> Iterator[Item]:
    """The main object of an event: the comment of a comment event, the commits of a push.

    Args:
        at: when the event happened, where its envelope says.
    """
    repository = _string(_mapping(payload.get("repository")).get("full_name")) or repository
    if event == "push":
        yield from _pushed(payload, repository, at)
        return
    body = payload.get(_MAIN_OBJECT.get(event, ""))
    if not isinstance(body, dict):
        yield _passed_event(event)
        return
    found, action = _record(body, repository), payload.get("action")
    if not isinstance(found, Found) or action not in ("deleted", "transferred"):
        yield found
        return
    # A deletion does not move the object's own time, but often that of the issue it stood in.
    times = [parse_time(at), found.updated_at]
    times += [_updated(payload.get(name)) for name in ("issue", "pull_request")]
    yield Gone(found.kind, found.native_id, max(time for time in times if time), action)
    moved = _mapping(payload.get("changes")).get("new_issue")
    if action == "transferred" and isinstance(moved, dict):
        yield _record(moved, None)


def _passed_event(event: str) -> Passed:
    return Passed(f"event:{event if re.fullmatch('[A-Za-z_:.]{1,50}', event) else 'other'}")


def _jira_webhook(body: Value) -> Item:
    """The issue of a webhook; a comment's webhook has a stub of it without times, which replaces no whole one."""
    event, issue = str(body["webhookEvent"]), body.get("issue")
    if not isinstance(issue, dict) or not isinstance(issue.get("fields"), dict):
        return _passed_event(event)
    at = parse_time(body.get("timestamp")) or BEGINNING
    comment = body.get("comment")
    if (
        event in ("comment_created", "comment_updated")
        and isinstance(comment, dict)
        and "comment" not in issue["fields"]
    ):
        issue = {**issue, "fields": {**issue["fields"], "comment": {"comments": [comment], "total": 1}}}
    found = _jira_issue(issue, at)
    if event == "jira:issue_deleted" and isinstance(found, Found):
        return Gone(found.kind, found.native_id, max(at, found.updated_at), "deleted")
    return found


# Records


def _record(value: Any, repository: str | None, observed_at: datetime = BEGINNING) -> Item:
    """A bare record. Shapes are asked for from the most telling key to the least."""
    if not isinstance(value, dict):
        return Unreadable(value, "(record)", "a JSON object")
    if isinstance(value.get("fields"), dict):
        return _jira_issue(value, observed_at)
    if "issuekey" in value:
        native_id = _string(value["issuekey"]).replace("\0", "")[:200]
        return _found(Format.JIRA_FLAT, Kind.ISSUE, native_id, value, observed_at, "issuekey")
    if "sha" in value:
        return _commit(value, repository, observed_at)
    if "createdAt" in value and "number" in value:
        kind = Kind.PULL if value.get("kind") == "pull" or "baseRefName" in value else Kind.ISSUE
        native_id = database_id(value.get("id")) or _id(value)
        return _found(Format.GITHUB_ARCHIVE, kind, native_id, value, observed_at)
    if "number" in value and "title" in value:
        return _issue_or_pull(value, repository, observed_at)
    if "body" in value and "user" in value:
        return _comment(value, observed_at)
    if value.keys() >= {"repo", "label", "title", "body"}:
        texts = (str(value.get(key)).encode("utf-8", "replace") for key in ("repo", "created_at", "title"))
        return _found(Format.GITHUB_LABELLED, Kind.ISSUE, digest(*texts).hex(), value, observed_at)
    if isinstance(value.get("event"), str) and "actor" in value:
        return _passed_event(value["event"])
    return Unreadable(value, "(record)", ANYTHING_KNOWN)


def _jira_issue(value: Value, observed_at: datetime) -> Item:
    fields = value["fields"]
    updated_at = parse_time(fields.get("updated")) or parse_time(fields.get("created")) or BEGINNING
    native_id = _id(value)
    if not native_id:
        return Unreadable(value, "id", "the issue's numeric id")
    return Found(Format.JIRA_ISSUE, Kind.ISSUE, native_id, value, updated_at, observed_at)


def _issue_or_pull(value: Value, repository: str | None, observed_at: datetime) -> Item:
    if "head" in value and "base" in value:
        native_id = pull_native_id(value, repository)
        return _found(Format.GITHUB_PULL, Kind.PULL, native_id, value, observed_at, "base.repo.full_name")
    if value.get("pull_request"):
        native_id = pull_native_id(value, repository)
        return _found(Format.GITHUB_ISSUE, Kind.PULL, native_id, value, observed_at, "repository_url")
    return _found(Format.GITHUB_ISSUE, Kind.ISSUE, _id(value), value, observed_at)


def _comment(value: Value, observed_at: datetime) -> Item:
    if "pull_request_url" in value:
        if "diff_hunk" in value or "path" in value:
            return _found(Format.GITHUB_REVIEW_COMMENT, Kind.REVIEW_COMMENT, _id(value), value, observed_at)
        return _found(Format.GITHUB_REVIEW, Kind.REVIEW, _id(value), value, observed_at)
    if "commit_id" in value:
        native_id = _id(value)
        native_id = f"commit:{native_id}" if native_id else ""
        return _found(Format.GITHUB_COMMENT, Kind.COMMENT, native_id, value, observed_at)
    if "issue_url" in value or "html_url" in value:
        return _found(Format.GITHUB_COMMENT, Kind.COMMENT, _id(value), value, observed_at)
    return Unreadable(value, "issue_url", "the address of the issue commented on")


def _found(
    record_format: Format, kind: Kind, native_id: str, body: Value, observed_at: datetime, id_path: str = "id"
) -> Item:
    if not native_id:
        return Unreadable(body, id_path, "an immutable id")
    return Found(record_format, kind, native_id, body, _updated(body) or BEGINNING, observed_at)


def _id(value: Value) -> str:
    native_id = value.get("id")
    if isinstance(native_id, str):
        return native_id.replace("\0", "")[:200]
    return str(native_id) if isinstance(native_id, int) and not isinstance(native_id, bool) else ""


def _updated(value: Any) -> datetime | None:
    """When a GitHub object says it changed, else when it was made."""
    if not isinstance(value, Mapping):
        return None
    for key in ("updated_at", "updatedAt", "submitted_at", "created_at", "createdAt"):
        moment = parse_time(value.get(key))
        if moment:
            return moment
    return None


# Commits, brought to the one form that `GIT_COMMIT` means


def _commit(value: Value, repository: str | None, observed_at: datetime) -> Item:
    sha, inner = value["sha"], value.get("commit")
    if isinstance(inner, Mapping):
        value = _from_rest_commit(value, inner, repository)
    if not isinstance(sha, str) or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", sha):
        return Unreadable(value, "sha", "40 or 64 hexadecimal digits")
    if "message" not in value:
        return Unreadable(value, "message", "the commit's message")
    moment = parse_time(value.get("commit_date")) or parse_time(value.get("author_date")) or BEGINNING
    return Found(Format.GIT_COMMIT, Kind.COMMIT, sha, value, moment, observed_at)


def _from_rest_commit(value: Value, inner: Value, repository: str | None) -> Value:
    author, committer = _mapping(inner.get("author")), _mapping(inner.get("committer"))
    return {
        "repo": repository_of(value, repository),
        "sha": value["sha"],
        "parents": [_mapping(parent).get("sha") for parent in _list(value.get("parents"))],
        "author": author.get("name") or "",
        "author_date": author.get("date"),
        "committer": committer.get("name") or "",
        "commit_date": committer.get("date"),
        "message": inner.get("message") or "",
        "files": [
            {
                "path": file.get("filename"),
                "additions": file.get("additions"),
                "deletions": file.get("deletions"),
            }
            for file in map(_mapping, _list(value.get("files")))
        ],
    }


def _pushed(payload: Value, repository: str | None, at: Any) -> Iterator[Item]:
    """Commits of a push; where they carry no date of their own, the time of the push stands in for it."""
    commits = _list(payload.get("commits"))
    if not commits:
        yield Passed("event:push_without_commits")
    for commit in map(_mapping, commits):
        author = _mapping(commit.get("author")).get("name") or ""
        when = commit.get("timestamp") or at
        yield _commit(
            {
                "repo": repository or "",
                "sha": commit.get("sha") or commit.get("id"),
                "parents": [],
                "author": author,
                "author_date": when,
                "committer": _mapping(commit.get("committer")).get("name") or author,
                "commit_date": when,
                "message": commit.get("message") or "",
                "files": [
                    {"path": path, "additions": None, "deletions": None}
                    for change in ("added", "modified", "removed")
                    for path in _list(commit.get(change))
                ],
            },
            None,
            BEGINNING,
        )


def _mapping(value: Any) -> Value:
    return value if isinstance(value, Mapping) else {}


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

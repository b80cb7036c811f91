"""What a webhook's delivery names, so that it is looked at again at its source. Pure.

A delivery is a hint, not a record: whatever it says of a document, the source itself is asked. What happens on
GitHub: https://docs.github.com/webhooks/webhook-events-and-payloads; on Jira:
https://developer.atlassian.com/cloud/jira/platform/webhooks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import parse_qs

from extractors.github_ids import number_of, pull_native_id, repository_of
from schemas.documents import Kind, Reference
from schemas.errors import InvalidPayload
from schemas.payloads import MAX_KEY_CHARS, parse_json

Provider = Literal["github", "jira"]

MAX_REFERENCES = 200
"""Of one delivery; polls find what a longer one would have named."""


@dataclass(frozen=True, slots=True)
class Hint:
    """What a delivery is about.

    Args:
        event: with its action: `issues.deleted`, `jira:issue_updated`.
        references: documents to look at again.
        repositories: `owner/repo` of GitHub whose sources shall be polled: its names before and after a change.
        pushed_to: addresses of the repository that was pushed to.
        ignored: why there is nothing to do; empty where there is.
    """

    event: str
    references: tuple[Reference, ...] = ()
    repositories: tuple[str, ...] = ()
    pushed_to: tuple[str, ...] = ()
    ignored: str = ""


def parse_body(body: bytes, *, form: bool) -> Mapping[str, Any]:
    """The JSON object of a delivery.

    Args:
        form: it stands URL-encoded in the field `payload`, as GitHub sends `application/x-www-form-urlencoded`.
    Raises:
        InvalidPayload: there is none.
    """
    try:
        if form:
            [text] = parse_qs(body.decode("ascii"), max_num_fields=10, strict_parsing=True)["payload"]
            body = text.encode()
        value = parse_json(body)
    except (ValueError, KeyError):
        raise InvalidPayload("(body)", "JSON") from None
    if not isinstance(value, Mapping):
        raise InvalidPayload("(body)", "a JSON object")
    return value


def read_delivery(provider: Provider, event: str, body: Mapping[str, Any]) -> Hint:
    """What a delivery names, asks to be polled, or why it is ignored.

    Args:
        event: of `X-GitHub-Event`; Jira says it in the body.
    """
    return _of_github(event, body) if provider == "github" else _of_jira(body)


# GitHub


def _of_github(event: str, body: Mapping[str, Any]) -> Hint:
    action = body.get("action")
    name = _event_name(f"{event}.{action}" if isinstance(action, str) else event)
    repository = _mapping(body.get("repository"))
    if event == "push":
        addresses = (repository.get(key) for key in ("clone_url", "ssh_url", "html_url"))
        return Hint(name, pushed_to=tuple(filter(None, map(_string, addresses))))
    if event == "repository" and action in _MOVES:
        return Hint(name, repositories=tuple(_names_of_moved(repository, body)))
    if event in ("label", "milestone"):
        return Hint(name, ignored="it names none of the issues that it changes: the next sweep finds them")
    find = _FINDERS.get(event)
    if find is None:
        return Hint(name, ignored="no document of ours changes with this event")
    found = dict.fromkeys(reference for reference in find(body) if reference.native_id and reference.key)
    if not found:
        return Hint(name, ignored="it names no document")
    return Hint(name, tuple(found)[:MAX_REFERENCES])


_MOVES = ("renamed", "transferred", "deleted", "archived", "unarchived", "publicized", "privatized")


def _names_of_moved(repository: Mapping[str, Any], body: Mapping[str, Any]) -> Iterator[str]:
    now = _string(repository.get("full_name"))
    owner, _, name = now.partition("/")
    changes = _mapping(body.get("changes"))
    old_name = _mapping(_mapping(changes.get("repository")).get("name")).get("from")
    old_owner = _mapping(_mapping(changes.get("owner")).get("from"))
    if isinstance(old_name, str):
        yield f"{owner}/{old_name}"
    for account in ("user", "organization"):
        login = _mapping(old_owner.get(account)).get("login")
        if isinstance(login, str):
            yield f"{login}/{name}"
    if now:
        yield now


def _issues(body: Mapping[str, Any]) -> Iterator[Reference]:
    yield _issue_or_pull(body.get("issue"))
    if body.get("action") == "transferred":
        yield _issue_or_pull(_mapping(body.get("changes")).get("new_issue"))


def _pulls(body: Mapping[str, Any]) -> Iterator[Reference]:
    yield _issue_or_pull(body.get("pull_request"))


def _comments(
    parent: str, said: str, kind: Kind, word: str
) -> Callable[[Mapping[str, Any]], Iterator[Reference]]:
    """What was said first: a child of something unknown is found by its own id, and its parent counts it."""

    def find(body: Mapping[str, Any]) -> Iterator[Reference]:
        yield _said(body.get(said), kind, word)
        yield _issue_or_pull(body.get(parent))

    return find


def _threads(body: Mapping[str, Any]) -> Iterator[Reference]:
    yield from _pulls(body)
    comments = _mapping(body.get("thread")).get("comments")
    for comment in comments[:MAX_REFERENCES] if isinstance(comments, list) else []:
        yield _said(comment, Kind.REVIEW_COMMENT, "review comment")


_FINDERS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[Reference]]] = {
    "issues": _issues,
    "pull_request": _pulls,
    "issue_comment": _comments("issue", "comment", Kind.COMMENT, "comment"),
    "pull_request_review": _comments("pull_request", "review", Kind.REVIEW, "review"),
    "pull_request_review_comment": _comments(
        "pull_request", "comment", Kind.REVIEW_COMMENT, "review comment"
    ),
    "pull_request_review_thread": _threads,
}
_NOTHING = Reference(Kind.ISSUE, "")


def _issue_or_pull(value: Any) -> Reference:
    """A pull request listed as an issue says so by `pull_request`, in old payloads by its address alone."""
    value = _mapping(value)
    repository, number = repository_of(value, None), number_of(value)
    if not repository or not number:
        return _NOTHING
    is_pull = (
        bool(value.get("pull_request"))
        or "head" in value
        or f"/pull/{number}" in _string(value.get("html_url"))
    )
    key = f"{repository}#{number}"
    if is_pull:
        return Reference(Kind.PULL, pull_native_id(value, None), key)
    return Reference(Kind.ISSUE, _number(value.get("id")), key)


def _said(value: Any, kind: Kind, word: str) -> Reference:
    value = _mapping(value)
    repository, number, native_id = repository_of(value, None), number_of(value), _number(value.get("id"))
    key = f"{repository}#{number} ({word} {native_id})" if repository and number else ""
    return Reference(kind, native_id, key)


# Jira


_COMMENT_ADDRESS = re.compile(r"https?://\S{1,500}/issue/(\d{1,20})/comment/", re.ASCII)


def _of_jira(body: Mapping[str, Any]) -> Hint:
    """An issue's webhook names it, a comment's of a Server only in the comment's address, a link's by two ids."""
    said = body.get("webhookEvent")
    event = _event_name(said if isinstance(said, str) else "(none)")
    if event.startswith("issuelink_"):
        link = _mapping(body.get("issueLink"))
        ends = (link.get("sourceIssueId"), link.get("destinationIssueId"))
        found = [Reference(Kind.ISSUE, _number(end)) for end in ends]
    elif event.startswith(("jira:issue_", "comment_")):
        issue = _mapping(body.get("issue"))
        found = [Reference(Kind.ISSUE, _number(issue.get("id")), _key(issue.get("key")))]
        if not found[0].native_id:
            address = _COMMENT_ADDRESS.match(_string(_mapping(body.get("comment")).get("self")))
            found = [Reference(Kind.ISSUE, address[1])] if address else []
    else:
        return Hint(event, ignored="no document of ours changes with this event")
    named = tuple(dict.fromkeys(reference for reference in found if reference.native_id))
    return Hint(event, named) if named else Hint(event, ignored="it names no document")


def _event_name(said: str) -> str:
    return said if re.fullmatch(r"[A-Za-z_:.]{1,100}", said) else "other"


def _number(value: Any) -> str:
    """A database id as it stands in identities; "" for what is none."""
    if isinstance(value, bool):
        return ""
    text = str(value) if isinstance(value, (int, str)) else ""
    return text if re.fullmatch(r"[0-9]{1,20}", text) else ""


def _key(value: Any) -> str:
    text = _string(value)
    return text if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*-[0-9]+", text) and len(text) <= MAX_KEY_CHARS else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""

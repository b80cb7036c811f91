"""GitHub's REST objects, cut to what is read of them, so that the same state gives the same bytes. Pure.

What other routes give differently is brought to one form: labels and assignees in alphabetical order, a deleted
account (null, or the account `ghost`) null, an empty body "". The shapes are still those that `recognise` knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import orjson

from extractors.formats import Found, is_error_answer, recognise
from extractors.github_ids import number_of, repository_of
from schemas.documents import Format, Kind
from schemas.payloads import parse_json

Value = Mapping[str, Any]

MAX_LISTED = 10_000  # entries of one answer; GitHub gives 100


@dataclass(frozen=True, slots=True)
class Item:
    """A REST object as a list or a look at it alone gives it.

    Args:
        repository: `owner/repo` that it says it belongs to.
        number: of the issue or pull request it is or belongs to.
        payload: canonical JSON.
    """

    format: Format
    kind: Kind
    native_id: str
    repository: str
    number: int
    payload: bytes
    updated_at: datetime

    @property
    def key(self) -> str:
        """As `Document.key` will be."""
        target, word = f"{self.repository}#{self.number}", _WORDS.get(self.kind)
        return f"{target} ({word} {self.native_id})" if word else target


_WORDS = {Kind.COMMENT: "comment", Kind.REVIEW: "review", Kind.REVIEW_COMMENT: "review comment"}


@dataclass(frozen=True, slots=True)
class Refs:
    """Branches of a pull request, which lists of issues do not give."""

    base: str
    head: str


def listed(body: Any) -> list[Any] | None:
    """The elements of a list; None when the answer is none, or has an error in place of an element."""
    if not isinstance(body, list) or len(body) > MAX_LISTED or any(map(is_error_answer, body)):
        return None
    return body


def item_of(value: Any) -> Item | None:
    """What a list of issues, comments, review comments or reviews holds at one place; None if it is none of these."""
    found = next(islice(recognise(value), 1), None)
    if not isinstance(found, Found) or found.format not in _TRIMMERS:
        return None
    body = found.body
    repository, number = repository_of(body, None), number_of(body)
    if not repository or not number:
        return None
    payload = canonical(_TRIMMERS[found.format](body, found.native_id))
    return Item(found.format, found.kind, found.native_id, repository, number, payload, found.updated_at)


def as_issue(pull: Any) -> Any:
    """A pull request of `/pulls` as a list of issues has it, but for the number of its comments."""
    address = _mapping(pull).get("url")
    if not isinstance(address, str):
        return pull
    of_both = {name: value for name, value in pull.items() if name not in ("base", "head", "comments")}
    inside = {"merged_at": pull.get("merged_at")}
    return of_both | {"repository_url": address.rpartition("/pulls/")[0], "pull_request": inside}


def with_refs(pull: Item, refs: Refs) -> Item:
    """A pull request as listed among issues, in the shape of a pull request."""
    value = parse_json(pull.payload)
    value.pop("pull_request", None)
    value["base"] = {"ref": refs.base, "repo": {"full_name": pull.repository}}
    value["head"] = {"ref": refs.head}
    return Item(
        Format.GITHUB_PULL,
        pull.kind,
        pull.native_id,
        pull.repository,
        pull.number,
        canonical(value),
        pull.updated_at,
    )


def refs_of(pull: Any) -> Refs | None:
    """Branches in a REST pull request."""
    base, head = (_mapping(_mapping(pull).get(side)).get("ref") for side in ("base", "head"))
    return Refs(base, head) if isinstance(base, str) and isinstance(head, str) else None


def pull_url(pull: Item) -> str:
    """The API's address of a pull request, as REST gives it."""
    return f"{parse_json(pull.payload)['repository_url']}/pulls/{pull.number}"


def is_pending(review: Any) -> bool:
    """A review that its author, the owner of the token, has not yet shown to anyone."""
    return isinstance(review, Mapping) and review.get("state") == "PENDING"


def review_of_graphql(node: Value, pull_url: str) -> dict[str, Any] | None:
    """A GraphQL review in the shape of REST; None when it lacks its id.

    Args:
        pull_url: of the pull request it is about, from `pull_url`.
    """
    native_id = node.get("fullDatabaseId")
    if not isinstance(native_id, (str, int)) or not str(native_id).isdecimal():
        return None
    return {
        "id": int(native_id),
        "body": node.get("body"),
        "user": _rest_user(node.get("author")),
        "state": node.get("state"),
        "html_url": node.get("url"),
        "pull_request_url": pull_url,
        "submitted_at": node.get("submittedAt"),
    }


def _rest_user(actor: Any) -> dict[str, Any] | None:
    """GraphQL leaves out the `[bot]` of a bot's login."""
    if not isinstance(actor, Mapping):
        return None
    login, kind = actor.get("login"), actor.get("__typename")
    suffix = "[bot]" if kind == "Bot" and isinstance(login, str) and not login.endswith("[bot]") else ""
    return {"login": f"{login}{suffix}", "type": kind}


def _issue(value: Value, native_id: str) -> dict[str, Any]:
    inside = value.get("pull_request")
    issue = {
        "id": value.get("id"),
        "number": value.get("number"),
        "title": value.get("title"),
        "body": value.get("body") or "",
        "state": value.get("state"),
        "state_reason": value.get("state_reason"),
        "draft": value.get("draft") is True,
        "labels": _sorted_names(value.get("labels"), "name"),
        "milestone": _mapping(value.get("milestone")).get("title"),
        "user": _user(value.get("user")),
        "assignees": _sorted_names(value.get("assignees"), "login"),
        "created_at": value.get("created_at"),
        "closed_at": value.get("closed_at"),
        "comments": value.get("comments"),
        "html_url": value.get("html_url"),
        "repository_url": value.get("repository_url"),
    }
    if inside:
        del issue["id"]  # that of the issue's row, not of the pull's
        issue["node_id"] = value.get("node_id")
        issue["merged_at"] = _mapping(inside).get("merged_at")
        issue["pull_request"] = {"merged_at": issue["merged_at"]}
    return issue


def _comment(value: Value, native_id: str) -> dict[str, Any]:
    return _said(value, native_id) | {
        "issue_url": value.get("issue_url"),
        "created_at": value.get("created_at"),
    }


def _review_comment(value: Value, native_id: str) -> dict[str, Any]:
    line = value.get("line")
    return _said(value, native_id) | {
        "pull_request_url": value.get("pull_request_url"),
        "path": value.get("path"),
        "line": line if line is not None else value.get("original_line"),
        "diff_hunk": value.get("diff_hunk"),
        "in_reply_to_id": value.get("in_reply_to_id"),
        "created_at": value.get("created_at"),
    }


def _review(value: Value, native_id: str) -> dict[str, Any]:
    return _said(value, native_id) | {
        "pull_request_url": value.get("pull_request_url"),
        "state": value.get("state"),
        "submitted_at": value.get("submitted_at"),
    }


def _said(value: Value, native_id: str) -> dict[str, Any]:
    return {
        "id": int(native_id) if native_id.isdecimal() else native_id,
        "body": value.get("body") or "",
        "user": _user(value.get("user")),
        "html_url": value.get("html_url"),
    }


_TRIMMERS = {
    Format.GITHUB_ISSUE: _issue,
    Format.GITHUB_COMMENT: _comment,
    Format.GITHUB_REVIEW: _review,
    Format.GITHUB_REVIEW_COMMENT: _review_comment,
}


def _user(value: Any) -> dict[str, Any] | None:
    user = _mapping(value)
    login = user.get("login")
    return {"login": login, "type": user.get("type")} if login and login != "ghost" else None


def _sorted_names(values: Any, key: str) -> Sequence[str]:
    members: Iterable[Any] = values if isinstance(values, list) else ()
    names = (member.get(key) if isinstance(member, Mapping) else member for member in members)
    return sorted(name for name in names if isinstance(name, str))


def _mapping(value: Any) -> Value:
    return value if isinstance(value, Mapping) else {}


def canonical(value: Any) -> bytes:
    """JSON with its keys in order."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # half a surrogate pair, or a number of more than 64 bits
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

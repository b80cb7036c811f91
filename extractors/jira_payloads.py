"""Jira's issues, cut to what is read of them, so that the same state gives the same bytes. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from schemas.documents import BEGINNING
from schemas.errors import InvalidPayload
from schemas.payloads import parse_time

Value = Mapping[str, Any]

FIELDS = (
    "summary", "description", "environment", "issuetype", "status", "priority", "resolution", "labels", "components",
    "fixVersions", "versions", "project", "assignee", "reporter", "creator", "created", "updated", "resolutiondate",
    "parent", "epic", "subtasks", "issuelinks", "comment",
)  # fmt: skip
"""What `extractors.jira` reads, as the API calls it; custom fields come besides."""

INTERNAL = "sd.public.comment"
"""Property of a comment that says whether it is internal."""

_NAMED = ("issuetype", "status", "priority", "resolution")
_NAMED_LISTS = ("components", "fixVersions", "versions")
_USERS = ("assignee", "reporter", "creator")
_USER = ("displayName", "name", "key", "accountId", "accountType")
_ID = re.compile("[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Reading:
    """What is taken from an issue.

    Args:
        custom_fields: ids of the text fields besides.
        comments: False takes no comment's text, and pages none.
        restricted_comments: False takes no text of comments that not everyone may see; they are counted.
    """

    custom_fields: tuple[str, ...] = ()
    comments: bool = True
    restricted_comments: bool = False

    @property
    def fields(self) -> list[str]:
        """To ask for."""
        return [*FIELDS, *self.custom_fields]


def issue_id(value: Any) -> str:
    """The numeric id of an issue or comment, "" where it has none: ids go into queries and paths."""
    found = value.get("id") if isinstance(value, Mapping) else None
    found = str(found) if isinstance(found, int) else found
    return found if isinstance(found, str) and _ID.fullmatch(found) else ""


def canonical(issue: Value, reading: Reading) -> bytes:
    """The issue as JSON: what is read and nothing else, keys in order, comments by the time they were made.

    Raises:
        InvalidPayload: it has no key or no fields, or is nested too deeply.
    """
    given = _fields(issue)
    key = issue.get("key")
    if not isinstance(key, str):
        raise InvalidPayload("key", "the issue's key, such as ABC-12")
    kept = ("summary", "description", "environment", "labels", "created", "updated", "resolutiondate")
    fields: dict[str, Any] = {name: given.get(name) for name in (*kept, *reading.custom_fields)}
    fields |= {name: _picked(given.get(name), ("name",)) for name in _NAMED}
    fields |= {
        name: [_picked(each, ("name",)) for each in _objects(given.get(name))] for name in _NAMED_LISTS
    }
    fields |= {name: _picked(given.get(name), _USER) for name in _USERS}
    fields |= {name: _picked(given.get(name), ("key",)) for name in ("project", "parent", "epic")}
    fields["subtasks"] = [_picked(each, ("key",)) for each in _objects(given.get("subtasks"))]
    fields["issuelinks"] = [_link(each) for each in _objects(given.get("issuelinks"))]
    fields["comment"] = _comments(given.get("comment"), reading)
    fields = {name: value for name, value in fields.items() if value not in (None, "", [])}
    value = {"id": issue_id(issue), "key": key, "fields": fields}
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        pass  # it writes no more than 254 levels, and reads more
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
    except RecursionError:
        raise InvalidPayload("fields", "values that are not nested so deeply") from None


def updated_at(issue: Value) -> datetime:
    """When it changed, else when it was made.

    Raises:
        InvalidPayload: it has no fields.
    """
    fields = _fields(issue)
    return parse_time(fields.get("updated")) or parse_time(fields.get("created")) or BEGINNING


def moment_ms(issue: Value, field: str) -> int | None:
    """`created` or `updated` of an issue as listed, in epoch milliseconds; None where it does not say."""
    fields = issue.get("fields")
    moment = parse_time(fields.get(field)) if isinstance(fields, Mapping) else None
    return None if moment is None else round(moment.timestamp() * 1000)


def has_more_comments(issue: Value) -> bool:
    """The inline comments are not all there are."""
    found = _fields(issue).get("comment")
    if not isinstance(found, Mapping):
        return False
    total = found.get("total")
    return isinstance(total, int) and total > len(_objects(found.get("comments")))


def may_hide_comments(issue: Value) -> bool:
    """It has comments, and is a service desk's: some of them may be for its agents alone."""
    fields = _fields(issue)
    project, found = fields.get("project"), fields.get("comment")
    is_desk = isinstance(project, Mapping) and project.get("projectTypeKey") == "service_desk"
    return is_desk and isinstance(found, Mapping) and bool(found.get("comments") or found.get("total"))


def with_comments(issue: Value, comments: Sequence[Value]) -> Value:
    """The issue with these in place of the inline ones."""
    return {**issue, "fields": {**_fields(issue), "comment": {"comments": comments, "total": len(comments)}}}


def with_epic(issue: Value, epic_field: str) -> Value:
    """The issue with its epic as `epic`, where a custom field has its key."""
    key = _fields(issue).get(epic_field)
    return {**issue, "fields": {**_fields(issue), "epic": {"key": key}}} if isinstance(key, str) else issue


def unique(comments: Iterable[Value]) -> list[Value]:
    """Each comment once, as it was given last, by age; those without an id are no comments."""
    by_id = {int(issue_id(comment)): comment for comment in comments if issue_id(comment)}
    return [by_id[number] for number in sorted(by_id)]


def _fields(issue: Value) -> Value:
    fields = issue.get("fields")
    if not isinstance(fields, Mapping):
        raise InvalidPayload("fields", "the fields of the issue")
    return fields


def _comments(value: Any, reading: Reading) -> dict[str, Any]:
    given = value if isinstance(value, Mapping) else {}
    comments = unique(_objects(given.get("comments")))
    total = given.get("total")
    return {
        "total": max(total if isinstance(total, int) else 0, len(comments)),
        "comments": [_comment(comment, reading) for comment in comments],
    }


def _comment(comment: Value, reading: Reading) -> dict[str, Any]:
    """What is not going to be indexed is not kept either, but for what says why."""
    shown = {name: comment[name] for name in ("created", "visibility", "jsdPublic") if name in comment}
    shown |= {"id": issue_id(comment), "author": _picked(comment.get("author"), _USER)}
    if is_internal(comment):
        shown["jsdPublic"] = False
    if reading.comments and (reading.restricted_comments or not is_restricted(comment)):
        shown["body"] = comment.get("body")
    return shown


def is_restricted(comment: Value) -> bool:
    """Not everyone who sees the issue may see it: it is for a role or group, or internal to a service desk."""
    return bool(comment.get("visibility")) or is_internal(comment)


def is_internal(comment: Value) -> bool:
    """For the agents of a service desk alone. Cloud says so in `jsdPublic`, Data Center in a property of the comment.

    https://github.com/pycontribs/jira/issues/1011
    """
    if comment.get("jsdPublic") is False:
        return True
    properties = (each for each in _objects(comment.get("properties")) if each.get("key") == INTERNAL)
    values = (each.get("value") for each in properties)
    return any(isinstance(value, Mapping) and value.get("internal") in (True, "true") for value in values)


def _link(link: Value) -> dict[str, Any]:
    shown = {name: _picked(link.get(name), ("key",)) for name in ("inwardIssue", "outwardIssue")}
    shown["type"] = _picked(link.get("type"), ("name", "inward", "outward"))
    return {name: value for name, value in shown.items() if value}


def _picked(value: Any, names: Iterable[str]) -> dict[str, Any] | None:
    if not isinstance(value, Mapping):
        return None
    return {name: value[name] for name in names if value.get(name)}


def _objects(value: Any) -> list[Value]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []

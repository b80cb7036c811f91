"""What is in issues: fetched in hundreds with all of their comments, whatever breaks an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from extractors.jira_api import JiraApi, issues_of
from extractors.jira_payloads import (
    Reading,
    Value,
    has_more_comments,
    issue_id,
    may_hide_comments,
    unique,
    with_comments,
    with_epic,
)
from extractors.paginators import PageRequest, Paginator, StartAt
from schemas.errors import BrokenAnswer, InvalidPayload, PipelineError, SourceTimeout, SourceUnavailable

ISSUES_PER_FETCH = 100  # most that bulkfetch takes
ISSUES_PER_SEARCH = 500  # of Data Center, which gives 1,000 at most, and all comments with them
COMMENTS_PER_PAGE = 100
ROUNDS = 3  # of paging comments while their number changes

_Each = TypeVar("_Each")


@dataclass(slots=True)
class Found:
    """What was learnt of some issues; those in neither of the first two are not there, or not for this account.

    Args:
        absent: the status that Jira gave for one by itself: 403, 404 or 410.
    """

    issues: dict[str, Value] = field(default_factory=dict)
    unreadable: dict[str, PipelineError] = field(default_factory=dict)
    absent: dict[str, int] = field(default_factory=dict)

    def knows(self, number: str) -> bool:
        return number in self.issues or number in self.unreadable or number in self.absent

    def add(self, other: Found) -> None:
        self.issues |= other.issues
        self.unreadable |= other.unreadable
        self.absent |= other.absent


class JiraIssues:
    """Issues by their ids. Args: reading: what is asked for, and how much of it."""

    def __init__(self, api: JiraApi, reading: Reading) -> None:
        self._api = api
        self._comments_wanted = reading.comments
        self._asks_for_internal = not api.is_cloud and not reading.restricted_comments
        self._expanded = {"expand": "properties"} if self._asks_for_internal else {}
        self._epic_field = api.epic_field
        self._fields = reading.fields + ([self._epic_field] if self._epic_field else [])
        self._at_once = ISSUES_PER_FETCH if api.is_cloud else ISSUES_PER_SEARCH

    def portions(self, rows: Sequence[_Each]) -> Iterator[Sequence[_Each]]:
        """As many at a time as are fetched at once."""
        start = 0
        while start < len(rows):
            portion = rows[start : start + self._at_once]
            yield portion
            start += len(portion)

    def fetch(self, ids: Sequence[str]) -> Found:
        """Whole issues, comments included; as many as a portion has at most.

        What breaks an answer is found by halving the question, and is unreadable when it breaks one alone.

        Raises:
            SourceUnavailable, SourceTimeout: the site is out of order, not an issue of it.
        """
        found = self._bisected(tuple(ids))
        if len(ids) > 1 and len(found.unreadable) == len(ids):
            raise next(iter(found.unreadable.values()))
        return self._completed(found)

    def look(self, number: str) -> Found:
        """One issue by itself. Raises: as `fetch`."""
        return self._completed(self._bisected((number,)))

    def _completed(self, found: Found) -> Found:
        for number, issue in tuple(found.issues.items()):
            try:
                complete = self._complete(with_epic(issue, self._epic_field))
            except (BrokenAnswer, InvalidPayload) as error:
                found.unreadable[number] = error
                complete = None
            if complete is None:
                del found.issues[number]  # went meanwhile, or is unreadable
            else:
                found.issues[number] = complete
        return found

    def _bisected(self, ids: tuple[str, ...]) -> Found:
        if not ids:
            return Found()
        try:
            found, missed = self._fetch_one(ids[0]) if len(ids) == 1 else self._fetch_some(ids)
        except (SourceUnavailable, SourceTimeout) as error:
            self._api.ask_deployment()  # raises where the whole site is out of order
            self._at_once = max(ISSUES_PER_FETCH, min(self._at_once, len(ids) // 2))
            if len(ids) == 1:
                return Found(unreadable={ids[0]: error})
            found, missed = Found(), ids
        half = len(missed) // 2 if len(missed) == len(ids) else len(missed)
        for some in (missed[:half], missed[half:]):
            found.add(self._bisected(some))
        return found

    def _fetch_one(self, number: str) -> tuple[Found, tuple[str, ...]]:
        params = {"fields": ",".join(self._fields)}
        answer = self._api.get(f"issue/{number}", params, tolerated=(403, 404, 410))
        if answer.status != 200:
            return Found(absent={number: answer.status}), ()
        if issue_id(answer.body) != number:
            raise BrokenAnswer(f"{self._api.source}: Jira answered for issue {number} with something else")
        return Found({number: answer.body}), ()

    def _fetch_some(self, ids: tuple[str, ...]) -> tuple[Found, tuple[str, ...]]:
        """(what was found, ids that Jira did not get to)"""
        fields = self._fields
        if self._api.is_cloud:
            answer = self._api.post("issue/bulkfetch", {"issueIdsOrKeys": list(ids), "fields": fields})
        else:
            answer = self._api.post("search", self._api.among("", ids, fields))
        given = issues_of(answer)
        found = Found({issue_id(each): each for each in given if issue_id(each) in ids})
        if self._api.is_cloud:  # says which were too much for it; what is not there it passes over
            errors = answer.body.get("issueErrors")
            not_given = {issue_id(each) for each in errors} if isinstance(errors, list) else set()
        else:
            total = answer.body.get("total")
            not_given = set(ids) if isinstance(total, int) and total > len(given) else set()
        return found, tuple(each for each in ids if each in not_given and each not in found.issues)

    def _complete(self, issue: Value) -> Value | None:
        """The issue with all of its comments; None where it went meanwhile.

        Data Center gives all of them with the issue, but does not say there which of a service desk are internal.
        """
        hides_some = self._asks_for_internal and may_hide_comments(issue)
        if not self._comments_wanted or not (has_more_comments(issue) or hides_some):
            return issue
        limit = COMMENTS_PER_PAGE
        while True:
            try:
                comments = self._comments(issue_id(issue), limit)
            except BrokenAnswer:
                if limit == 1:
                    raise
                limit //= 2
            else:
                return None if comments is None else with_comments(issue, comments)

    def _comments(self, number: str, limit: int) -> list[Value] | None:
        """All comments, read again from the first when their number changes on the way: one may have slipped by."""
        seen: list[Value] = []
        for _ in range(ROUNDS):
            totals = set()
            paginator: Paginator = StartAt("comments")
            request: PageRequest | None = PageRequest(
                f"issue/{number}/comment",
                {"startAt": 0, "maxResults": limit, "orderBy": "created", **self._expanded},
            )
            while request is not None:
                answer = self._api.get(request.path, request.params, tolerated=(404,))
                if answer.status == 404:
                    return None
                request = paginator(request, answer)
                seen += (each for each in answer.body["comments"] if isinstance(each, dict))
                totals.add(answer.body.get("total"))
            if len(totals) == 1:
                break
        return unique(seen)

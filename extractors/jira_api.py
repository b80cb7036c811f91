"""Jira's REST API as questions: which issues, what is in them, are they there. One request at a time.

Cloud: https://developer.atlassian.com/cloud/jira/platform/rest/v3/api-group-issue-search/
Data Center: https://developer.atlassian.com/server/jira/platform/rest/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from zoneinfo import ZoneInfo

from extractors import jira_jql
from extractors.http import Answer, ApiSession
from extractors.jira_jql import Order
from extractors.jira_payloads import (
    Reading,
    Value,
    has_more_comments,
    issue_id,
    moment_ms,
    unique,
    with_comments,
)
from extractors.jira_session import check_known
from extractors.paginators import NextPageToken, PageRequest, Paginator, StartAt
from schemas.errors import (
    BrokenAnswer,
    InvalidPayload,
    PipelineError,
    QueryRefused,
    SourceTimeout,
    SourceUnavailable,
)

Deployment = Literal["cloud", "data_center"]

IDS_PER_PAGE = 5000  # most that Cloud gives, when asked for nothing but ids and keys
ROWS_PER_PAGE = 1000
ISSUES_PER_FETCH = 100  # most that bulkfetch takes
CONSISTENT_IDS = 50  # most that a search can be asked to be up to date about
COMMENTS_PER_PAGE = 100
RESULT_WINDOW = 10_000  # rows that a Data Center server may refuse to count beyond
RESTARTS = 20  # in a row of a listing whose rows shift
ZONES_MS = 27 * 3600 * 1000  # how much earlier than meant a bound in minutes may be taken
ROUNDS = 3  # of paging comments while their number changes


@dataclass(frozen=True, slots=True)
class Row:
    """An issue as a search lists it; `moment_ms` is that of the order, None where it was not asked for."""

    id: str
    key: str
    moment_ms: int | None


@dataclass(frozen=True, slots=True)
class RowPage:
    """Some rows of a listing; `more` come after them."""

    rows: tuple[Row, ...]
    more: bool


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


@dataclass(slots=True)
class Known:
    """What was learnt of a site and does not change from one session to the next.

    Args:
        zone: of the account, which its queries are read in; None where it is not known.
        introduced: the credentials were accepted.
        in_minutes: the site refuses milliseconds in queries.
    """

    deployment: Deployment | None = None
    zone: ZoneInfo | None = None
    introduced: bool = False
    in_minutes: bool = False


class JiraApi:
    """A site, as its account sees it.

    Args:
        within: condition in JQL that every issue asked for meets; "" for none.
        has_token: an answer as to a stranger is a refusal then.
        known: read and added to.
    Raises:
        AccessRefused: the credentials are not accepted.
    """

    def __init__(
        self,
        session: ApiSession,
        source: str,
        within: str,
        reading: Reading,
        known: Known,
        *,
        has_token: bool,
    ) -> None:
        self._session = session
        self._source = source
        self._within = within
        self._reading = reading
        self._known = known
        self._has_token = has_token
        if has_token and not known.introduced:
            known.zone = _zone(self._heard(session.get("rest/api/2/myself")).body)
        known.introduced = True
        known.deployment = known.deployment or self._ask_deployment()
        self._is_cloud = known.deployment == "cloud"
        self._root = "rest/api/3" if self._is_cloud else "rest/api/2"
        self._search = "search/jql" if self._is_cloud else "search"

    # Which issues

    def ids(self, order: Order, since_ms: int) -> Iterator[RowPage]:
        """The issues whose `order` is not before `since_ms`, oldest first.

        On Cloud without moments: a page holds many times as many for that.
        """
        if self._is_cloud:
            return self._token_pages(order, since_ms, ["key"], IDS_PER_PAGE)
        return self._counted_pages(order, since_ms)

    def rows(self, order: Order, since_ms: int) -> Iterator[RowPage]:
        """As `ids`, with the moments."""
        if self._is_cloud:
            return self._token_pages(order, since_ms, [order], ROWS_PER_PAGE)
        return self._counted_pages(order, since_ms)

    def newest_ms(self) -> int | None:
        """The last moment at which an issue changed that the search knows of; None where there is no issue."""
        query = {"jql": jira_jql.newest(self._within), "fields": ["updated"], "maxResults": 1}
        try:
            found = _issues(self._post(self._search, query))
        except QueryRefused as error:
            raise _refused_scope(error) from None
        return moment_ms(found[0], "updated") if found else None

    def count(self, order: Order, since_ms: int) -> int | None:
        """Roughly how many issues `ids` will give; None where Jira does not say."""
        query = jira_jql.since(self._within, order, self._moment(since_ms))
        if self._is_cloud:
            body = self._post("search/approximate-count", {"jql": query.partition(" ORDER BY ")[0]}).body
        else:
            body = self._post("search", {"jql": query, "maxResults": 0}).body
        total = body.get("count", body.get("total")) if isinstance(body, dict) else None
        return total if isinstance(total, int) else None

    def within(self, ids: Sequence[str]) -> set[str]:
        """Those that meet the condition of this source. Cloud is asked for the state of now, not of its index."""
        if not self._within:
            return set(ids)
        found: set[str] = set()
        for start in range(0, len(ids), CONSISTENT_IDS):
            some = ids[start : start + CONSISTENT_IDS]
            query = self._among(self._within, some, ["id"])
            if self._is_cloud:
                query["reconcileIssues"] = [int(each) for each in some]
            found |= {issue_id(each) for each in _issues(self._post(self._search, query))} & set(some)
        return found

    def _among(self, within: str, ids: Sequence[str], fields: list[str]) -> dict[str, Any]:
        query = {"jql": jira_jql.among(within, ids), "fields": fields, "maxResults": len(ids)}
        return query if self._is_cloud else {**query, "validateQuery": False}  # an id may be gone

    def _token_pages(self, order: Order, since_ms: int, fields: list[str], most: int) -> Iterator[RowPage]:
        for answer, more in self._pages(
            order, since_ms, {"fields": fields, "maxResults": most}, NextPageToken()
        ):
            yield RowPage(_rows(answer, order), more)

    def _counted_pages(self, order: Order, since_ms: int) -> Iterator[RowPage]:
        """Pages by position, which shifts while they are read: an issue that changes leaves its place.

        So each page begins with the last row of the one before. Where another stands there, and before the server
        counts no further, the rest is asked for anew by its moments; rows that were given already are left out.
        """
        given: dict[str, int | None] = {}
        restarts = 0
        while restarts < RESTARTS:
            before: tuple[Row, ...] = ()
            listed, oldest_ms = 0, since_ms
            query = {"fields": [order], "maxResults": ROWS_PER_PAGE}
            for answer, more in self._pages(order, since_ms, query, _Overlapping()):
                rows = _rows(answer, order)
                if len(before) > 1 and rows[:1] != before[-1:]:
                    break
                fresh = tuple(row for row in rows if row.id not in given or given[row.id] != row.moment_ms)
                given |= {row.id: row.moment_ms for row in fresh}
                if fresh or not more:
                    yield RowPage(fresh, more)
                before, listed = rows, listed + len(rows)
                oldest_ms = min((row.moment_ms or 0 for row in rows), default=since_ms)
                if more and oldest_ms > since_ms and listed > RESULT_WINDOW - 2 * ROWS_PER_PAGE:
                    break
            else:
                return
            restarts = 0 if oldest_ms > since_ms else restarts + 1
            since_ms = max(since_ms, oldest_ms)
            given = {number: ms for number, ms in given.items() if (ms or 0) >= since_ms - ZONES_MS}
        raise SourceUnavailable(f"{self._source}: Jira's listing kept changing while it was read")

    def _pages(
        self, order: Order, since_ms: int, query: Mapping[str, Any], paginator: Paginator
    ) -> Iterator[tuple[Answer, bool]]:
        request: PageRequest | None
        request, answer = self._first_page(order, since_ms, query)
        while request is not None:
            after = paginator(request, answer)
            yield answer, after is not None
            if after is not None:
                try:
                    answer = self._post(after.path, after.body)
                except QueryRefused:  # the first page was not
                    raise SourceUnavailable(
                        f"{self._source}: Jira does not go on with a listing that it began: run again"
                    ) from None
            request = after

    def _first_page(
        self, order: Order, since_ms: int, query: Mapping[str, Any]
    ) -> tuple[PageRequest, Answer]:
        """The request that was understood, and its answer."""
        while True:
            jql = jira_jql.since(self._within, order, self._moment(since_ms))
            request = PageRequest(self._search, body={**query, "jql": jql})
            try:
                return request, self._post(request.path, request.body)
            except QueryRefused as error:
                if self._known.in_minutes or since_ms <= 0:
                    raise _refused_scope(error) from None
                self._known.in_minutes = True

    def _moment(self, ms: int) -> str:
        if ms <= 0:
            return jira_jql.BEGINNING
        return jira_jql.in_minutes(ms, self._known.zone) if self._known.in_minutes else str(ms)

    # What is in them

    def fetch(self, ids: Sequence[str]) -> Found:
        """Whole issues, at most `ISSUES_PER_FETCH`, comments included.

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
                complete = self._complete(issue)
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
            self._ask_deployment()  # raises where the whole site is out of order
            if len(ids) == 1:
                return Found(unreadable={ids[0]: error})
            found, missed = Found(), ids
        half = len(missed) // 2 if len(missed) == len(ids) else len(missed)
        for some in (missed[:half], missed[half:]):
            found.add(self._bisected(some))
        return found

    def _fetch_one(self, number: str) -> tuple[Found, tuple[str, ...]]:
        params = {"fields": ",".join(self._reading.fields)}
        answer = self._get(f"issue/{number}", params, tolerated=(403, 404, 410))
        if answer.status != 200:
            return Found(absent={number: answer.status}), ()
        if issue_id(answer.body) != number:
            raise BrokenAnswer(f"{self._source}: Jira answered for issue {number} with something else")
        return Found({number: answer.body}), ()

    def _fetch_some(self, ids: tuple[str, ...]) -> tuple[Found, tuple[str, ...]]:
        """(what was found, ids that Jira did not get to)"""
        fields = self._reading.fields
        if self._is_cloud:
            answer = self._post("issue/bulkfetch", {"issueIdsOrKeys": list(ids), "fields": fields})
        else:
            answer = self._post("search", self._among("", ids, fields))
        given = _issues(answer)
        found = Found({issue_id(each): each for each in given if issue_id(each) in ids})
        if self._is_cloud:  # says which were too much for it; what is not there it passes over
            errors = answer.body.get("issueErrors")
            not_given = {issue_id(each) for each in errors} if isinstance(errors, list) else set()
        else:
            total = answer.body.get("total")
            not_given = set(ids) if isinstance(total, int) and total > len(given) else set()
        return found, tuple(each for each in ids if each in not_given and each not in found.issues)

    def _complete(self, issue: Value) -> Value | None:
        """The issue with all of its comments; None where it went meanwhile."""
        if not self._reading.comments or not has_more_comments(issue):
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
                f"issue/{number}/comment", {"startAt": 0, "maxResults": limit, "orderBy": "created"}
            )
            while request is not None:
                answer = self._get(request.path, request.params, tolerated=(404,))
                if answer.status == 404:
                    return None
                request = paginator(request, answer)
                seen += (each for each in answer.body["comments"] if isinstance(each, dict))
                totals.add(answer.body.get("total"))
            if len(totals) == 1:
                break
        return unique(seen)

    # The site

    def _ask_deployment(self) -> Deployment:
        """https://docs.atlassian.com/software/jira/docs/api/REST/9.17.0/#api/2/serverInfo"""
        found = self._heard(self._session.get("rest/api/2/serverInfo")).body
        return (
            "cloud" if isinstance(found, dict) and found.get("deploymentType") == "Cloud" else "data_center"
        )

    def _get(self, path: str, params: Mapping[str, str | int], *, tolerated: tuple[int, ...] = ()) -> Answer:
        return self._heard(self._session.get(f"{self._root}/{path}", params, tolerated=tolerated))

    def _post(self, path: str, body: Any) -> Answer:
        return self._heard(self._session.post(f"{self._root}/{path}", body))

    def _heard(self, answer: Answer) -> Answer:
        if self._has_token:
            check_known(answer, self._source)
        return answer


class _Overlapping:
    """Each page begins with the last row of the one before."""

    def __init__(self) -> None:
        self._after = StartAt()

    def __call__(self, asked: PageRequest, answer: Answer) -> PageRequest | None:
        after = self._after(asked, answer)
        if after is None or after.body is None or len(answer.body["issues"]) < 2:
            return after
        return after.with_value("startAt", after.body["startAt"] - 1)


def _issues(answer: Answer) -> list[Value]:
    found = answer.body.get("issues") if isinstance(answer.body, dict) else None
    if not isinstance(found, list) or not all(issue_id(each) for each in found):
        raise BrokenAnswer(f"the answer of Jira at {answer.url} has no list of issues with their ids")
    return found


def _rows(answer: Answer, order: Order) -> tuple[Row, ...]:
    keys = ((each, each.get("key")) for each in _issues(answer))
    return tuple(
        Row(issue_id(each), key if isinstance(key, str) else "", moment_ms(each, order)) for each, key in keys
    )


def _refused_scope(error: QueryRefused) -> QueryRefused:
    return QueryRefused(f"{error}: a project in `projects` is not there, or `jql` is not understood")


def _zone(account: Any) -> ZoneInfo | None:
    """That of the account; None where it names none that is known here."""
    name = account.get("timeZone") if isinstance(account, dict) else None
    try:
        return ZoneInfo(name) if isinstance(name, str) else None
    except (ValueError, OSError):  # what is no name of a zone; ZoneInfoNotFoundError is a KeyError
        return None
    except KeyError:
        return None

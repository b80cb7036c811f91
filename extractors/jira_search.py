"""Which issues a Jira site holds: listed by the time they were made or changed, however rows move meanwhile.

Cloud: https://developer.atlassian.com/cloud/jira/platform/rest/v3/api-group-issue-search/
Data Center: https://developer.atlassian.com/server/jira/platform/rest/v10000/api-group-search/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from extractors import jira_jql
from extractors.http import Answer
from extractors.jira_api import JiraApi, issues_of
from extractors.jira_jql import Order
from extractors.jira_payloads import issue_id, moment_ms
from extractors.jira_projects import refused_scope
from extractors.paginators import NextPageToken, PageRequest, Paginator, StartAt
from schemas.errors import QueryRefused, SourceUnavailable

IDS_PER_PAGE = 5000  # most that Cloud gives, when asked for nothing but ids and keys
ROWS_PER_PAGE = 1000
CONSISTENT_IDS = 50  # most that a search can be asked to be up to date about
RESULT_WINDOW = 10_000  # rows that a Data Center server may refuse to count beyond
RESTARTS = 20  # in a row of a listing whose rows shift
ZONES_MS = 27 * 3600 * 1000  # how much earlier than meant a bound in minutes may be taken


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


class JiraSearch:
    """The issues that meet a condition.

    Args:
        within: in JQL; "" for any issue.
        projects: named in it by the source's own setting, for messages.
    """

    def __init__(self, api: JiraApi, within: str, projects: Sequence[str]) -> None:
        self._api = api
        self._within = within
        self._projects = projects

    def ids(self, order: Order, since_ms: int) -> Iterator[RowPage]:
        """The issues whose `order` is not before `since_ms`, oldest first.

        On Cloud without moments: a page holds many times as many for that.
        """
        if self._api.is_cloud:
            return self._token_pages(order, since_ms, ["key"], IDS_PER_PAGE)
        return self._counted_pages(order, since_ms)

    def rows(self, order: Order, since_ms: int) -> Iterator[RowPage]:
        """As `ids`, with the moments."""
        if self._api.is_cloud:
            return self._token_pages(order, since_ms, [order], ROWS_PER_PAGE)
        return self._counted_pages(order, since_ms)

    def newest_ms(self) -> int | None:
        """The last moment at which an issue changed that the search knows of; None where there is no issue."""
        query = {"jql": jira_jql.newest(self._within), "fields": ["updated"], "maxResults": 1}
        try:
            found = issues_of(self._api.post(self._api.search_path, query))
        except QueryRefused as error:
            raise refused_scope(self._api, error, self._projects) from None
        return moment_ms(found[0], "updated") if found else None

    def count(self, order: Order, since_ms: int) -> int | None:
        """Roughly how many issues `ids` will give; None where Jira does not say."""
        query = jira_jql.since(self._within, order, self._moment(since_ms))
        if self._api.is_cloud:
            body = self._api.post("search/approximate-count", {"jql": query.partition(" ORDER BY ")[0]}).body
        else:
            body = self._api.post("search", {"jql": query, "maxResults": 0}).body
        total = body.get("count", body.get("total")) if isinstance(body, dict) else None
        return total if isinstance(total, int) else None

    def sides(self, ids: Sequence[str]) -> tuple[set[str], set[str]]:
        """(those that meet the condition of this source, those that do not).

        Those that the search does not know, while it lags or is indexed anew, are in neither. Cloud is asked for the
        state of now, not of its index.
        """
        if not self._within:
            return set(ids), set()
        inside = self._among(self._within, ids)
        others = [each for each in ids if each not in inside]
        return inside, self._among("", others)

    def _among(self, within: str, ids: Sequence[str]) -> set[str]:
        """Those of some ids that meet a condition, page after page: a page may have fewer than were asked for."""
        found: set[str] = set()
        for start in range(0, len(ids), CONSISTENT_IDS):
            some = ids[start : start + CONSISTENT_IDS]
            query = self._api.among(within, some, ["id"])
            if self._api.is_cloud:
                query["reconcileIssues"] = [int(each) for each in some]
            paginator: Paginator = NextPageToken() if self._api.is_cloud else StartAt()
            request: PageRequest | None = PageRequest(self._api.search_path, body=query)
            while request is not None:
                answer = self._api.post(request.path, request.body)
                found |= {issue_id(each) for each in issues_of(answer)} & set(some)
                request = paginator(request, answer)
        return found

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
        raise SourceUnavailable(f"{self._api.source}: Jira's listing kept changing while it was read")

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
                    answer = self._api.post(after.path, after.body)
                except QueryRefused:  # the first page was not
                    raise SourceUnavailable(
                        f"{self._api.source}: Jira does not go on with a listing that it began: run again"
                    ) from None
            request = after

    def _first_page(
        self, order: Order, since_ms: int, query: Mapping[str, Any]
    ) -> tuple[PageRequest, Answer]:
        """The request that was understood, and its answer."""
        while True:
            jql = jira_jql.since(self._within, order, self._moment(since_ms))
            request = PageRequest(self._api.search_path, body={**query, "jql": jql})
            try:
                return request, self._api.post(request.path, request.body)
            except QueryRefused as error:
                if self._api.in_minutes or since_ms <= 0:
                    raise refused_scope(self._api, error, self._projects) from None
                self._api.in_minutes = True

    def _moment(self, ms: int) -> str:
        if ms <= 0:
            return jira_jql.BEGINNING
        return jira_jql.in_minutes(ms, self._api.zone) if self._api.in_minutes else str(ms)


class _Overlapping:
    """Each page begins with the last row of the one before."""

    def __init__(self) -> None:
        self._after = StartAt()

    def __call__(self, asked: PageRequest, answer: Answer) -> PageRequest | None:
        after = self._after(asked, answer)
        if after is None or after.body is None or len(answer.body["issues"]) < 2:
            return after
        return after.with_value("startAt", after.body["startAt"] - 1)


def _rows(answer: Answer, order: Order) -> tuple[Row, ...]:
    keys = ((each, each.get("key")) for each in issues_of(answer))
    return tuple(
        Row(issue_id(each), key if isinstance(key, str) else "", moment_ms(each, order)) for each, key in keys
    )

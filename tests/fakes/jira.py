"""A Jira in memory behind its REST API: Cloud v3 or Data Center v2, as strict and as awkward as the real ones.

Serve `FakeJira.app` over HTTP. What happens to issues is done by methods; every one takes its time from the clock
that was passed in, so that a test says how late it is.
"""

from __future__ import annotations

import base64
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas.payloads import parse_time
from tests.fakes.jira_jql import BadJql, Indexed, Query, parse

TOKEN_LIFE = timedelta(days=7)
BULK_FETCH = 100
IDS_PER_PAGE = 5000
ISSUES_PER_PAGE = 100
COMMENTS_PER_PAGE = 100
CONSISTENT_IDS = 50
INLINE_COMMENTS = 20  # on Cloud; the newest
ROWS_OF_DATA_CENTER = 1000
RESULT_WINDOW = 10_000  # rows that a Data Center server counts through
EPIC_FIELD = "customfield_10008"  # on Data Center: the key of an issue's epic
NOT_THERE = "Issue does not exist or you do not have permission to see it."


@dataclass(slots=True)
class Issue:
    """`fields` has all but the comments; `number` is that of the key."""

    id: int
    project: str
    number: int
    fields: dict[str, Any]
    comments: list[dict[str, Any]]
    created_ms: int
    updated_ms: int

    @property
    def key(self) -> str:
        return f"{self.project}-{self.number}"


class _Refusal(Exception):
    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message)
        self.status, self.message, self.headers = status, message, headers or {}


class FakeJira:
    """A site.

    Everything public may be changed at any time, between two requests.

    Args:
        now: the site's clock.
        data_center: False for Cloud.
        search_lag_s: how long the search does not know of a change that GET and bulkfetch show at once.
        accepts: the only Authorization header that is let in; None lets everyone in.
        time_zone: of the account.
        epoch_dates: False refuses milliseconds in JQL.
        page_cap: rows of a search page, where the server gives fewer than its usual most.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        *,
        data_center: bool = False,
        search_lag_s: float = 0,
        accepts: str | None = None,
        time_zone: str = "Europe/Oslo",
        epoch_dates: bool = True,
        page_cap: int | None = None,
    ) -> None:
        self.now = now
        self.data_center = data_center
        self.search_lag_s = search_lag_s
        self.accepts = accepts
        self.captcha = False  # asked for after too many failed logins
        self.time_zone = time_zone
        self.epoch_dates = epoch_dates
        self.page_cap = page_cap
        self.issues: dict[int, Issue] = {}
        self.hidden: set[int] = set()  # from this account, as if they were not there
        self.forbidden: set[int] = set()  # 403 when asked for by id
        self.broken: set[int] = set()  # any answer with one of these is torn
        self.unhandy: set[int] = set()  # bulkfetch gives these alone, or else as issueErrors
        self.asked: Counter[str] = Counter()  # endpoint -> requests
        self.queries: deque[str] = deque(maxlen=1000)
        self.before: Callable[[str], None] = lambda endpoint: None  # called before each request is answered
        self._keys: Counter[str] = Counter()  # project -> last number given
        self._next_id = 10_000
        self._next_comment = 100_000
        self._index: dict[int, Indexed] = {}
        self._late: deque[tuple[datetime, int, Indexed | None]] = deque()
        self._sorted: dict[str, list[tuple[int, int]]] = {}
        self._matched: dict[str, list[Indexed]] = {}
        self.app = Starlette(
            routes=[
                Route(f"/rest/api/{{version:int}}/{path}", self._endpoint(name, answer), methods=[method])
                for method, path, name, answer in (
                    ("GET", "serverInfo", "serverInfo", self._server_info),
                    ("GET", "myself", "myself", self._myself),
                    ("GET", "field", "field", self._field),
                    ("POST", "search/jql", "search", self._search_cloud),
                    ("POST", "search/approximate-count", "count", self._count),
                    ("POST", "search", "search", self._search_data_center),
                    ("POST", "issue/bulkfetch", "bulkfetch", self._bulk_fetch),
                    ("GET", "issue/{id}", "issue", self._issue),
                    ("GET", "issue/{id}/comment", "comments", self._comments),
                )
            ]
        )

    # What happens at the site

    def create(self, project: str = "ABC", **fields: Any) -> int:
        """A new issue; `fields` as the API has them, names alone for `status`, `issuetype`, `parent` and so on."""
        self._next_id += 1
        self._keys[project] += 1
        moment = self.now()
        shown = {"summary": "", "status": "Open", "labels": [], **fields}
        issue = Issue(self._next_id, project, self._keys[project], {}, [], _ms(moment), _ms(moment))
        issue.fields = {name: _wrapped(name, value) for name, value in shown.items()}
        issue.fields |= {"project": {"key": project}, "created": _written(moment)}
        self.issues[issue.id] = issue
        self._changed(issue)
        return issue.id

    def edit(self, issue_id: int, **fields: Any) -> None:
        issue = self.issues[issue_id]
        issue.fields |= {name: _wrapped(name, value) for name, value in fields.items()}
        self._changed(issue)

    def edit_silently(self, issue_id: int, **fields: Any) -> None:
        """As `edit`, and `updated` stays."""
        issue = self.issues[issue_id]
        issue.fields |= {name: _wrapped(name, value) for name, value in fields.items()}
        self._put(issue.id, self._indexed(issue))

    def move(self, issue_id: int, project: str) -> None:
        issue = self.issues[issue_id]
        self._keys[project] += 1
        issue.project, issue.number = project, self._keys[project]
        issue.fields["project"] = {"key": project}
        self._changed(issue)

    def delete(self, issue_id: int) -> None:
        del self.issues[issue_id]
        self._put(issue_id, None)

    def comment(self, issue_id: int, body: Any, author: str = "ines", **more: Any) -> int:
        """Args: more: `visibility`, `jsdPublic`."""
        self._next_comment += 1
        stamp = _written(self.now())
        said = {"id": str(self._next_comment), "author": {"displayName": author, "accountId": f"id-{author}"}}
        said |= {"body": body, "created": stamp, "updated": stamp, **more}
        self.issues[issue_id].comments.append(said)
        self._changed(self.issues[issue_id])
        return self._next_comment

    def edit_comment(self, issue_id: int, comment_id: int, body: Any) -> None:
        issue = self.issues[issue_id]
        for comment in issue.comments:
            if comment["id"] == str(comment_id):
                comment |= {"body": body, "updated": _written(self.now())}
        self._changed(issue)

    def delete_comment(self, issue_id: int, comment_id: int) -> None:
        issue = self.issues[issue_id]
        issue.comments = [comment for comment in issue.comments if comment["id"] != str(comment_id)]
        self._changed(issue)

    def load(self, payloads: Iterable[Mapping[str, Any]]) -> None:
        """Take issues as REST v2 or v3 gives them, their times as they are; the search knows them at once."""
        for payload in payloads:
            fields = dict(payload["fields"])
            comments = list((fields.pop("comment", None) or {}).get("comments", ()))
            project, _, number = payload["key"].rpartition("-")
            created_ms, updated_ms = (
                _ms(parse_time(fields.get(name)) or datetime.fromtimestamp(0, UTC))
                for name in ("created", "updated")
            )
            issue = Issue(int(payload["id"]), project, int(number), fields, comments, created_ms, updated_ms)
            self.issues[issue.id] = issue
            self._index[issue.id] = self._indexed(issue)
            self._next_id = max(self._next_id, issue.id)
            self._keys[project] = max(self._keys[project], issue.number)
            self._next_comment = max([self._next_comment, *(int(said["id"]) for said in comments)])
        self._forget()

    def _changed(self, issue: Issue) -> None:
        moment = self.now()
        issue.updated_ms = _ms(moment)
        issue.fields["updated"] = _written(moment)
        self._put(issue.id, self._indexed(issue))

    def _put(self, issue_id: int, indexed: Indexed | None) -> None:
        self._late.append((self.now() + timedelta(seconds=self.search_lag_s), issue_id, indexed))

    def _indexed(self, issue: Issue) -> Indexed:
        return Indexed(
            issue.id,
            issue.key,
            issue.project,
            issue.created_ms,
            issue.updated_ms,
            tuple(issue.fields.get("labels") or ()),
            (issue.fields.get("status") or {}).get("name", ""),
        )

    # The search

    def _catch_up(self) -> None:
        moment = self.now()
        while self._late and self._late[0][0] <= moment:
            _, issue_id, indexed = self._late.popleft()
            self._apply(issue_id, indexed)

    def _forget(self) -> None:
        self._sorted.clear()
        self._matched.clear()

    def _query(self, body: Mapping[str, Any]) -> Query:
        text = body.get("jql") or ""
        self.queries.append(text)
        self._catch_up()
        try:
            return parse(text, zone=ZoneInfo(self.time_zone), epoch_dates=self.epoch_dates)
        except BadJql as error:
            raise _Refusal(400, str(error)) from None

    def _matches(self, query: Query, after: tuple[int, int] | None = None) -> Iterator[Indexed]:
        if query.ids is not None:
            found = [self._index[issue_id] for issue_id in query.ids if issue_id in self._index]
            found.sort(key=lambda issue: _rank(issue, query.order), reverse=query.descending)
            rows: Iterable[tuple[int, int]] = [_rank(issue, query.order) for issue in found]
        else:
            rows = self._rows(query, after)
        for row in rows:
            issue = self._index[row[1]]
            if query.ids is not None and after is not None and row <= after:
                continue
            if issue.id not in self.hidden and query.matches(issue):
                yield issue

    def _rows(self, query: Query, after: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
        rows = self._sorted.get(query.order)
        if rows is None:
            rows = sorted(_rank(issue, query.order) for issue in self._index.values())
            self._sorted[query.order] = rows
        if query.descending:
            return iter(rows[::-1] if after is None else rows[: bisect_left(rows, after)][::-1])
        start = bisect_left(rows, (query.since_ms, 0)) if after is None else bisect_right(rows, after)
        return (rows[place] for place in range(start, len(rows)))

    def _search_cloud(self, request: Request, body: Any) -> Any:
        self._only(cloud=True)
        query = self._query(body)
        if not query.bounded:
            raise _Refusal(
                400, "Unbounded JQL queries are not allowed here. Please add a search restriction."
            )
        fields = body.get("fields") or ["id"]
        slim = set(fields) <= {"id", "key"}
        most = IDS_PER_PAGE if slim else ISSUES_PER_PAGE
        limit = min(body.get("maxResults", 50), most, self.page_cap or most)
        owner = orjson.dumps([body["jql"], fields]).decode()
        after = self._after(body["nextPageToken"], owner) if body.get("nextPageToken") else None
        self._reconcile(body.get("reconcileIssues", ()))
        page = []
        for issue in self._matches(query, after) if self._sees(request) else ():
            if len(page) == limit:
                last = _rank(page[-1], query.order)
                return {
                    "issues": [self._listed(each, fields) for each in page],
                    "nextPageToken": _sealed([owner, last, self.now().timestamp()]),
                    "isLast": False,
                }
            page.append(issue)
        return {"issues": [self._listed(each, fields) for each in page], "isLast": True}

    def _reconcile(self, ids: list[int]) -> None:
        """The search catches up with these issues."""
        if len(ids) > CONSISTENT_IDS:
            raise _Refusal(400, f"reconcileIssues takes at most {CONSISTENT_IDS} ids.")
        late = [each for each in self._late if each[1] in ids]
        for each in late:
            self._late.remove(each)
            self._apply(each[1], each[2])

    def _apply(self, issue_id: int, indexed: Indexed | None) -> None:
        if indexed is None:
            self._index.pop(issue_id, None)
        else:
            self._index[issue_id] = indexed
        self._forget()

    def _after(self, token: str, owner: str) -> tuple[int, int]:
        try:
            of, (ms, issue_id), issued = orjson.loads(base64.urlsafe_b64decode(token))
        except ValueError:
            raise _Refusal(400, "The provided next page token is invalid.") from None
        if of != owner or self.now().timestamp() - issued > TOKEN_LIFE.total_seconds():
            raise _Refusal(400, "The provided next page token is invalid or expired.")
        return ms, issue_id

    def _search_data_center(self, request: Request, body: Any) -> Any:
        if not self.data_center:
            raise _Refusal(410, "The requested API has been removed. See CHANGE-2046.")
        query = self._query(body)
        if query.ids is not None and body.get("validateQuery", True) and not query.ids <= self._index.keys():
            raise _Refusal(400, "A value with that ID does not exist for the field 'id'.")
        matched = self._matched.get(body["jql"])
        if matched is None:
            matched = self._matched[body["jql"]] = list(self._matches(query))
        limit = min(body.get("maxResults", 50), self.page_cap or ROWS_OF_DATA_CENTER)
        start = body.get("startAt", 0)
        if start + limit > RESULT_WINDOW and start:
            raise _Refusal(500, "Search limit exceeded.")
        rows = matched[start : start + limit]
        fields = body.get("fields") or ["*navigable"]
        issues = [self._shown_or_listed(row, fields) for row in rows]
        self._tear({row.id for row in rows} if len(fields) > 2 else set())
        return {"startAt": start, "maxResults": limit, "total": len(matched), "issues": issues}

    def _shown_or_listed(self, row: Indexed, fields: list[str]) -> dict[str, Any]:
        """Rows come from the index, their fields from the database."""
        issue = self.issues.get(row.id)
        return self._listed(row, fields) if issue is None or len(fields) <= 2 else self._shown(issue, fields)

    def _listed(self, row: Indexed, fields: list[str]) -> dict[str, Any]:
        shown: dict[str, Any] = {"id": str(row.id)}
        if fields != ["id"]:
            shown["key"] = row.key
        moments = {"created": row.created_ms, "updated": row.updated_ms}
        inside = {name: _written(_at(moments[name])) for name in fields if name in moments}
        return {**shown, "fields": inside} if inside else shown

    def _count(self, request: Request, body: Any) -> Any:
        self._only(cloud=True)
        return {"count": sum(1 for _ in self._matches(self._query(body)))}

    # Issues by themselves

    def _bulk_fetch(self, request: Request, body: Any) -> Any:
        self._only(cloud=True)
        ids = [int(each) for each in body["issueIdsOrKeys"]]
        if len(ids) > BULK_FETCH:
            raise _Refusal(400, f"The number of issues must not exceed {BULK_FETCH}.")
        seen = [
            self.issues[each] for each in sorted(set(ids)) if each in self.issues and each not in self.hidden
        ]
        seen = seen if self._sees(request) else []
        refused = self.unhandy if len(ids) > 1 else set()
        self._tear({issue.id for issue in seen} - refused)
        return {
            "issues": [self._shown(issue, body["fields"]) for issue in seen if issue.id not in refused],
            "issueErrors": [
                {"id": str(issue.id), "errorMessage": "Payload too large."}
                for issue in seen
                if issue.id in refused
            ],
        }

    def _issue(self, request: Request, body: Any) -> Any:
        issue = self._visible(request)
        self._tear({issue.id})
        return self._shown(issue, request.query_params["fields"].split(","))

    def _comments(self, request: Request, body: Any) -> Any:
        comments = self._visible(request).comments
        if request.query_params.get("orderBy") != "created":
            raise _Refusal(400, "This server knows no other order.")
        start, asked = (int(request.query_params[name]) for name in ("startAt", "maxResults"))
        limit = min(asked, COMMENTS_PER_PAGE)
        page = comments[start : start + limit]
        return {"startAt": start, "maxResults": limit, "total": len(comments), "comments": page}

    def _visible(self, request: Request) -> Issue:
        issue_id = int(request.path_params["id"])
        if issue_id in self.forbidden:
            raise _Refusal(403, "You do not have permission to view this issue.")
        issue = self.issues.get(issue_id)
        if issue is None or issue_id in self.hidden or not self._sees(request):
            raise _Refusal(404, NOT_THERE)
        return issue

    def _shown(self, issue: Issue, fields: list[str]) -> dict[str, Any]:
        shown = {name: issue.fields[name] for name in fields if name in issue.fields}
        if "comment" in fields:
            inline = issue.comments if self.data_center else issue.comments[-INLINE_COMMENTS:]
            total = len(issue.comments)
            shown["comment"] = {"comments": inline, "total": total, "maxResults": len(inline), "startAt": 0}
        return {"expand": "renderedFields", "id": str(issue.id), "key": issue.key, "fields": shown}

    def _tear(self, ids: set[int]) -> None:
        if ids & self.broken:
            raise _Refusal(200, "torn")

    # The site itself

    def _server_info(self, request: Request, body: Any) -> Any:
        kind = "Server" if self.data_center else "Cloud"
        return {"deploymentType": kind, "serverTime": _written(self.now())}

    def _myself(self, request: Request, body: Any) -> Any:
        if self.accepts is None or not self._sees(request):
            raise _Refusal(401, "Client must be authenticated to access this resource.")
        return {"accountId": "id-headrace", "timeZone": self.time_zone}

    def _field(self, request: Request, body: Any) -> Any:
        epic = {
            "id": EPIC_FIELD,
            "custom": True,
            "schema": {"custom": "com.pyxis.greenhopper.jira:gh-epic-link"},
        }
        return [
            {"id": "summary", "schema": {"type": "string", "system": "summary"}},
            epic,
            {"id": "thumbnail"},
        ]

    def _only(self, *, cloud: bool) -> None:
        if self.data_center is cloud:
            raise _Refusal(404, "null for uri")

    def _sees(self, request: Request) -> bool:
        return self.accepts is None or request.headers.get("authorization") == self.accepts

    def _endpoint(self, name: str, answer: Callable[[Request, Any], Any]) -> Callable[[Request], Any]:
        async def respond(request: Request) -> Response:
            self.asked[name] += 1
            self.before(name)
            try:
                raw = await request.body()
                if self.data_center and (request.path_params["version"] != 2 or self._failed_login(request)):
                    missing = request.path_params["version"] != 2
                    raise _Refusal(404 if missing else 401, "null for uri" if missing else "Unauthorized")
                content = orjson.dumps(answer(request, orjson.loads(raw) if raw else None))
                return Response(content, headers=self._headers(request), media_type="application/json")
            except _Refusal as refusal:
                content = orjson.dumps({"errorMessages": [refusal.message], "errors": {}})
                if refusal.status == 200:
                    content = content[: len(content) // 2]
                headers = {**self._headers(request), **refusal.headers}
                return Response(content, refusal.status, headers, "application/json")

        return respond

    def _failed_login(self, request: Request) -> bool:
        return "authorization" in request.headers and not self._sees(request)

    def _headers(self, request: Request) -> dict[str, str]:
        known = "authorization" in request.headers and self._sees(request)
        headers = {"x-ausername": "headrace" if known else "anonymous"}
        if self._failed_login(request):
            headers["x-seraph-loginreason"] = (
                "AUTHENTICATION_DENIED" if self.captcha else "AUTHENTICATED_FAILED"
            )
        if self.captcha:
            headers["x-authentication-denied-reason"] = (
                "CAPTCHA_CHALLENGE; login-url=https://jira.example/login"
            )
        return headers


def _wrapped(name: str, value: Any) -> Any:
    """A field as the API shows it."""
    if name in ("status", "issuetype", "priority", "resolution") and isinstance(value, str):
        return {"name": value}
    return {"key": value} if name == "parent" and isinstance(value, str) else value


def _rank(issue: Indexed, order: str) -> tuple[int, int]:
    return (issue.created_ms if order == "created" else issue.updated_ms, issue.id)


def _sealed(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode()


def _ms(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def _at(ms: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)


def _written(moment: datetime) -> str:
    """As Jira writes it: milliseconds, and an offset without a colon."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}{moment:%z}"

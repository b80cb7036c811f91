"""A Jira in memory behind its REST API: Cloud v3 or Data Center v2, as strict and as awkward as the real ones.

Serve `FakeJira.app` over HTTP. What happens to issues is done by methods; every one takes its time from the clock
that was passed in, so that a test says how late it is.
"""

from __future__ import annotations

import base64
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.fakes.jira_contents import Issue, JiraContents, at, rank, written
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


class _Refusal(Exception):
    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message)
        self.status, self.message, self.headers = status, message, headers or {}


class FakeJira(JiraContents):
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
        super().__init__(now, search_lag_s)
        self.data_center = data_center
        self.accepts = accepts
        self.captcha = False  # asked for after too many failed logins
        self.time_zone = time_zone
        self.epoch_dates = epoch_dates
        self.page_cap = page_cap
        self.forbidden: set[int] = set()  # 403 when asked for by id
        self.administered: set[str] = set()  # projects whose settings the account sees though it lost them
        self.broken: set[int] = set()  # any answer with one of these is torn
        self.unhandy: set[int] = set()  # bulkfetch gives these alone, or else as issueErrors
        self.asked: Counter[str] = Counter()  # endpoint -> requests
        self.queries: deque[str] = deque(maxlen=1000)
        self.before: Callable[[str], None] = lambda endpoint: None  # called before each request is answered
        self.app = Starlette(
            routes=[
                Route(f"/rest/api/{{version:int}}/{path}", self._endpoint(name, answer), methods=[method])
                for method, path, name, answer in (
                    ("GET", "serverInfo", "serverInfo", self._server_info),
                    ("GET", "myself", "myself", self._myself),
                    ("GET", "mypermissions", "mypermissions", self._my_permissions),
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

    # The search

    def _query(self, body: Mapping[str, Any]) -> Query:
        text = body.get("jql") or ""
        self.queries.append(text)
        self.catch_up()
        try:
            query = parse(text, zone=ZoneInfo(self.time_zone), epoch_dates=self.epoch_dates)
        except BadJql as error:
            raise _Refusal(400, str(error)) from None
        for project in query.projects:
            if not self.sees_project(project):
                raise _Refusal(400, f"The value '{project}' does not exist for the field 'project'.")
        return query

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
        for issue in self.matches(query, after) if self._sees(request) else ():
            if len(page) == limit:
                last = rank(page[-1], query.order)
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
        self.catch_up(ids)

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
        if query.ids is not None and body.get("validateQuery", True) and not query.ids <= self.index.keys():
            raise _Refusal(400, "A value with that ID does not exist for the field 'id'.")
        matched = self.matched.get(body["jql"])
        if matched is None:
            matched = self.matched[body["jql"]] = list(self.matches(query))
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
        shows = (
            self.issues.get(row.id, row) if self.data_center else row
        )  # there, fields come from the database
        moments = {"created": shows.created_ms, "updated": shows.updated_ms}
        inside = {name: written(at(moments[name])) for name in fields if name in moments}
        return {**shown, "fields": inside} if inside else shown

    def _count(self, request: Request, body: Any) -> Any:
        self._only(cloud=True)
        return {"count": sum(1 for _ in self.matches(self._query(body)))}

    # Issues by themselves

    def _bulk_fetch(self, request: Request, body: Any) -> Any:
        self._only(cloud=True)
        ids = [int(each) for each in body["issueIdsOrKeys"]]
        if len(ids) > BULK_FETCH:
            raise _Refusal(400, f"The number of issues must not exceed {BULK_FETCH}.")
        there = [self.issues[each] for each in sorted(set(ids)) if each in self.issues]
        seen = [issue for issue in there if self.sees_issue(issue)]
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
        expands = "properties" in request.query_params.get("expand", "").split(",")
        page = [self._comment(each, expands) for each in comments[start : start + limit]]
        return {"startAt": start, "maxResults": limit, "total": len(comments), "comments": page}

    def _visible(self, request: Request) -> Issue:
        issue_id = int(request.path_params["id"])
        if issue_id in self.forbidden:
            raise _Refusal(403, "You do not have permission to view this issue.")
        issue = self.issues.get(issue_id)
        if issue is None or not self.sees_issue(issue) or not self._sees(request):
            raise _Refusal(404, NOT_THERE)
        return issue

    def _shown(self, issue: Issue, fields: list[str]) -> dict[str, Any]:
        shown = {name: issue.fields[name] for name in fields if name in issue.fields}
        if "project" in shown:
            is_desk = issue.project in self.service_desks
            shown["project"] = {
                **shown["project"],
                "projectTypeKey": "service_desk" if is_desk else "software",
            }
        if "comment" in fields:
            inline = issue.comments if self.data_center else issue.comments[-INLINE_COMMENTS:]
            inline = [self._comment(each, expands=False) for each in inline]
            total = len(issue.comments)
            shown["comment"] = {"comments": inline, "total": total, "maxResults": len(inline), "startAt": 0}
        return {"expand": "renderedFields", "id": str(issue.id), "key": issue.key, "fields": shown}

    def _comment(self, comment: Mapping[str, Any], expands: bool) -> dict[str, Any]:
        """Cloud says at once which are internal to a service desk; Data Center by a property, to those who ask."""
        shown = dict(comment)
        if self.data_center and (public := shown.pop("jsdPublic", None)) is not None and expands:
            shown["properties"] = [{"key": "sd.public.comment", "value": {"internal": not public}}]
        return shown

    def _tear(self, ids: set[int]) -> None:
        if ids & self.broken:
            raise _Refusal(200, "torn")

    # The site itself

    def _server_info(self, request: Request, body: Any) -> Any:
        kind = "Server" if self.data_center else "Cloud"
        return {"deploymentType": kind, "serverTime": written(self.now())}

    def _myself(self, request: Request, body: Any) -> Any:
        if self.accepts is None or not self._sees(request):
            raise _Refusal(401, "Client must be authenticated to access this resource.")
        return {"accountId": "id-headrace", "timeZone": self.time_zone}

    def _my_permissions(self, request: Request, body: Any) -> Any:
        if not self.data_center and "permissions" not in request.query_params:
            raise _Refusal(400, "The permissions query parameter is required.")
        project = request.query_params["projectKey"].upper()
        if not self._sees(request) or (not self.sees_project(project) and project not in self.administered):
            raise _Refusal(404, f"No project could be found with key '{project}'.")
        has = self.sees_project(project)
        return {"permissions": {"BROWSE_PROJECTS": {"key": "BROWSE_PROJECTS", "havePermission": has}}}

    def _field(self, request: Request, body: Any) -> Any:
        epic = {
            "id": EPIC_FIELD,
            "custom": True,
            "schema": {"custom": "com.pyxis.greenhopper.jira:gh-epic-link"},
        }
        summary = {"id": "summary", "schema": {"type": "string", "system": "summary"}}
        custom = {name for issue in self.issues.values() for name in issue.fields if "customfield" in name}
        others = [{"id": name, "custom": True} for name in sorted(custom - {EPIC_FIELD})]
        return [summary, epic, {"id": "thumbnail"}, *others]

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
        headers["date"] = format_datetime(self.now(), usegmt=True)
        if self._failed_login(request):
            headers["x-seraph-loginreason"] = (
                "AUTHENTICATION_DENIED" if self.captcha else "AUTHENTICATED_FAILED"
            )
        if self.captcha:
            headers["x-authentication-denied-reason"] = (
                "CAPTCHA_CHALLENGE; login-url=https://jira.example/login"
            )
        return headers


def _sealed(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode()

"""GitHub, as far as it is asked: an ASGI application over repositories in memory.

An answer joins bodies that were made when they changed, so that 100,000 issues cost little. Requests come one at
a time; the test may change repositories between them.
"""

from __future__ import annotations

import base64
import hashlib
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, urlencode

import jwt
import orjson

from tests.fakes.github_contents import GitHubContents, Json, Repository
from tests.fakes.serving import Receive, Send

TOKEN = "ghp_of-the-fake"
HOUR = timedelta(hours=1)

Answered = tuple[int, dict[str, str], bytes]


class FakeGitHub(GitHubContents):
    """The application.

    Args:
        now: its clock.
        tokens: those it knows; empty lets anyone in as nobody, who has no GraphQL.
        limit: requests an hour.
        page_size: the most that a page has, whatever is asked for.
        keyset: lists whose links have a place in the order (`after=`), not a page's number.
        deepest_page: links by number beyond this answer 422.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        *,
        tokens: Iterable[str] = (TOKEN,),
        limit: int = 5000,
        page_size: int = 100,
        keyset: Iterable[str] = ("issues",),
        deepest_page: int = 10**9,
    ) -> None:
        super().__init__(now)
        self.tokens = set(tokens)
        self.limit = limit
        self.page_size = page_size
        self.keyset = set(keyset)
        self.deepest_page = deepest_page
        self.graphql = True
        self.graphql_errors: list[Json] = []  # of the next queries, one each
        self.requests = Counter[tuple[str, int]]()  # (what is asked for, status)
        self.apps: dict[str, tuple[str, int]] = {}  # app id -> (public key, installation)
        self.expiring: dict[str, datetime] = {}  # installation token -> its end
        self._used = 0
        self._reset = int((now() + HOUR).timestamp())

    def app(self, app_id: int, installation_id: int, public_key: str) -> None:
        self.apps[str(app_id)] = (public_key, installation_id)

    def counted(self) -> int:
        """Requests that GitHub would have counted: all but 304."""
        return sum(count for (_, status), count in self.requests.items() if status != 304)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body = b""
        more = scope["method"] == "POST"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        status, answered, content = self._answer(scope, headers, body)
        raw = [(name.encode(), value.encode()) for name, value in answered.items()]
        raw.append((b"content-length", str(len(content)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, scope: MutableMapping[str, Any], headers: Mapping[str, str], body: bytes) -> Answered:
        path = scope["path"].removeprefix("/api/v3").replace("/api/graphql", "/graphql")
        origin = f"{scope['scheme']}://{headers['host']}{scope['path'].removesuffix(path)}"
        asked = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode()).items()}
        status, answered, content = self._limited(path, origin, asked, headers, body)
        if status == 200:
            etag = f'W/"{hashlib.blake2b(self._seen_by_etag(answered, content), digest_size=16).hexdigest()}"'
            answered["etag"] = etag
            if headers.get("if-none-match") == etag:
                status, content = 304, b""
        if status != 304:
            self._used += 1
        self.requests[_what(path), status] += 1
        rates = {
            "x-ratelimit-limit": str(self.limit),
            "x-ratelimit-remaining": str(max(0, self.limit - self._used)),
            "x-ratelimit-reset": str(self._reset),
            "x-ratelimit-resource": "graphql" if path == "/graphql" else "core",
            "date": format_datetime(self.now().astimezone(UTC), usegmt=True),
            "content-type": "application/json; charset=utf-8",
        }
        return status, rates | answered, content

    def _seen_by_etag(self, headers: Mapping[str, str], content: bytes) -> bytes:
        """The body; that more follows only where pages are smaller than any of GitHub's."""
        return content if self.page_size >= 30 else content + headers.get("link", "").encode()

    def _limited(
        self, path: str, origin: str, asked: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> Answered:
        now = self.now()
        if not 0 < self._reset - now.timestamp() <= HOUR.total_seconds() + 1:  # or the clock was set
            self._used, self._reset = 0, int((now + HOUR).timestamp())
        credential = headers.get("authorization", "").removeprefix("Bearer ").removeprefix("token ")
        if path.endswith("/access_tokens"):
            return self._installation_token(path, credential)
        end = self.expiring.get(credential)
        if credential and credential not in self.tokens and (end is None or end <= now):
            return _error(401, "Bad credentials")
        if self._used >= self.limit:
            return _error(403, "API rate limit exceeded for user ID 1.")
        if path == "/graphql":
            return (
                self._graphql(body)
                if credential
                else _error(403, "This endpoint requires you to be authenticated.")
            )
        return self._rest(path, origin, asked)

    def _rest(self, path: str, origin: str, asked: Mapping[str, str]) -> Answered:
        match = re.fullmatch(r"/(?:repos/(?P<name>[^/]+/[^/]+)|repositories/(?P<id>\d+))(?P<rest>/.*)?", path)
        if match is None:
            return _error(404, "Not Found")
        name, rest = match["name"], match["rest"] or ""
        row = int(match["id"]) if match["id"] else self.names.get(name.lower(), 0)
        repository = self.repositories.get(row)
        if repository is None or not repository.visible:
            return _error(404, "Not Found")
        if name and name.lower() != repository.full_name.lower():
            query = f"?{urlencode(asked)}" if asked else ""
            return (
                301,
                {"location": f"{origin}/repositories/{row}{rest}{query}"},
                b'{"message":"Moved Permanently"}',
            )
        return self._of_repository(repository, rest, origin, asked)

    def _of_repository(
        self, repository: Repository, rest: str, origin: str, asked: Mapping[str, str]
    ) -> Answered:
        if rest == "":
            return _ok(
                {
                    "id": repository.id,
                    "full_name": repository.full_name,
                    "has_issues": repository.has_issues,
                    "has_pull_requests": repository.has_pulls,
                }
            )
        if rest.startswith("/pulls") and not repository.has_pulls:
            return _error(404, "Not Found")
        if rest == "/pulls":
            return self._pulls_page(repository, f"{origin}/repositories/{repository.id}/pulls", asked)
        if rest in _LIST_PATHS:
            name = _LIST_PATHS[rest]
            if name == "issues" and not repository.has_issues:
                return _error(410, "Issues are disabled for this repo")
            return self._list_page(repository, name, rest, origin, asked)
        match = re.fullmatch(
            r"(/issues|/pulls|/issues/comments|/pulls/comments)/(\d+)(/reviews)?(?:/(\d+))?", rest
        )
        if match is None:
            return _error(404, "Not Found")
        kind, row, reviews, review = match[1], int(match[2]), match[3], match[4]
        if reviews:
            return self._reviews(
                repository, row, review, f"{origin}/repositories/{repository.id}{rest}", asked
            )
        if kind == "/pulls":
            found_pull = row in repository.pulls and row in repository.values["issues"]
            return _ok(self.rest_pull(repository, row)) if found_pull else _error(404, "Not Found")
        if kind == "/issues" and row in repository.moved:
            return 301, {"location": f"{origin}{repository.moved[row]}"}, b'{"message":"Moved Permanently"}'
        if kind == "/issues" and row in repository.deleted:
            return _error(410, "This issue was deleted")
        if kind == "/issues" and not repository.has_issues:
            return _error(410, "Issues are disabled for this repo")
        found = repository.lists[_LIST_PATHS[kind]].bodies.get(row)
        return (200, {}, found) if found is not None else _error(404, "Not Found")

    def _list_page(
        self, repository: Repository, name: str, rest: str, origin: str, asked: Mapping[str, str]
    ) -> Answered:
        assert asked.get("sort") == "updated", asked
        assert asked["direction"] == "asc", asked
        assert name != "issues" or asked.get("state") == "all", asked  # else GitHub lists open ones alone
        listing, size = repository.lists[name], min(int(asked.get("per_page", "30")), self.page_size)
        first = bisect_left(listing.order, (asked.get("since", ""), 0))
        page = int(asked.get("page", "1"))
        if page > self.deepest_page:
            return _error(422, "Pagination with the page parameter is not supported for large datasets")
        if "after" in asked:
            moment, row = base64.urlsafe_b64decode(asked["after"]).decode().split("|")
            start = max(first, bisect_left(listing.order, (moment, int(row) + 1)))
        else:
            start = first + (page - 1) * size
        members = listing.order[start : start + size]
        headers = {}
        if start + size < len(listing.order):
            place = {"page": str(page + 1)}
            if name in self.keyset:
                last = f"{members[-1][0]}|{members[-1][1]}"
                place["after"] = base64.urlsafe_b64encode(last.encode()).decode()
            address = f"{origin}/repositories/{repository.id}{rest}?{urlencode({**asked, **place})}"
            headers["link"] = f'<{address}>; rel="next"'
        return 200, headers, b"[" + b",".join([listing.bodies[row] for _, row in members]) + b"]"

    def _pulls_page(self, repository: Repository, address: str, asked: Mapping[str, str]) -> Answered:
        """Knows no `since`."""
        assert (asked["state"], asked["sort"], asked["direction"]) == ("all", "updated", "desc"), asked
        listed = [row for _, row in reversed(repository.lists["issues"].order) if row in repository.pulls]
        size, page = min(int(asked["per_page"]), self.page_size), int(asked.get("page", "1"))
        headers = {}
        if page * size < len(listed):
            headers["link"] = f'<{address}?{urlencode({**asked, "page": page + 1})}>; rel="next"'
        members = listed[(page - 1) * size : page * size]
        return 200, headers, orjson.dumps([self.rest_pull(repository, row) for row in members])

    def _reviews(
        self, repository: Repository, number: int, row: str | None, address: str, asked: Mapping[str, str]
    ) -> Answered:
        reviews = repository.reviews.get(number)
        if reviews is None:
            return _error(404, "Not Found")
        if row is not None:
            return _ok(reviews[int(row)]) if int(row) in reviews else _error(404, "Not Found")
        size, page = min(int(asked.get("per_page", "30")), self.page_size), int(asked.get("page", "1"))
        members = list(reviews.values())
        headers = {}
        if page * size < len(members):
            headers["link"] = f'<{address}?{urlencode({**asked, "page": page + 1})}>; rel="next"'
        return 200, headers, orjson.dumps(members[(page - 1) * size : page * size])

    def _graphql(self, body: bytes) -> Answered:
        if not self.graphql:
            return _error(404, "Not Found")
        sent = orjson.loads(body)
        name = f"{sent['variables']['owner']}/{sent['variables']['name']}"
        repository = self.repositories.get(self.names.get(name.lower(), 0))
        if repository is None:
            return _ok(
                {"data": {"repository": None}, "errors": [{"type": "NOT_FOUND", "path": ["repository"]}]}
            )
        wanted = re.search(r"reviews\(first: (\d+)\)", sent["query"])
        data: Json = {}
        errors = [self.graphql_errors.pop(0)] if self.graphql_errors else []
        for alias, number in re.findall(r"(p\d+): pullRequest\(number: (\d+)\)", sent["query"]):
            pull = repository.pulls.get(int(number))
            if pull is None:
                data[alias] = None
                errors.append({"type": "NOT_FOUND", "path": ["repository", alias]})
                continue
            data[alias] = {"baseRefName": pull["base"]["ref"], "headRefName": pull["head"]["ref"]}
            if wanted:
                members = [_graphql_review(review) for review in repository.reviews[int(number)].values()]
                first = int(wanted[1])
                data[alias]["reviews"] = {
                    "pageInfo": {"hasNextPage": len(members) > first},
                    "nodes": members[:first],
                }
        return _ok({"data": {"repository": data}} | ({"errors": errors} if errors else {}))

    def _installation_token(self, path: str, credential: str) -> Answered:
        try:
            app_id = jwt.decode(credential, options={"verify_signature": False})["iss"]
            key, installation = self.apps[app_id]
            claims = jwt.decode(
                credential, key, algorithms=["RS256"], options={"verify_exp": False, "verify_iat": False}
            )
        except (jwt.PyJWTError, KeyError):
            return _error(401, "A JSON web token could not be decoded")
        now = self.now().timestamp()
        if claims["iat"] > now or not now < claims["exp"] <= now + 600:
            return _error(401, "'Expiration time' claim ('exp') is too far in the future")
        if path != f"/app/installations/{installation}/access_tokens":
            return _error(404, "Not Found")
        token, end = f"ghs_{self._new_id()}", self.now() + HOUR
        self.expiring[token] = end
        return (
            201,
            {},
            orjson.dumps({"token": token, "expires_at": f"{end.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}),
        )


_LIST_PATHS = {"/issues": "issues", "/issues/comments": "comments", "/pulls/comments": "review_comments"}


def _what(path: str) -> str:
    """A path without names and numbers: `/issues/comments/{}`."""
    return re.sub(r"/\d+", "/{}", re.sub(r"^/(?:repos/[^/]+/[^/]+|repositories/\d+)(?=/|$)", "", path)) or "/"


def _graphql_review(review: Json) -> Json:
    author = review["user"]
    return {
        "fullDatabaseId": str(review["id"]),
        "body": review["body"],
        "state": review["state"],
        "submittedAt": review["submitted_at"],
        "url": review["html_url"],
        "author": author and {"__typename": author["type"], "login": author["login"].removesuffix("[bot]")},
    }


def _ok(value: Any) -> Answered:
    return 200, {}, orjson.dumps(value)


def _error(status: int, message: str) -> Answered:
    return status, {}, orjson.dumps({"message": message, "documentation_url": "https://docs.github.com/rest"})

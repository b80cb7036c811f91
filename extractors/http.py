"""HTTP APIs, asked patiently: limits waited out, passing failures tried again, everything bounded.

A failure is one of schemas.errors; no message, log record or representation holds a credential.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Container, Generator, Mapping
from dataclasses import dataclass
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version
from typing import Any
from urllib.request import getproxies

import httpx
import orjson
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from extractors import http_errors
from extractors.base import OnWait
from schemas.errors import (
    BrokenAnswer,
    PipelineError,
    RateLimited,
    SourceTimeout,
    SourceUnavailable,
)
from schemas.http_wire import BodyTooLarge, Bounds, Overdue, TornBody, Wire
from schemas.payloads import parse_json

MAX_WAIT_S = 2 * 3600  # of all limits met by one request
MAX_LIMITS = 20  # met by one request in a row
ATTEMPTS = 6
ATTEMPTS_AT_BROKEN = 3  # the same answer tends to be broken again
LONGEST_RETRY_WAIT_S = 30
SLEEP_STEP_S = 1  # Ctrl-C and a stop are noticed between steps
MAX_REDIRECTS = 5
BOUNDS = Bounds()
REDIRECTS = (301, 302, 303, 307, 308)

for _name in ("httpx", "httpcore"):  # they log whole addresses, queries too, and headers of answers
    logging.getLogger(_name).setLevel(logging.WARNING)


def _no_pause(answer: httpx.Response, now: datetime) -> float | None:
    return None


_turns: dict[bytes, threading.RLock] = {}


def _turn(base: httpx.URL) -> threading.RLock:
    """Held while a host is asked, so that one after the other is, whichever source it is for: GitHub wants it so.

    A thread may have it twice: to renew a token is a request within another.
    """
    return _turns.setdefault(base.netloc, threading.RLock())


class BearerToken(httpx.Auth):
    """A token that stays as it is."""

    def __init__(self, token: str) -> None:
        self._header = f"Bearer {token}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["authorization"] = self._header
        yield request


@dataclass(frozen=True, slots=True)
class Policy:
    """What differs between APIs.

    Args:
        name: of the product, for messages.
        source: name of the configured source, for messages.
        url_setting: the setting that a person changes when the address is wrong, such as `api_url`.
        token_setting: the setting to change when the credentials are.
        wait_s: (answer, which limit in a row from 1, now) -> seconds when the answer is a limit, None when it
            is anything else. Asked about every answer, those with status 200 too: GraphQL puts limits there.
        refused: one line on what a 401 or 403 of this API means.
        pause_s: (good answer, now) -> seconds to wait before the next request, None for none.
    """

    name: str
    source: str
    url_setting: str
    token_setting: str
    wait_s: Callable[[httpx.Response, int, datetime], float | None]
    refused: Callable[[httpx.Response], str]
    pause_s: Callable[[httpx.Response, datetime], float | None] = _no_pause


@dataclass(frozen=True, slots=True)
class Answer:
    """What an API said.

    Args:
        status: 2xx, 304, or one of those tolerated.
        url: where it came from, after redirects.
        body: the JSON value; None in a 204, 205 or 304, or where a tolerated 3xx or 5xx has none.
        redirected: a redirect was followed, permanent or not.
    """

    status: int
    url: str
    headers: httpx.Headers
    body: Any
    redirected: bool


@dataclass(slots=True)
class _Asking:
    """A request, and what it has met so far."""

    method: str
    url: httpx.URL
    content: bytes | None
    headers: dict[str, str]
    tolerated: Container[int]
    limits: int = 0
    waited_s: float = 0


class ApiSession:
    """One host's API, asked one request at a time, those of other sessions included. Not for several threads at once.

    Args:
        base_url: what paths are relative to, without a trailing slash.
        headers: sent with every request.
        on_wait: told before every wait why, and for how many seconds.
        bounds: of one answer.
        sleep: called with at most `SLEEP_STEP_S` at a time; what it raises ends the request.
    Raises:
        SourceUnreachable: the proxy or certificates named in the environment cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        auth: httpx.Auth | None,
        policy: Policy,
        *,
        headers: Mapping[str, str] = {},
        on_wait: OnWait,
        now: Callable[[], datetime],
        sleep: Callable[[float], None],
        bounds: Bounds = BOUNDS,
    ) -> None:
        self.requests = 0
        self._base = httpx.URL(base_url)
        self._auth = auth
        self._policy = policy
        self._on_wait = on_wait
        self._now = now
        self._sleep = sleep
        self._reached = False  # something answered
        self._proven = False  # JSON has come from there
        self._pause: tuple[datetime, float] | None = None
        try:
            self._client = httpx.Client(
                headers={
                    "accept": "application/json",
                    "accept-encoding": "gzip",
                    "user-agent": f"headrace/{version('headrace')}",
                    **headers,
                },
                timeout=httpx.Timeout(bounds.read_s, connect=bounds.connect_s),
                limits=httpx.Limits(max_connections=1),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                event_hooks={"request": [self._before_sending]},
            )
        except (OSError, ValueError, ImportError):
            unusable = http_errors.unusable_environment(policy)
        else:
            self._wire = Wire(self._client, bounds)
            return
        raise unusable

    def get(
        self,
        path: str,
        params: Mapping[str, str | int] | None = None,
        *,
        etag: str | None = None,
        tolerated: Container[int] = (),
    ) -> Answer:
        """Ask for `path`.

        Args:
            path: relative to the base, or an absolute URL of the same origin (a next link).
            etag: of the answer already known; a 304 comes back when it still holds.
            tolerated: statuses beside 2xx and 304 that are answers: a 404, or a redirect to be seen. Those of
                4xx must come with JSON, so that a page of some proxy is not taken for the API's word.
        Raises:
            RateLimited: a limit that would take longer than `MAX_WAIT_S` to wait out.
            SourceTimeout, SourceUnavailable, BrokenAnswer: still so after several attempts.
            AccessRefused, WrongAddress, QueryRefused, SourceUnreachable: a person must change something.
        """
        headers = {"if-none-match": etag} if etag and etag.isascii() else {}
        return self._ask(_Asking("GET", self._address(path, params), None, headers, tolerated))

    def post(self, path: str, body: Any, *, tolerated: Container[int] = ()) -> Answer:
        """Ask by a POST that only reads (a search, GraphQL): tried again as a GET is. Raises: as `get`."""
        headers = {"content-type": "application/json"}
        return self._ask(_Asking("POST", self._address(path, None), orjson.dumps(body), headers, tolerated))

    def close(self) -> None:
        self._client.close()

    def _address(self, path: str, params: Mapping[str, str | int] | None) -> httpx.URL:
        if "://" in path.partition("?")[0]:
            url = http_errors.same_origin(self._policy, self._base, path, "links")
        else:
            url = httpx.URL(f"{str(self._base).rstrip('/')}/{path.lstrip('/')}")
        return url.copy_merge_params(params) if params else url

    def _ask(self, asking: _Asking) -> Answer:
        self._wait_for_reserve()
        attempts = Retrying(
            retry=retry_if_exception_type((SourceTimeout, SourceUnavailable)),
            stop=_is_last_attempt,
            wait=wait_random_exponential(multiplier=1, max=LONGEST_RETRY_WAIT_S),
            sleep=self._sleep_in_steps,
            before_sleep=self._tell_of_retry,
            reraise=True,
        )
        return attempts(self._attempt, asking)

    def _attempt(self, asking: _Asking) -> Answer:
        while True:  # bounded by _wait_out
            response, redirected = self._follow(asking)
            self._reached = True
            wait_s = self._policy.wait_s(response, asking.limits + 1, self._now())
            if wait_s is None:
                return self._answer(asking, response, redirected)
            self._wait_out(asking, wait_s)

    def _follow(self, asking: _Asking) -> tuple[httpx.Response, bool]:
        url = asking.url
        for hops in range(MAX_REDIRECTS + 1):
            response = self._exchange(asking, url)
            status = response.status_code
            if status not in REDIRECTS or status in asking.tolerated:
                return response, hops > 0
            if asking.method == "POST" and status not in (307, 308):
                break  # would become a GET
            target = response.headers.get("location", "")
            url = http_errors.same_origin(self._policy, url, target, "redirects")
        raise http_errors.lost_in_redirects(self._policy, asking.url)

    def _exchange(self, asking: _Asking, url: httpx.URL) -> httpx.Response:
        failure: PipelineError
        try:
            request = self._client.build_request(
                asking.method, url, content=asking.content, headers=asking.headers
            )
            with _turn(self._base):
                return self._wire.exchange(request, self._auth)
        except (httpx.TransportError, httpx.InvalidURL, Overdue) as error:
            proxied = bool(getproxies().keys() & {"http", "https", "all"})
            failure = http_errors.of_transport(
                self._policy, url, error, first=not self._reached, proxied=proxied
            )
        except BodyTooLarge:
            failure = BrokenAnswer(
                f"{http_errors.place(self._policy, url)} sent more than this program takes at once"
            )
        except TornBody:
            failure = BrokenAnswer(f"{http_errors.place(self._policy, url)} sent a torn answer")
        raise failure  # out here: the error above knows the request, credentials and all

    def _before_sending(self, request: httpx.Request) -> None:
        """What httpx would say of a header it cannot send, it would say with the header."""
        self.requests += 1
        if not all(_SENDABLE.fullmatch(value) for _, value in request.headers.raw):
            raise http_errors.unsendable_token(self._policy, request.url)

    def _answer(self, asking: _Asking, response: httpx.Response, redirected: bool) -> Answer:
        status = response.status_code
        unchanged = status == 304 and "if-none-match" in asking.headers
        if not (200 <= status < 300 or unchanged or status in asking.tolerated):
            raise http_errors.of_status(self._policy, response)
        body = None if status in (204, 205, 304) else self._body(response, redirected)
        self._proven = self._proven or body is not None
        seconds = self._policy.pause_s(response, self._now())
        self._pause = None if seconds is None else (self._now(), seconds)
        return Answer(status, str(response.url), response.headers, body, redirected)

    def _body(self, response: httpx.Response, redirected: bool) -> Any:
        """The JSON in an answer. A 404 without is not the API's: its word may delete documents."""
        status = response.status_code
        try:
            return parse_json(response.content)
        except ValueError:
            if status >= 500 or 300 <= status < 400:
                return None
        web_page = _is_web_page(response)
        if web_page or status >= 400:
            raise http_errors.of_foreign_answer(
                self._policy, response, web_page=web_page, redirected=redirected, first=not self._proven
            )
        raise BrokenAnswer(f"{http_errors.place(self._policy, response.url)} sent what is not whole JSON")

    def _wait_out(self, asking: _Asking, seconds: float) -> None:
        """Wait until a limit is over.

        Raises:
            RateLimited: that would take too long.
        """
        seconds = max(seconds, 1.0)
        asking.limits += 1
        where = http_errors.place(self._policy, asking.url)
        if not asking.waited_s + seconds <= MAX_WAIT_S or asking.limits > MAX_LIMITS:
            raise RateLimited(f"{where} limits requests, and asks to wait {seconds:.0f} s more", seconds)
        asking.waited_s += seconds
        self._on_wait(f"{where} limits requests", seconds)
        self._sleep_in_steps(seconds)

    def _wait_for_reserve(self) -> None:
        """Wait what is left of the pause that the last good answer asked for.

        Raises:
            RateLimited: that would take too long.
        """
        if self._pause is None:
            return
        since, seconds = self._pause
        left = min(seconds, seconds - (self._now() - since).total_seconds())
        where = http_errors.place(self._policy, self._base)
        if not left <= MAX_WAIT_S:
            raise RateLimited(f"{where}: the reserve of requests is reached for {left:.0f} s", left)
        if left > 0:
            self._on_wait(f"{where}: the reserve of requests is reached", left)
            self._sleep_in_steps(left)
        self._pause = None

    def _tell_of_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._on_wait(f"{error}; trying again", state.upcoming_sleep)

    def _sleep_in_steps(self, seconds: float) -> None:
        while seconds > 0:
            step = min(seconds, SLEEP_STEP_S)
            self._sleep(step)
            seconds -= step


_SENDABLE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")


def _is_last_attempt(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return state.attempt_number >= (ATTEMPTS_AT_BROKEN if isinstance(error, BrokenAnswer) else ATTEMPTS)


def _is_web_page(response: httpx.Response) -> bool:
    kind = response.headers.get("content-type", "").lower()
    return kind.startswith(("text/html", "application/xhtml")) or response.content.lstrip()[:1] == b"<"

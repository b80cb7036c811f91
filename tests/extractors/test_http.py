"""An API is asked patiently, within bounds, and over real HTTP on loopback."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from extractors import http
from extractors.http import ApiSession, Policy
from schemas.errors import (
    AccessRefused,
    BrokenAnswer,
    PipelineError,
    QueryRefused,
    RateLimited,
    SourceTimeout,
    SourceUnavailable,
    WrongAddress,
)
from schemas.http_wire import Bounds, TornBody, decoded, retry_after_s
from tests.fakes import serving
from tests.fakes.serving import Fault, Faults, answer, serve

START = datetime(2026, 1, 1, tzinfo=UTC)
ITEMS = [{"id": number, "title": "The gate does not close"} for number in range(20)]
TAG = '"abc"'


@dataclass
class Clock:
    """Stands still but for those who sleep by it."""

    slept: list[float] = field(default_factory=list)
    told: list[tuple[str, float]] = field(default_factory=list)

    def now(self) -> datetime:
        return START + timedelta(seconds=sum(self.slept))

    def tell(self, reason: str, seconds: float) -> None:
        self.told.append((reason, seconds))


def limit_s(response: httpx.Response, attempt: int, now: datetime) -> float | None:
    if response.status_code != 429:
        return None
    asked = retry_after_s(response, now)
    return 60.0 * attempt if asked is None else asked


POLICY = Policy(
    "Mill", "tracker", "api_url", "token", wait_s=limit_s, refused=lambda response: "the token has expired"
)


async def _items(request: Request) -> Response:
    headers = {"etag": TAG, "set-cookie": "session=1; Path=/"}
    if request.headers.get("if-none-match") == TAG:
        return Response(status_code=304, headers=headers)
    return JSONResponse(ITEMS, headers=headers)


async def _echo(request: Request) -> Response:
    return JSONResponse(await request.json())


async def _empty(request: Request) -> Response:
    return Response(status_code=204)


async def _packed(request: Request) -> Response:
    body = gzip.compress(b'{"packed": true}')
    return Response(body, headers={"content-encoding": "gzip"}, media_type="application/json")


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Faults]]:
    routes = [
        Route("/api/items", _items),
        Route("/api/echo", _echo, methods=["POST"]),
        Route("/api/empty", _empty),
        Route("/api/packed", _packed),
    ]
    app = Faults(Starlette(routes=routes))
    with serve(app) as url:
        yield f"{url}/api", app


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def url(served: tuple[str, Faults]) -> str:
    return served[0]


@pytest.fixture
def api(served: tuple[str, Faults]) -> Faults:
    served[1].clear()
    return served[1]


@pytest.fixture
def session(url: str, clock: Clock, api: Faults) -> Iterator[ApiSession]:
    with opened(url, clock) as session:
        yield session


@contextmanager
def opened(
    url: str,
    clock: Clock,
    policy: Policy = POLICY,
    auth: httpx.Auth | None = None,
    bounds: Bounds = http.BOUNDS,
) -> Iterator[ApiSession]:
    session = ApiSession(
        url, None, policy, on_wait=clock.tell, now=clock.now, sleep=clock.slept.append, bounds=bounds
    )
    with closing(session):
        yield session


# Questions and answers


def test_an_answer_has_its_json_its_headers_and_where_it_came_from(session: ApiSession, url: str) -> None:
    got = session.get("/items", {"state": "all", "page": 1})
    assert (got.status, got.body, got.redirected) == (200, ITEMS, False)
    assert got.headers["etag"] == TAG
    assert got.url == f"{url}/items?state=all&page=1"


def test_a_path_is_relative_to_the_base_with_or_without_a_slash(session: ApiSession, api: Faults) -> None:
    session.get("items")
    session.get("/items")
    assert api.paths() == ["/api/items", "/api/items"]


def test_a_next_link_of_the_same_origin_is_asked_as_it_is(session: ApiSession, api: Faults, url: str) -> None:
    session.get(f"{url}/items?after=a%2Cb&page=2#part")
    assert api.requests[0].query == {"after": "a,b", "page": "2"}


def test_a_body_is_posted_as_json_and_asked_again_after_a_failure(session: ApiSession, api: Faults) -> None:
    api.next(answer(502))
    assert session.post("/echo", {"jql": "project = MILL"}).body == {"jql": "project = MILL"}
    assert [bytes(seen.body) for seen in api.requests][1:] == [b'{"jql":"project = MILL"}']


def test_what_is_still_the_same_is_said_without_a_body(session: ApiSession) -> None:
    assert session.get("/items", etag=TAG).status == 304
    assert session.get("/items", etag='"older"').body == ITEMS


def test_an_answer_without_content_has_no_body(session: ApiSession) -> None:
    assert session.get("/empty").body is None


def test_gzip_is_asked_for_and_unpacked(session: ApiSession, api: Faults) -> None:
    got = session.get("/packed")
    assert got.body == {"packed": True}
    assert "content-encoding" not in got.headers
    assert api.requests[0].headers["accept-encoding"] == "gzip"


def test_no_cookie_is_kept_and_the_program_names_itself(session: ApiSession, api: Faults) -> None:
    session.get("/items")
    session.get("/items")
    assert "cookie" not in api.requests[1].headers
    assert api.requests[1].headers["user-agent"].startswith("headrace/")


def test_every_request_is_counted(session: ApiSession, api: Faults) -> None:
    api.next(answer(503))
    api.next(serving.redirect("/api/items"))
    session.get("/items")
    session.get("/items", etag=TAG)
    assert session.requests == len(api.requests) == 4


def test_a_tolerated_status_is_an_answer(session: ApiSession, api: Faults) -> None:
    api.next(answer(404, body={"message": "Not Found"}))
    got = session.get("/items", tolerated=(404, 410))
    assert (got.status, got.body) == (404, {"message": "Not Found"})
    api.next(answer(502, body=b"<html>"))
    assert session.get("/items", tolerated=(502,)).body is None


@pytest.mark.parametrize("foreign", [serving.web_page(404), answer(404, body=b"404 page not found\n")])
def test_that_something_is_gone_is_believed_of_the_api_alone(
    session: ApiSession, api: Faults, foreign: Fault
) -> None:
    session.get("/items")
    api.next(foreign, times=2)
    assert session.get("/items", tolerated=(404,)).body == ITEMS
    api.next(foreign, times=100)
    with pytest.raises(SourceUnavailable, match="instead of JSON"):
        session.get("/items", tolerated=(404,))


def test_a_tolerated_redirect_is_shown_and_not_followed(session: ApiSession, api: Faults) -> None:
    api.next(serving.redirect("/api/elsewhere", 301))
    got = session.get("/items", tolerated=(301,))
    assert (got.status, got.headers["location"]) == (301, "/api/elsewhere")


# Redirects


def test_redirects_on_the_same_host_are_followed(session: ApiSession, api: Faults, url: str) -> None:
    api.next(serving.redirect(f"{url}/moved?page=2", 301), prefix="/api/items")
    api.next(serving.redirect("items?page=3", 307), prefix="/api/moved")
    got = session.get("/items")
    assert (got.redirected, got.url) == (True, f"{url}/items?page=3")


def test_a_redirect_without_an_end_is_given_up(session: ApiSession, api: Faults) -> None:
    api.next(serving.redirect("/api/items"), times=100)
    with pytest.raises(WrongAddress, match=r"without an end.*api_url"):
        session.get("/items")
    assert len(api.requests) == http.MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "target",
    [
        "https://login.example/?next=x",
        "http://localhost:{port}/api/items",
        "https://127.0.0.1:{port}/api/items",
        "http://me:pass@127.0.0.1:{port}/api/items",
        "//evil.example/api",
    ],
)
def test_nothing_is_sent_to_another_place(session: ApiSession, api: Faults, url: str, target: str) -> None:
    elsewhere = target.format(port=httpx.URL(url).port)
    api.next(serving.redirect(elsewhere))
    with pytest.raises(WrongAddress, match=r"redirects to .* check api_url"):
        session.get("/items")
    assert len(api.requests) == 1
    if "://" in elsewhere:
        with pytest.raises(WrongAddress, match=r"links to .* check api_url"):
            session.get(elsewhere)
        assert len(api.requests) == 1


@pytest.mark.parametrize("target", ["javascript:alert(1)", "http://[", "http://x:port/", "\u00e9" * 9, ""])
def test_a_redirect_to_no_place_at_all_is_an_error(session: ApiSession, api: Faults, target: str) -> None:
    api.next(serving.redirect(target), times=100)
    with pytest.raises(PipelineError, match="tracker"):
        session.get("/items")
    assert set(api.paths()) <= {"/api/items", "/api/" + "\u00e9" * 9}


def test_a_search_is_not_turned_into_another_request_by_a_redirect(session: ApiSession, api: Faults) -> None:
    api.next(serving.redirect("/api/items", 302))
    with pytest.raises(WrongAddress):
        session.post("/echo", {})
    api.next(serving.redirect("/api/echo", 308))
    assert session.post("/echo", {"a": 1}).body == {"a": 1}


# Limits


def test_a_limit_is_waited_out_for_as_long_as_it_says(session: ApiSession, api: Faults, clock: Clock) -> None:
    api.next(answer(429, {"retry-after": "7"}))
    assert session.get("/items").body == ITEMS
    assert [seconds for _, seconds in clock.told] == [7]
    assert "tracker" in clock.told[0][0]
    assert sum(clock.slept) == 7
    assert max(clock.slept) <= http.SLEEP_STEP_S


def test_a_limit_may_name_the_hour_at_which_it_ends(session: ApiSession, api: Faults, clock: Clock) -> None:
    api.next(answer(429, {"retry-after": "Thu, 01 Jan 2026 00:01:30 GMT"}))
    session.get("/items")
    assert sum(clock.slept) == 90


def test_a_limit_uses_up_no_attempt(session: ApiSession, api: Faults) -> None:
    for _ in range(http.ATTEMPTS - 1):
        api.next(answer(503))
        api.next(answer(429, {"retry-after": "1"}))
    assert session.get("/items").body == ITEMS


def test_limits_in_a_row_are_counted_for_the_policy(session: ApiSession, api: Faults, clock: Clock) -> None:
    api.next(answer(429), times=3)
    session.get("/items")
    assert [seconds for _, seconds in clock.told] == [60, 120, 180]


def test_a_limit_that_ends_at_once_is_still_not_asked_in_a_rush(
    session: ApiSession, api: Faults, clock: Clock
) -> None:
    api.next(answer(429, {"retry-after": "0"}), times=100)
    with pytest.raises(RateLimited):
        session.get("/items")
    assert len(api.requests) == http.MAX_LIMITS + 1
    assert sum(clock.slept) == http.MAX_LIMITS


def test_a_limit_of_many_hours_is_told_and_not_waited_for(
    session: ApiSession, api: Faults, clock: Clock
) -> None:
    api.next(answer(429, {"retry-after": "90000"}))
    with pytest.raises(RateLimited, match="90000 s") as raised:
        session.get("/items")
    assert raised.value.retry_after_s == 90000
    assert clock.slept == []


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_a_wait_that_is_no_number_is_not_waited_for(
    url: str, api: Faults, clock: Clock, seconds: float
) -> None:
    policy = Policy("Mill", "tracker", "api_url", "token", lambda *_: seconds, lambda _: "")
    with opened(url, clock, policy) as session, pytest.raises(RateLimited):
        session.get("/items")
    assert clock.slept == []


def test_ctrl_c_ends_a_wait(url: str, api: Faults, clock: Clock) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    api.next(answer(429, {"retry-after": "3600"}))
    session = ApiSession(url, None, POLICY, on_wait=clock.tell, now=clock.now, sleep=interrupted)
    with closing(session), pytest.raises(KeyboardInterrupt):
        session.get("/items")


def test_the_reserve_is_waited_for_before_the_next_request_and_not_before(
    url: str, api: Faults, clock: Clock
) -> None:
    policy = Policy("Mill", "tracker", "api_url", "token", limit_s, lambda _: "", lambda *_: 40.0)
    with opened(url, clock, policy) as session:
        session.get("/items")
        assert clock.slept == []
        clock.slept.append(30)  # spent on the answer
        session.get("/items")
    assert [seconds for _, seconds in clock.told] == [10]
    assert "reserve" in clock.told[0][0]


def test_a_reserve_that_lasts_too_long_is_told(url: str, api: Faults, clock: Clock) -> None:
    policy = Policy("Mill", "tracker", "api_url", "token", limit_s, lambda _: "", lambda *_: 1e6)
    with opened(url, clock, policy) as session:
        session.get("/items")
        with pytest.raises(RateLimited) as raised:
            session.get("/items")
    assert raised.value.retry_after_s == 1e6


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("12", 12.0),
        (" 0 ", 0.0),
        ("Thu, 01 Jan 2026 00:00:10 GMT", 10.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("9" * 4000, None),
        ("Thu, 01 Jan 2026 00:00:10", None),
        ("", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after_s(httpx.Response(429, headers={"retry-after": value}), START) == seconds


# Passing failures


@pytest.mark.parametrize(
    "fault",
    [
        answer(500),
        answer(502, body=b"<html>Bad gateway</html>"),
        answer(503, {"retry-after": "1"}),
        serving.torn(),
        serving.torn_gzip(),
        serving.not_gzip(),
        serving.limit_in_listing(),
        answer(200, body=b""),
        answer(200, {"content-encoding": "br"}, b"[]"),
    ],
)
def test_a_passing_failure_is_tried_again(
    session: ApiSession, api: Faults, clock: Clock, fault: Fault
) -> None:
    api.next(fault, times=2)
    assert session.get("/items").body == ITEMS
    assert len(api.requests) == 3
    assert sum(seconds for _, seconds in clock.told) == pytest.approx(sum(clock.slept))


@pytest.mark.parametrize(
    ("fault", "attempts", "error"),
    [
        (answer(503), http.ATTEMPTS, SourceUnavailable),
        (serving.torn(), http.ATTEMPTS, SourceUnavailable),
        (serving.not_gzip(), http.ATTEMPTS_AT_BROKEN, BrokenAnswer),
        (serving.limit_in_listing(), http.ATTEMPTS_AT_BROKEN, BrokenAnswer),
    ],
)
def test_a_failure_that_does_not_pass_is_told_after_some_attempts(
    session: ApiSession, api: Faults, fault: Fault, attempts: int, error: type[PipelineError]
) -> None:
    api.next(fault, times=100)
    with pytest.raises(error) as raised:
        session.get("/items")
    assert type(raised.value) is error
    assert len(api.requests) == attempts


@pytest.mark.shared_data
def test_a_listing_torn_by_a_limit_as_it_really_happened_is_asked_for_again(
    session: ApiSession, api: Faults, shared_data: Any
) -> None:
    for path in sorted((shared_data / "github" / "malformed").iterdir()):
        api.next(answer(200, body=path.read_bytes()))
        assert session.get("/items").body == ITEMS


def test_a_slow_answer_is_given_up(url: str, api: Faults, clock: Clock) -> None:
    api.next(serving.slow(5), times=100)
    bounds = Bounds(read_s=0.02)
    with opened(url, clock, bounds=bounds) as session, pytest.raises(SourceTimeout, match="in time"):
        session.get("/items")
    assert len(api.requests) == http.ATTEMPTS


def test_an_answer_that_comes_byte_by_byte_is_given_up(url: str, api: Faults, clock: Clock) -> None:
    api.next(serving.dripping(0.005), times=100)
    bounds = Bounds(total_s=0.05)
    with opened(url, clock, bounds=bounds) as session, pytest.raises(SourceTimeout, match="in time"):
        session.get("/items")


def test_an_answer_too_large_is_given_up_before_it_is_unpacked(url: str, api: Faults, clock: Clock) -> None:
    api.next(serving.gzip_bomb(8), times=100)
    bounds = Bounds(max_bytes=100_000)
    with opened(url, clock, bounds=bounds) as session, pytest.raises(BrokenAnswer, match="more than"):
        session.get("/items")


def test_unpacking_holds_little_more_than_the_bound() -> None:
    bomb = gzip.compress(bytes(8 << 20))
    with pytest.raises(http.BodyTooLarge):
        decoded(iter([bomb]), "gzip", 1000)
    assert decoded([gzip.compress(b"ab")], "gzip", 2) == b"ab"
    with pytest.raises(http.BodyTooLarge):
        decoded([b"ab", b"c"], "", 2)


@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=5))
def test_a_body_is_the_same_in_whatever_pieces_it_comes(body: bytes, cuts: list[int]) -> None:
    packed = gzip.compress(body)
    places = [0, *sorted(cuts), len(packed)]
    pieces = [packed[a:b] for a, b in pairwise(places)]
    assert decoded(pieces, "gzip", 300) == body
    with pytest.raises(TornBody):
        decoded([*pieces, b"more"], "gzip", 300)
    with pytest.raises(TornBody):
        decoded([packed[:-1]], "gzip", 300)


# Whatever happens


@dataclass(frozen=True)
class Mishap:
    """A fault, and what it does to a request that meets it."""

    name: str
    fault: Fault
    limit_s: float | None = None
    passing: bool = False
    broken: bool = False
    error: type[PipelineError] = PipelineError


LIMITS = st.integers(0, 4000).map(
    lambda s: Mishap(f"limit {s}", answer(429, {"retry-after": str(s)}), limit_s=max(1, s))
)
OTHERS = st.sampled_from(
    [
        Mishap("503", answer(503), passing=True, error=SourceUnavailable),
        Mishap("torn", serving.torn(), passing=True, error=SourceUnavailable),
        Mishap("spliced", serving.limit_in_listing(), passing=True, broken=True, error=BrokenAnswer),
        Mishap("not gzip", serving.not_gzip(), passing=True, broken=True, error=BrokenAnswer),
        Mishap("web page", serving.web_page(), error=WrongAddress),
        Mishap("401", answer(401), error=AccessRefused),
        Mishap("404", answer(404), error=WrongAddress),
        Mishap("422", answer(422), error=QueryRefused),
        Mishap("elsewhere", serving.redirect("https://login.example/"), error=WrongAddress),
    ]
)


def expected(mishaps: list[Mishap]) -> type[PipelineError] | None:
    """The error that a request ends with, None for the good answer: a model of the promises."""
    attempts, limits, waited_s = 0, 0, 0.0
    for mishap in mishaps:
        if mishap.limit_s is not None:
            limits, waited_s = limits + 1, waited_s + mishap.limit_s
            if limits > http.MAX_LIMITS or waited_s > http.MAX_WAIT_S:
                return RateLimited
        elif mishap.passing:
            attempts += 1
            if attempts >= (http.ATTEMPTS_AT_BROKEN if mishap.broken else http.ATTEMPTS):
                return mishap.error
        else:
            return mishap.error
    return None


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mishaps=st.lists(st.one_of(LIMITS, LIMITS, OTHERS), max_size=25))
def test_whatever_comes_before_it_a_good_answer_or_a_typed_error_is_reached_within_bounds(
    url: str, api: Faults, mishaps: list[Mishap]
) -> None:
    api.clear()
    clock = Clock()
    for mishap in mishaps:
        api.next(mishap.fault)
    error = expected(mishaps)
    with opened(url, clock) as session:
        if error is None:
            assert session.get("/items").body == ITEMS
        else:
            with pytest.raises(PipelineError) as raised:
                session.get("/items")
            assert type(raised.value) is error
    assert len(api.requests) == session.requests <= http.MAX_LIMITS + http.ATTEMPTS + 1
    assert sum(clock.slept) == pytest.approx(sum(seconds for _, seconds in clock.told))
    assert sum(clock.slept) <= http.MAX_WAIT_S + http.ATTEMPTS * http.LONGEST_RETRY_WAIT_S
    assert max(clock.slept, default=0) <= http.SLEEP_STEP_S

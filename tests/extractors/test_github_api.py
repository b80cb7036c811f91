"""Which answers of GitHub are limits, for how long, and how an App keeps its token."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from extractors.github_api import answered_at, graphql_url, pause_s, refused, wait_s
from schemas.documents import Kind
from schemas.errors import AccessRefused, BadConfig
from tests.extractors.github_world import START, World, populated
from tests.fakes.serving import App, Receive, Send
from tests.fakes.serving import answer as fault

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMIT = {"message": "API rate limit exceeded for user ID 1."}
SECONDARY = {"message": "You have exceeded a secondary rate limit. Please wait a few minutes."}
ABUSE = {"message": "You have triggered an abuse detection mechanism."}
NO_SCOPE = {"message": "Resource not accessible by personal access token"}


def in_s(seconds: int) -> str:
    return str(int(NOW.timestamp()) + seconds)


def response(status: int, body: Any, url: str = "https://api.github.com/x", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=body, headers=named, request=httpx.Request("GET", url))


@pytest.mark.parametrize(
    ("answer", "attempt", "expected"),
    [
        (response(403, SECONDARY, retry_after="17", x_ratelimit_remaining="0"), 1, 17),
        (response(429, {}, retry_after="17"), 3, 17),
        (response(403, LIMIT, x_ratelimit_remaining="0", x_ratelimit_reset=in_s(90)), 1, 91),
        (response(429, LIMIT, x_ratelimit_remaining="0", x_ratelimit_reset=in_s(90)), 1, 91),
        (response(403, LIMIT, x_ratelimit_remaining="0", x_ratelimit_reset=in_s(-5)), 1, 60),
        (response(403, LIMIT, x_ratelimit_remaining="0"), 2, 120),
        (response(403, SECONDARY, x_ratelimit_remaining="4000"), 1, 60),
        (response(403, SECONDARY), 3, 240),
        (response(403, SECONDARY), 500, 900),
        (response(403, ABUSE), 1, 60),
        (response(429, None), 1, 60),
        (response(403, NO_SCOPE, x_ratelimit_remaining="4000", x_ratelimit_reset=in_s(90)), 1, None),
        (response(403, None), 1, None),
        (response(404, LIMIT, retry_after="17"), 1, None),
        (response(200, {"errors": [{"type": "RATE_LIMITED"}]}), 1, None),
    ],
)
def test_a_limit_is_told_from_a_refusal(answer: httpx.Response, attempt: int, expected: float | None) -> None:
    assert wait_s(answer, attempt, NOW) == expected


def test_graphql_says_its_limit_with_a_good_status() -> None:
    url = "https://api.github.com/graphql"
    body = {"errors": [{"type": "RATE_LIMITED", "message": "API rate limit exceeded"}]}
    assert wait_s(response(200, body, url, x_ratelimit_reset=in_s(30)), 1, NOW) == 31
    assert wait_s(response(200, body, url), 2, NOW) == 120
    assert wait_s(response(200, {"data": {"title": "RATE_LIMITED"}}, url), 1, NOW) is None


def test_the_reset_is_counted_by_the_clock_of_the_server() -> None:
    headers = {"x_ratelimit_remaining": "0", "x_ratelimit_reset": in_s(90)}
    late = response(403, LIMIT, date="Sun, 01 Mar 2026 12:01:00 GMT", **headers)
    assert wait_s(late, 1, NOW) == 31
    assert answered_at(late.headers, NOW) == NOW + timedelta(minutes=1)
    for date in ("yesterday", "", "Sun, 01 Mar 2026 12:01:00"):
        assert answered_at(httpx.Headers({"date": date}), NOW) == NOW


@pytest.mark.parametrize(
    ("remaining", "limit", "reserve", "expected"),
    [
        ("201", "5000", 200, None),
        ("200", "5000", 200, 61),
        ("16", "60", 200, None),
        ("15", "60", 200, 61),
        ("0", "5000", 0, 61),
        ("1", "5000", 0, None),
        ("many", "5000", 200, None),
    ],
)
def test_a_reserve_is_left(remaining: str, limit: str, reserve: int, expected: float | None) -> None:
    headers = {"x_ratelimit_remaining": remaining, "x_ratelimit_limit": limit, "x_ratelimit_reset": in_s(60)}
    assert pause_s(response(200, [], **headers), NOW, reserve) == expected


def test_a_refusal_says_what_is_missing() -> None:
    assert "expired" in refused(response(401, {"message": "Bad credentials"}))
    assert "issues, pull requests and metadata" in refused(response(403, NO_SCOPE))
    assert "single sign-on" in refused(response(403, {}, x_github_sso="required; url=https://x"))


def test_graphql_is_beside_the_rest_api() -> None:
    assert graphql_url("https://api.github.com") == "https://api.github.com/graphql"
    assert graphql_url("https://git.example.com/api/v3") == "https://git.example.com/api/graphql"


KEY = rsa.generate_private_key(65537, 2048)
PUBLIC = KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def pem(key: Any) -> str:
    written: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return written.decode()


@pytest.fixture
def app(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of an App that the world knows, and of nothing else that it would let in."""
    monkeypatch.setenv("KEY", pem(KEY))
    world.github.tokens = set()
    world.github.app(7, 70, PUBLIC.decode())
    populated(world)
    return {"token": None, "app_id": 7, "installation_id": 70, "private_key": "env:KEY"}


def test_an_app_reads_with_the_token_of_its_installation(world: World, app: dict[str, Any]) -> None:
    assert len(world.read(**app)) == 6
    assert world.asked()["/app/installations/{}/access_tokens 201"] == 1


def test_the_token_is_renewed_in_the_middle_of_a_run(world: World, app: dict[str, Any]) -> None:
    with world.source(**app) as source:
        pages = source.pages(None)
        next(pages)
        world.clock.moment += timedelta(minutes=56)  # the token has four left
        kinds = {record.kind for page in pages for record in page.records}
    assert kinds >= {Kind.COMMENT, Kind.REVIEW_COMMENT}
    assert world.asked()["/app/installations/{}/access_tokens 201"] == 2


def test_a_token_that_was_revoked_is_renewed_once(world: World, app: dict[str, Any]) -> None:
    with world.source(**app) as source:
        pages = source.pages(None)
        next(pages)
        world.github.expiring.clear()
        assert sum(len(page.records) for page in pages) == 3


def test_the_statement_of_an_app_is_short_lived_and_tolerates_a_slow_clock(
    world: World, app: dict[str, Any]
) -> None:
    world.read(**app)
    (statement,) = [
        seen.headers["authorization"] for seen in world.faults.requests if seen.path.endswith("access_tokens")
    ]
    claims = jwt.decode(statement.removeprefix("Bearer "), options={"verify_signature": False})
    now = int((START + timedelta(minutes=1)).timestamp())
    assert (claims["iat"], claims["iss"]) == (now - 60, "7")
    assert claims["exp"] - claims["iat"] <= 600


@pytest.mark.parametrize(
    ("change", "line"),
    [({"installation_id": 71}, "no installation 71"), ({"app_id": 8}, "check app_id and private_key")],
)
def test_an_app_that_is_not_known_names_the_setting(
    world: World, app: dict[str, Any], change: dict[str, Any], line: str
) -> None:
    with pytest.raises(AccessRefused, match=line) as caught:
        world.read(**app | change)
    assert "PRIVATE KEY" not in str(caught.value)


def test_an_app_that_lacks_a_permission_is_told_where(world: World, app: dict[str, Any]) -> None:
    world.faults.next(fault(403, {}, NO_SCOPE), prefix="/repos")
    with pytest.raises(AccessRefused, match="check the permissions of the App's installation"):
        world.read(**app)


@pytest.mark.parametrize("key", ["not a key", pem(ec.generate_private_key(ec.SECP256R1()))])
def test_what_is_no_private_key_is_refused_without_showing_it(
    world: World, app: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", key)
    with pytest.raises(
        BadConfig, match=r"source gh: private_key: expected the App's RSA private key"
    ) as caught:
        world.read(**app)
    assert key not in str(caught.value)


def test_two_sources_never_ask_one_host_at_the_same_time(world: World, app: dict[str, Any]) -> None:
    at_once, most = 0, 0

    async def counted(inner: App, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        await inner(scope, receive, send)
        at_once -= 1

    world.faults.next(counted, times=10**6)

    def read() -> int:
        with world.source(**app) as source:
            return sum(page.read for page in source.pages(None))

    with ThreadPoolExecutor() as threads:
        readings = [threads.submit(read) for _ in range(4)]
    assert [reading.result() for reading in readings] == [6] * 4
    assert most == 1

"""Who asks, how patiently, and what a person is told when Jira refuses."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from extractors import jira_session
from extractors.base import Reference
from extractors.read import to_document
from schemas.documents import Kind
from schemas.errors import AccessRefused, BadConfig, QueryRefused, WrongAddress
from tests.extractors.jira_world import START, World, world
from tests.fakes.serving import answer, serve, web_page

SECRET = "s3cr3t-t0ken"
BASIC = "Basic " + base64.b64encode(f"ines@example.invalid:{SECRET}".encode()).decode()


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER_TOKEN", SECRET)


@pytest.fixture(params=["cloud", "data_center"])
def w(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(data_center=request.param == "data_center") as made:
        made.jira.create(summary="s")
        yield made


@pytest.mark.parametrize(
    ("options", "header"),
    [
        ({"user": "ines@example.invalid", "token": "env:TRACKER_TOKEN"}, BASIC),
        ({"token": "env:TRACKER_TOKEN"}, f"Bearer {SECRET}"),
        ({}, None),
    ],
)
def test_each_request_carries_the_credentials(options: dict[str, Any], header: str | None, w: World) -> None:
    w.jira.accepts = header
    site = w.site(**options)
    w.sync(site)
    w.sync(site)
    assert w.summaries() == w.truth()
    assert {seen.headers.get("authorization") for seen in w.faults.requests} == {header}
    assert w.jira.asked["myself"] == (1 if header else 0)
    assert w.jira.asked["serverInfo"] == 1


def test_a_gateway_is_asked_while_links_stay_on_the_site(w: World) -> None:
    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"].startswith("/ex/jira/1-2-3/rest/")
        await w.faults({**scope, "path": scope["path"].removeprefix("/ex/jira/1-2-3")}, receive, send)

    with serve(gateway) as url:
        site = w.site(site_url="https://acme.example", api_url=f"{url}/ex/jira/1-2-3")
        w.sync(site)
    assert w.summaries() == w.truth()
    (record,) = w.held.values()
    assert record.locator.startswith("https://acme.example")
    assert (
        to_document(record, w.settings(site_url="https://acme.example")).url
        == "https://acme.example/browse/ABC-1"
    )


@pytest.mark.parametrize("captcha", [False, True])
def test_refused_credentials_are_one_line_that_names_the_setting(captcha: bool, w: World) -> None:
    w.jira.accepts, w.jira.captcha = "Bearer another", captcha
    with pytest.raises(AccessRefused) as caught:
        w.sync(w.site(token="env:TRACKER_TOKEN"))
    line = str(pickle.loads(pickle.dumps(caught.value)))
    assert line.startswith('source "tracker": Jira at 127.0.0.1')
    assert ("CAPTCHA" if captcha else "expired or was revoked") in line
    assert line.endswith("check token")
    assert SECRET not in line
    assert "\n" not in line


def test_a_token_revoked_on_the_way_deletes_nothing(w: World) -> None:
    w.jira.accepts = f"Bearer {SECRET}"
    site = w.site(token="env:TRACKER_TOKEN")
    w.sync(site)
    w.jira.accepts = "Bearer another"  # Cloud answers 200, with nothing in it, and 404
    number = next(iter(w.held))
    with pytest.raises(AccessRefused):
        list(site.look_again([Reference(Kind.ISSUE, number)]))
    with pytest.raises(AccessRefused):
        list(site.census())
    with pytest.raises(AccessRefused):
        w.sync(site)


def test_a_token_that_is_not_set_says_where_it_was_looked_for(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRACKER_TOKEN")
    with pytest.raises(
        BadConfig, match=r"sources\.tracker\.token: environment variable TRACKER_TOKEN is not set"
    ):
        w.sync(w.site(token="env:TRACKER_TOKEN"))


def test_an_address_that_is_no_jira_names_the_setting(w: World) -> None:
    w.faults.next(web_page(), times=1000)
    with pytest.raises(WrongAddress, match="check site_url"):
        w.sync()
    w.faults.clear()
    with pytest.raises(WrongAddress, match="check api_url"):
        w.sync(w.site(api_url=f"{w.url}/nowhere"))


def test_the_wrong_deployment_is_named_where_it_is_wrong(w: World) -> None:
    with pytest.raises(WrongAddress, match="correct deployment, or leave it out"):
        w.sync(w.site(deployment="cloud" if w.jira.data_center else "data_center"))
    w.faults.next(answer(404), prefix=f"/rest/api/{2 if w.jira.data_center else 3}/search")
    with pytest.raises(WrongAddress, match="check site_url"):
        w.sync(w.site(deployment="data_center" if w.jira.data_center else "cloud"))


def test_a_query_that_is_not_understood_names_its_settings(w: World) -> None:
    for options in ({}, {"projects": ["ABC"]}):
        with pytest.raises(QueryRefused, match="`jql` is not understood"):
            w.sync(w.site(jql="nonsense = 3", **options))
    assert w.site(jql="nonsense = 3").estimate(None) is None


@pytest.mark.parametrize("fields", [{"customfield_77": "Steps"}, {"Steps": "customfield_10042"}])
def test_a_custom_field_that_is_not_there_is_named(
    fields: dict[str, str], w: World, caplog: pytest.LogCaptureFixture
) -> None:
    w.jira.create(summary="s", customfield_10042="known")
    w.sync(w.site(custom_fields={**fields, "customfield_10042": "Acceptance criteria"}))
    (unknown,) = fields
    assert [record.getMessage() for record in caplog.records] == [
        f"tracker: Jira has no field {unknown} that this account sees: check custom_fields"
    ]
    assert w.summaries() == w.truth()


def test_fields_that_may_not_be_listed_stop_no_one(w: World, caplog: pytest.LogCaptureFixture) -> None:
    with world() as cloud:
        cloud.jira.create(summary="s")
        cloud.faults.next(answer(403), prefix="/rest/api/3/field")
        cloud.sync(cloud.site(custom_fields={"customfield_77": "Steps"}))
        assert cloud.summaries() == cloud.truth()
    assert caplog.records == []


def test_limits_are_waited_out_and_shown(w: World) -> None:
    reset = (START + timedelta(seconds=90)).isoformat()
    for headers in (
        {"retry-after": "7"},
        {"x-ratelimit-reset": reset, "ratelimit-reason": "jira-burst-based"},
    ):
        w.faults.next(answer(429, headers), prefix="/rest/api", method="POST")
    w.sync()
    assert w.summaries() == w.truth()
    assert w.clock.slept_s == 7 + 83
    assert len(w.waits) == 2
    assert "limits requests" in w.waits[0]


def test_the_estimate_is_what_jira_counts(w: World) -> None:
    for _ in range(4):
        w.clock.pass_s(1000)
        w.jira.create(summary="s")
    assert w.site().estimate(None) == 5
    w.sync()
    w.clock.pass_s(1000)
    w.jira.create(summary="s")
    assert w.site().estimate(w.cursor) == 2
    w.faults.next(answer(500), prefix="/rest/api", times=100)
    assert w.site().estimate(w.cursor) is None


NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "headers", "attempt", "expected"),
    [
        (200, {"retry-after": "5"}, 1, None),
        (403, {"retry-after": "5"}, 1, None),
        (429, {"retry-after": "5"}, 1, 5),
        (429, {"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"}, 1, 30),
        (503, {"retry-after": "5"}, 1, 5),
        (503, {}, 1, None),
        (429, {"x-ratelimit-reset": "2026-03-01T12:01:00Z"}, 1, 60),
        (429, {"x-ratelimit-reset": "2026-03-01T11:01Z"}, 1, 0),
        (429, {"x-ratelimit-interval-seconds": "12", "x-ratelimit-fillrate": "10"}, 1, 12),
        (429, {"x-ratelimit-reset": "1772366460"}, 1, 5),  # no ISO 8601
        (429, {}, 1, 5),
        (429, {}, 3, 20),
        (429, {}, 5000, 300),
    ],
)
def test_a_limit_is_told_from_a_failure_and_says_how_long(
    status: int, headers: dict[str, str], attempt: int, expected: float | None
) -> None:
    assert jira_session.wait_s(httpx.Response(status, headers=headers), attempt, NOW) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"x-ratelimit-remaining": "3", "x-ratelimit-interval-seconds": "12"}, None),
        ({"x-ratelimit-remaining": "0", "retry-after": "0", "x-ratelimit-interval-seconds": "12"}, 12),
        ({"x-ratelimit-remaining": "0", "retry-after": "4"}, 4),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "2026-03-01T12:00:09+00:00"}, 9),
        ({"x-ratelimit-remaining": "0"}, None),
    ],
)
def test_a_bucket_that_ran_dry_is_let_fill(headers: dict[str, str], expected: float | None) -> None:
    assert jira_session.pause_s(httpx.Response(200, headers=headers), NOW) == expected

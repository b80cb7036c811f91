"""People hear once of a budget that reaches a level, in every way there is."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from schemas.allowances import Budget
from schemas.errors import BudgetUsedUp
from tests.fakes.serving import Faults, Receive, Send, answer, serve, slow
from tests.transforms.allowance.world import World, new_client, request, rule
from transforms.allowance import alerts
from transforms.allowance.alerts import CHANNEL, post_to
from transforms.allowance.shared import SharedAllowance

Heard = Callable[[], list[dict[str, Any]]]


async def taken(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def hook() -> Iterator[tuple[str, Faults]]:
    """A webhook's address, and what arrives there."""
    app = Faults(taken)
    with serve(app) as url:
        yield f"{url}/services/s3cret", app


@pytest.fixture
def heard(world: World) -> Iterator[Heard]:
    """Every message since it was last asked."""
    with psycopg.connect(world.store.dsn, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        yield lambda: [json.loads(notice.payload) for notice in listener.notifies(timeout=0.2)]


def spend(worker: SharedAllowance, client: str, usd: str) -> None:
    worker.settle(worker.reserve(request(client, usd)), 1, Decimal(usd))


def test_eight_workers_that_cross_at_once_tell_it_once(
    world: World,
    connection: psycopg.Connection,
    heard: Heard,
    hook: tuple[str, Faults],
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = new_client()
    rule(connection, Budget(client=client, monthly_usd=Decimal("0.1"), alert_threshold=Decimal("0.5")))
    workers = [world.worker(post_to(hook[0])) for _ in range(8)]
    for worker in workers:
        spend(worker, client, "0.006")
    assert heard() == []
    all_there = threading.Barrier(8)

    def cross(worker: SharedAllowance) -> None:
        reservation = worker.reserve(request(client, "0.005"))
        all_there.wait()
        worker.settle(reservation, 1, Decimal("0.005"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(cross, workers))
    (message,) = heard()
    assert (message["client"], message["provider"], message["month"]) == (client, "*", "2026-11")
    assert (message["kind"], message["level_usd"], message["monthly_usd"]) == ("threshold", "0.05", "0.1")
    assert Decimal("0.05") <= Decimal(message["spent_usd"]) <= Decimal("0.088")
    (posted,) = hook[1].requests
    assert (posted.method, posted.path) == ("POST", "/services/s3cret")
    assert json.loads(bytes(posted.body)) == message
    rows = connection.execute(
        "SELECT client, month, kind, level_usd, spent_usd FROM ai_budget_alerts"
    ).fetchall()
    assert rows == [(client, date(2026, 11, 1), "threshold", Decimal("0.05"), Decimal(message["spent_usd"]))]
    (line,) = [record.message for record in caplog.records]
    assert f"client {client} at * in 2026-11" in line


def test_next_month_and_a_raised_budget_are_told_anew(
    world: World, connection: psycopg.Connection, heard: Heard
) -> None:
    client, worker = new_client(), world.worker()
    rule(connection, Budget(client=client, provider="openai", monthly_usd=Decimal("0.02")))
    spend(worker, client, "0.016")
    spend(worker, client, "0.002")
    assert [one["kind"] for one in heard()] == ["threshold"]
    with pytest.raises(BudgetUsedUp):
        spend(worker, client, "0.003")
    with pytest.raises(BudgetUsedUp):
        spend(world.worker(), client, "0.003")
    assert [(one["kind"], one["provider"]) for one in heard()] == [("used_up", "openai")]
    rule(connection, Budget(client=client, provider="openai", monthly_usd=Decimal("0.05")))
    spend(world.worker(), client, "0.004")
    heard()
    spend(worker, client, "0.02")
    assert [(one["kind"], one["level_usd"]) for one in heard()] == [("threshold", "0.04")]
    world.clock.now = datetime(2026, 12, 1, tzinfo=UTC)
    spend(worker, client, "0.039")
    assert heard() == []
    spend(worker, client, "0.002")
    assert [(one["kind"], one["month"]) for one in heard()] == [("threshold", "2026-12")]


def test_the_end_of_a_budget_that_was_raised_meanwhile_is_not_told(
    world: World, connection: psycopg.Connection, heard: Heard
) -> None:
    client, worker = new_client(), world.worker()
    rule(connection, Budget(client=client, monthly_usd=Decimal("0.02"), alert_threshold=Decimal(1)))
    spend(worker, client, "0.018")
    rule(connection, Budget(client=client, monthly_usd=Decimal(1)))
    spend(worker, client, "0.01")
    assert heard() == []


def test_where_readers_may_listen_the_message_in_postgres_says_nothing(
    world: World, connection: psycopg.Connection
) -> None:
    client = new_client()
    rule(connection, Budget(client=client, monthly_usd=Decimal("0.01")))
    connection.execute("INSERT INTO client_readers (reader, client) VALUES (current_user::regrole, 'other')")
    posted: list[bytes] = []
    with psycopg.connect(world.store.dsn, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        spend(world.worker(posted.append), client, "0.009")
        assert [notice.payload for notice in listener.notifies(timeout=0.2)] == [""]
    assert len(posted) == 1


def test_a_webhook_that_fails_is_only_logged_without_its_address(
    world: World, connection: psycopg.Connection, hook: tuple[str, Faults], caplog: pytest.LogCaptureFixture
) -> None:
    """It is not tried again: the row and the message in Postgres are there."""
    url, app = hook
    app.next(answer(500))
    app.next(answer(302, {"location": "http://127.0.0.1:1/"}))
    for address in (url, url, "http://127.0.0.1:1/s3cret"):
        client = new_client()
        rule(connection, Budget(client=client, monthly_usd=Decimal("0.01")))
        spend(world.worker(post_to(address)), client, "0.009")
    assert connection.execute("SELECT count(*) FROM ai_budget_alerts").fetchone() == (3,)
    assert len(app.requests) == 2
    said = [record.getMessage() for record in caplog.records if "webhook" in record.getMessage()]
    assert [line.removesuffix("; the alert is stored") for line in said] == [
        "allowance.webhook answers 500",
        "allowance.webhook answers 302",
        "allowance.webhook fails (ConnectError)",
    ]
    assert "s3cret" not in caplog.text


@pytest.mark.alone
def test_nobody_waits_long_for_a_webhook(
    hook: tuple[str, Faults], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "WEBHOOK_TIMEOUT_S", 0.2)
    hook[1].next(slow(6))
    began = time.monotonic()
    post_to(hook[0])(b"{}")
    assert time.monotonic() - began < 5
    assert "no answer in 0.2 s" in caplog.text


def test_an_alert_that_cannot_be_stored_holds_up_no_request_and_is_told_later(
    world: World, connection: psycopg.Connection, heard: Heard
) -> None:
    client, worker = new_client(), world.worker()
    rule(connection, Budget(client=client, monthly_usd=Decimal("0.01")))
    with connection.transaction():
        connection.execute("LOCK TABLE ai_budget_alerts")
        worker._session.run(lambda own: own.execute("SET lock_timeout = '50ms'"))
        reservation = worker.reserve(request(client, "0.009"))
        worker.settle(reservation, 1, Decimal("0.009"))
    assert heard() == []
    worker.reserve(request(client, "0.0001"))
    assert [one["kind"] for one in heard()] == ["threshold"]
    assert world.spent(client) == Decimal("0.0091")

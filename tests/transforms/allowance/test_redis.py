"""Redis may forget, or remember what is long past: budgets hold all the same."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
import redis

from schemas.allowances import Budget
from schemas.errors import BadConfig, BudgetUsedUp, LimitReached, SinkUnavailable
from tests.fakes.redis_server import free_port, running_redis
from tests.transforms.allowance.world import NOON, Clock, World, bill, new_client, request, rule
from transforms.allowance import redis as redis_books
from transforms.allowance.redis import NOTE_AHEAD, RedisBooks, connect
from transforms.postgres import Store

CENT = Decimal("0.01")


def test_after_a_flush_nothing_is_granted_until_all_under_way_is_in_the_ledger(
    redis_world: World, connection: psycopg.Connection
) -> None:
    client, worker = new_client(), redis_world.worker()
    rule(connection, Budget(client=client, monthly_usd=3 * CENT))
    done, under_way = worker.reserve(request(client)), worker.reserve(request(client))
    bill(connection, done, NOON, 100, CENT)
    worker.settle(done, 100, CENT)
    redis_world.flush()
    for each in (worker, redis_world.worker()):
        with pytest.raises(LimitReached, match="counted anew from the ledger") as caught:
            each.reserve(request(client, "0.02"))
        assert caught.value.kind == "recovery"
        assert 90 <= caught.value.retry_after_s <= 120
    bill(connection, under_way, NOON, 100, CENT)
    worker.settle(under_way, 100, CENT)
    redis_world.clock.pass_(timedelta(seconds=caught.value.retry_after_s))
    with pytest.raises(BudgetUsedUp, match=re.escape("of $0.03")):
        worker.reserve(request(client, "0.02"))
    worker.reserve(request(client))


def test_a_flush_while_nothing_is_under_way_holds_up_nobody(
    redis_world: World, connection: psycopg.Connection
) -> None:
    client, worker = new_client(), redis_world.worker()
    rule(connection, Budget(client=client, monthly_usd=2 * CENT))
    reservation = worker.reserve(request(client))
    bill(connection, reservation, NOON, 100, CENT)
    worker.settle(reservation, 100, CENT)
    redis_world.clock.pass_(timedelta(minutes=5))
    redis_world.flush()
    worker.reserve(request(client))
    assert redis_world.spent(client) == 2 * CENT


def test_a_server_restored_from_an_older_state_is_not_believed(
    database: Store,
    connection: psycopg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, port = new_client(), free_port()
    rule(connection, Budget(client=client, monthly_usd=5 * CENT))
    with running_redis(tmp_path, port) as url:
        monkeypatch.setenv("TEST_REDIS", url)
        world = World("redis", database, url, Clock())
        worker = world.worker()
        for _ in range(4):
            reservation = worker.reserve(request(client))
            bill(connection, reservation, NOON, 100, CENT)
            worker.settle(reservation, 100, CENT)
            with redis.Redis.from_url(url) as server:
                if world.spent(client) == CENT:
                    server.save()
    with running_redis(tmp_path, port):
        with redis.Redis.from_url(url) as server:
            assert server.dbsize() == 1, "the old book is there again"
        with pytest.raises(LimitReached, match="counted anew"):
            worker.reserve(request(client))
        world.clock.pass_(timedelta(minutes=3))
        worker.reserve(request(client))
        with pytest.raises(LimitReached, match="under way"):
            worker.reserve(request(client))
        world.close()


def test_a_book_that_is_none_is_replaced_from_the_ledger(
    redis_world: World, connection: psycopg.Connection
) -> None:
    client, worker = new_client(), redis_world.worker()
    rule(connection, Budget(client=client, monthly_usd=CENT))
    bill(connection, worker.reserve(request("somebody-else")), NOON, 1, CENT)
    bill(connection, worker.reserve(request(client)), NOON, 1, CENT / 2)
    redis_world.clock.pass_(timedelta(minutes=5))
    with redis.Redis.from_url(redis_world.redis_url) as server:
        server.set(f"headrace:allowance:{client}", str(server.info("server")["run_id"]) + "\n{}")
    with pytest.raises(BudgetUsedUp, match=re.escape("of $0.01")):
        redis_world.worker().reserve(request(client))


def test_a_change_between_reading_and_setting_is_not_lost(
    redis_world: World, connection: psycopg.Connection
) -> None:
    """Another worker's reservation lands just before this one's is set: both count, or the second has no room."""
    client = new_client()
    rule(connection, Budget(client=client, monthly_usd=CENT))
    one, other = redis_world.worker(), redis_world.worker()
    one.release(one.reserve(request(client)))
    books = one._books
    assert isinstance(books, RedisBooks)
    replace = books._replace

    def late(*given: object) -> bool:
        if not other_granted:
            other_granted.append(other.reserve(request(client)))
        return replace(*given)  # type: ignore[arg-type]

    other_granted: list[object] = []
    books._replace = late  # type: ignore[method-assign]
    with pytest.raises(LimitReached, match="under way"):
        one.reserve(request(client))
    assert redis_world.spent(client) == CENT


def test_a_book_that_nobody_asks_for_is_dropped_by_the_server_after_the_month_it_counts(
    redis_world: World, connection: psycopg.Connection
) -> None:
    client, worker = new_client(), redis_world.worker()
    rule(connection, Budget(client=client, monthly_usd=CENT))
    worker.release(worker.reserve(request(client)))
    with redis.Redis.from_url(redis_world.redis_url, decode_responses=True) as server:
        (name,) = server.scan_iter(f"*{client}")
        left_s = server.ttl(name)
    assert 31 < left_s / 86_400 <= 40


def test_postgres_is_written_to_seldom(redis_world: World, connection: psycopg.Connection) -> None:
    client, worker = new_client(), redis_world.worker()
    rule(connection, Budget(client=client, monthly_usd=Decimal(1)))

    def noted() -> object:
        return connection.execute(
            "SELECT in_flight_until, book FROM ai_allowances WHERE client = %s", [client]
        ).fetchone()

    worker.reserve(request(client))
    first = noted()
    redis_world.clock.pass_(NOTE_AHEAD / 2)
    worker.reserve(request(client))
    assert noted() == first
    redis_world.clock.pass_(NOTE_AHEAD)
    worker.reserve(request(client))
    assert noted() != first


def test_a_redis_that_is_gone_lets_no_request_through_and_fails_no_settling(
    database: Store,
    connection: psycopg.Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(redis_books, "RETRIES", 1)
    client = new_client()
    rule(connection, Budget(client=client, monthly_usd=CENT))
    with running_redis(tmp_path, free_port()) as url:
        monkeypatch.setenv("TEST_REDIS", url)
        world = World("redis", database, url, Clock())
        worker = world.worker()
        reservation = worker.reserve(request(client, "0.001"))
    with pytest.raises(SinkUnavailable, match=r"allowance\.url: Redis"):
        worker.reserve(request(client, "0.001"))
    worker.settle(reservation, 1, CENT)
    (record,) = caplog.records
    assert f"a request of client {client} counts at its estimate" in record.message
    with pytest.raises(BadConfig, match="does not answer") as caught:
        connect(url)
    assert "s3cret" not in str(caught.value)
    worker.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
def test_a_url_that_is_none_of_redis_is_refused(url: str) -> None:
    with pytest.raises(BadConfig, match="no Redis URL"):
        connect(url)


def test_a_user_who_may_not_ask_which_server_it_is_is_refused(redis_world: World) -> None:
    with redis.Redis.from_url(redis_world.redis_url) as server:
        server.acl_setuser(
            "poor", enabled=True, passwords=["+p"], categories=["+@all"], commands=["-info"], keys=["*"]
        )
    try:
        with pytest.raises(BadConfig, match=r"INFO: allow it"):
            connect(redis_world.redis_url.replace(":s3cret", "poor:p"))
    finally:
        with redis.Redis.from_url(redis_world.redis_url) as server:
            server.acl_deluser("poor")

"""Limits and budgets as all workers share them, wherever the books are kept."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import psycopg
import pytest

from schemas.allowances import AllowanceSettings, Budget, RateLimit
from schemas.config import Config
from schemas.errors import BadConfig, BudgetUsedUp, LimitReached
from schemas.usage import UsageEvent
from tests.transforms.allowance.world import LAPSES_AFTER, NOON, World, bill, new_client, request, rule
from tests.transforms.test_usage import event
from transforms.allowance.book import day_nano, month_nano
from transforms.allowance.checks import Rules
from transforms.allowance.ledger import book_of_ledger
from transforms.allowance.opening import open_allowance
from transforms.allowance.rules import read_rules, write_file_rules
from transforms.usage import write_usage


def test_workers_spend_one_budget_together(world: World, connection: psycopg.Connection) -> None:
    client = new_client()
    rule(connection, Budget(client=client, monthly_usd=Decimal("0.03")))
    one, other = world.worker(), world.worker()
    first, second = one.reserve(request(client)), other.reserve(request(client, provider="voyage"))
    one.reserve(request(client))
    with pytest.raises(LimitReached, match="under way") as caught:
        other.reserve(request(client))
    assert caught.value.kind == "monthly_budget"
    one.release(first)
    other.settle(second, 50, Decimal("0.005"))
    other.reserve(request(client))
    assert world.spent(client) == Decimal("0.025")
    world.clock.pass_(LAPSES_AFTER)
    with pytest.raises(BudgetUsedUp):
        one.reserve(request(client))


def test_a_client_without_rules_is_not_counted(world: World, connection: psycopg.Connection) -> None:
    rule(connection, Budget(client="acme", provider="voyage", monthly_usd=Decimal(0)))
    reservation = world.worker().reserve(request("acme", "1000000", provider="openai"))
    assert not reservation.counted
    world.worker().settle(reservation, 1, Decimal(1))
    assert world.spent("acme") == 0


def test_the_book_begins_with_what_the_ledger_says(world: World, connection: psycopg.Connection) -> None:
    """A budget that is set in the middle of a month counts the month from its beginning."""
    client, worker = new_client(), world.worker()
    for at, usd in ((datetime(2026, 10, 31, 23, 59, tzinfo=NOON.tzinfo), "100"), (NOON, "0.015")):
        bill(connection, worker.reserve(request(client)), at, 90, Decimal(usd))
    rule(connection, Budget(client=client, monthly_usd=Decimal("0.02")))
    rule(connection, RateLimit(client=client, tokens_per_hour=150, requests_per_minute=100))
    worker = world.worker()
    with pytest.raises(BudgetUsedUp, match=re.escape("budget of $0.02")):
        worker.reserve(request(client))
    with pytest.raises(LimitReached, match="tokens_per_hour"):
        worker.reserve(request(client, "0.005"))
    worker.reserve(request(client, "0.005", tokens=60))
    assert world.spent(client) == Decimal("0.02")


def test_of_the_ledger_a_book_takes_its_day_its_month_and_what_is_embedded_elsewhere(
    connection: psycopg.Connection,
) -> None:
    def row(provider: str, operation: str, ago: timedelta) -> UsageEvent:
        made = event(client="acme", occurred_at=NOON - ago)
        return replace(made, provider=provider, operation=operation, cost_usd=Decimal("0.25"))

    for provider, operation, ago in (
        ("openai", "embed_documents", timedelta(seconds=1)),
        ("openai", "moderate", timedelta(seconds=1)),
        ("openai", "embed_documents", timedelta(days=1)),
        ("local", "embed_documents", timedelta(seconds=1)),
    ):
        write_usage(connection, row(provider, operation, ago))
    book = book_of_ledger(connection, "acme", NOON)
    assert list(book.used) == ["openai"], "what runs here is nobody's to limit"
    assert (day_nano(book, "openai"), month_nano(book, "openai")) == (5 * 10**8, 75 * 10**7)
    used = book.used["openai"]
    assert (sum(used.requests.values()), sum(used.tokens.values())) == (1, 100), (
        "of moderation, dollars alone"
    )


def test_settling_twice_or_late_changes_nothing_more(world: World, connection: psycopg.Connection) -> None:
    client, worker = new_client(), world.worker()
    rule(connection, Budget(client=client, monthly_usd=Decimal(1)))
    first, late = worker.reserve(request(client)), worker.reserve(request(client))
    for _ in range(2):
        worker.settle(first, 50, Decimal("0.004"))
        worker.release(first)
    assert world.spent(client) == Decimal("0.014")
    world.clock.pass_(LAPSES_AFTER)
    world.worker().reserve(request(client, "0"))
    worker.settle(late, 50, Decimal("0.001"))
    assert world.spent(client) == Decimal("0.014"), "its estimate was written off"


@pytest.mark.parametrize(("in_ledger", "counted"), [(True, "0.004"), (False, "0.01")])
def test_a_dead_workers_request_counts_as_the_ledger_says_or_else_as_estimated(
    world: World, connection: psycopg.Connection, in_ledger: bool, counted: str
) -> None:
    client, dead = new_client(), world.worker()
    rule(connection, Budget(client=client, monthly_usd=Decimal("0.01")))
    reservation = dead.reserve(request(client))
    if in_ledger:
        bill(connection, reservation, NOON, 40, Decimal("0.004"))
    dead.close()
    alive = world.worker()
    with pytest.raises(LimitReached):
        alive.reserve(request(client, "0.006"))
    world.clock.pass_(LAPSES_AFTER)
    if in_ledger:
        alive.settle(alive.reserve(request(client, "0.006")), 60, Decimal(0))
    else:
        with pytest.raises(BudgetUsedUp):
            alive.reserve(request(client, "0.006"))
    assert world.spent(client) == Decimal(counted)
    assert world.book(client).held == {}


def test_a_rate_limit_holds_for_all_workers_and_waits_as_long_as_it_says(
    world: World, connection: psycopg.Connection
) -> None:
    client = new_client()
    rule(connection, RateLimit(client=client, provider="openai", requests_per_minute=3))
    workers = [world.worker() for _ in range(3)]
    for worker in workers:
        worker.reserve(request(client))
        world.clock.pass_(timedelta(seconds=5))
    with pytest.raises(LimitReached, match="at openai") as caught:
        workers[0].reserve(request(client))
    workers[0].reserve(request(client, provider="voyage"))
    assert 45 <= caught.value.retry_after_s <= 48
    world.clock.pass_(timedelta(seconds=caught.value.retry_after_s))
    workers[1].reserve(request(client))


def test_next_month_there_is_a_new_budget(world: World, connection: psycopg.Connection) -> None:
    client, worker = new_client(), world.worker()
    rule(connection, Budget(client=client, monthly_usd=Decimal("0.01")))
    worker.settle(worker.reserve(request(client)), 1, Decimal("0.01"))
    with pytest.raises(BudgetUsedUp, match="2026-12-01"):
        worker.reserve(request(client))
    # By the clock of UTC, whatever the zone the time is told in.
    world.clock.now = datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    with pytest.raises(BudgetUsedUp):
        worker.reserve(request(client))
    world.clock.pass_(timedelta(hours=2))
    worker.reserve(request(client))


def test_a_raised_budget_is_seen_at_once_and_a_new_limit_in_five_minutes(
    world: World, connection: psycopg.Connection
) -> None:
    client, worker = new_client(), world.worker()
    rule(connection, Budget(client=client, monthly_usd=Decimal("0.005")))
    with pytest.raises(BudgetUsedUp):
        worker.reserve(request(client))
    rule(connection, Budget(client=client, monthly_usd=Decimal(1)))
    worker.reserve(request(client))
    rule(connection, RateLimit(client=client, requests_per_minute=1))
    worker.reserve(request(client))
    world.clock.pass_(timedelta(minutes=5))
    worker.reserve(request(client))
    with pytest.raises(LimitReached):
        worker.reserve(request(client))


def test_budgets_move_between_redis_and_postgres_without_losing_a_cent(
    redis_world: World, connection: psycopg.Connection
) -> None:
    client = new_client()
    in_postgres = World("postgres", redis_world.store, redis_world.redis_url, redis_world.clock)
    rule(connection, Budget(client=client, monthly_usd=Decimal("0.03")))
    old, back = in_postgres.worker(), in_postgres.worker()
    spent, under_way = old.reserve(request(client)), old.reserve(request(client))
    bill(connection, spent, NOON, 100, Decimal("0.01"))
    old.settle(spent, 100, Decimal("0.01"))
    new = redis_world.worker()
    last = new.reserve(request(client))
    with pytest.raises(LimitReached, match="under way"):
        new.reserve(request(client))
    new.settle(under_way, 100, Decimal("0.01"))
    assert redis_world.spent(client) == Decimal("0.03")
    bill(connection, under_way, NOON, 100, Decimal("0.01"))
    with pytest.raises(LimitReached, match="moving between Redis and Postgres"):
        back.reserve(request(client))
    bill(connection, last, NOON, 100, Decimal("0.01"))
    redis_world.clock.pass_(timedelta(minutes=3))
    with pytest.raises(BudgetUsedUp):
        back.reserve(request(client))
    in_postgres.close()


def test_the_file_writes_its_rules_and_takes_away_only_its_own(connection: psycopg.Connection) -> None:
    of_table = Budget(client="acme", provider="openai", monthly_usd=Decimal(7))
    rule(connection, of_table, RateLimit(client="other", requests_per_minute=1))

    def written(**allowance: object) -> Rules:
        config = Config.model_validate({"client": "acme", "allowance": allowance})
        write_file_rules(connection, config)
        return read_rules(connection, "acme")

    both = written(rates=[{"tokens_per_hour": 5}], budgets=[{"monthly_usd": 9, "hard_limit": False}])
    assert both.rates == (RateLimit(client="acme", tokens_per_hour=5),)
    assert both.budgets == (Budget(client="acme", monthly_usd=Decimal(9), hard_limit=False), of_table)
    changed = written(budgets=[{"client": "acme", "provider": "openai", "monthly_usd": 8}])
    assert changed.rates == ()
    assert changed.budgets == (Budget(client="acme", provider="openai", monthly_usd=Decimal(8)),)
    with pytest.raises(BadConfig, match="change it there"):
        rule(connection, of_table)
    assert read_rules(connection, "other").rates
    with pytest.raises(
        BadConfig, match=re.escape("allowance.budgets: client acme and provider * stand twice")
    ):
        written(budgets=[{"monthly_usd": 8}, {"client": "acme", "monthly_usd": 9}])


def test_a_row_that_is_no_rule_is_named(world: World, connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO ai_budgets (client, provider, monthly_usd) VALUES ('acme', 'opnai', 5)")
    with pytest.raises(
        BadConfig, match="table ai_budgets, client acme, provider opnai: provider: Input should be"
    ):
        world.worker().reserve(request("acme"))


def test_a_webhook_that_is_no_address_is_refused_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_HOOK", "hooks.example/s3cret")
    settings = AllowanceSettings(webhook="env:TEST_HOOK")
    with pytest.raises(BadConfig, match=r"allowance\.webhook.*no URL") as caught:
        open_allowance(settings, world.store, world.clock)
    assert "s3cret" not in str(caught.value)

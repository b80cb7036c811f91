"""Sums of the ledger are those of its rows, to the last digit, by whatever they are grouped."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import uuid4

import psycopg
import pytest

from tests.transforms.test_usage import event
from transforms.usage import write_usage
from transforms.usage_sums import COLUMNS, Column, Period, refresh_daily_usage, sum_usage

NOVEMBER = Period(date(2026, 11, 1), date(2026, 11, 30))
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def fill(connection: psycopg.Connection) -> None:
    rows = [
        replace(
            event(uuid4(), client=client, occurred_at=NOON.replace(day=day)),
            cost_usd=Decimal(f"0.{n}7"),
            source=source,
            model=model,
        )
        for n, (client, day, source, model) in enumerate(
            (client, day, source, model)
            for client in ("acme", "globex")
            for day in (1, 20)
            for source in ("", "tickets")
            for model in ("a/small", "b/large")
        )
    ]
    for row in rows:
        write_usage(connection, row)


@pytest.mark.parametrize("by", [("client",), ("day", "source"), COLUMNS, ("month", "client", "model")])
def test_groups_are_all_there_and_add_up_to_the_total(
    by: tuple[Column, ...], connection: psycopg.Connection
) -> None:
    fill(connection)
    rows, total = sum_usage(connection, by, NOVEMBER)
    assert len({tuple(row.group.values()) for row in rows}) == len(rows)
    for field in ("calls", "tokens", "cost_usd", "usd_saved", "cache_hits", "machine_seconds"):
        assert sum(getattr(row.sums, field) for row in rows) == getattr(total, field)
    ledger = connection.execute("SELECT count(*), sum(cost_usd), sum(tokens) FROM ai_usage_tracking")
    assert ledger.fetchone() == (total.calls, total.cost_usd, total.tokens)


def test_the_newest_day_stands_first_and_a_client_may_be_asked_for_alone(
    connection: psycopg.Connection,
) -> None:
    fill(connection)
    rows, total = sum_usage(connection, ("day", "client"), NOVEMBER, "acme")
    assert [tuple(row.group.values()) for row in rows] == [("2026-11-20", "acme"), ("2026-11-01", "acme")]
    assert total.calls == 8


def test_a_period_begins_and_ends_at_midnight_of_utc(connection: psycopg.Connection) -> None:
    connection.execute("SET TimeZone = 'Pacific/Kiritimati'")
    inside = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 30, 23, 59, 59, 999_999, tzinfo=UTC))
    outside = (datetime(2026, 10, 31, 23, 59, 59, 999_999, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC))
    for moment in (*inside, *outside):
        write_usage(connection, event(occurred_at=moment))
    rows, _ = sum_usage(connection, ("day",), NOVEMBER)
    assert Counter({row.group["day"]: row.sums.calls for row in rows}) == {"2026-11-30": 1, "2026-11-01": 1}


def test_tokens_are_those_that_the_provider_billed_where_it_said_so(connection: psycopg.Connection) -> None:
    write_usage(connection, replace(event(occurred_at=NOON), tokens=100, tokens_reported=97))
    write_usage(connection, replace(event(occurred_at=NOON), tokens=10))
    assert sum_usage(connection, ("client",), NOVEMBER)[1].tokens == 107


def test_a_row_of_hits_alone_is_no_call(connection: psycopg.Connection) -> None:
    saved = {"tokens_saved": 40, "usd_saved": Decimal("0.0000052")}
    write_usage(
        connection, replace(event(occurred_at=NOON), inputs=0, tokens=0, cost_usd=Decimal(0), **saved)
    )
    _, total = sum_usage(connection, ("client",), NOVEMBER)
    assert (total.calls, total.cache_hits, total.tokens_saved) == (0, 5, 40)
    assert (total.cost_usd, total.usd_saved) == (Decimal(0), Decimal("0.0000052"))


def test_nothing_sums_to_zeros(connection: psycopg.Connection) -> None:
    rows, total = sum_usage(connection, ("client",), NOVEMBER)
    assert (rows, total.calls, total.cost_usd) == ([], 0, Decimal(0))


def test_the_daily_view_is_the_ledger_after_a_refresh(connection: psycopg.Connection) -> None:
    fill(connection)
    view = "SELECT count(*), coalesce(sum(cost_usd), 0), coalesce(sum(calls), 0) FROM ai_usage_daily"
    assert connection.execute(view).fetchone() == (0, 0, 0)
    refresh_daily_usage(connection)
    _, total = sum_usage(connection, ("client",), NOVEMBER)
    assert connection.execute(view).fetchone() == (16, total.cost_usd, total.calls)

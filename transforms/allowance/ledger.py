"""What the ledger knows of a client's requests: to begin a book with, and of reservations that lapsed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg

from transforms.allowance.book import (
    BUCKETS,
    HOUR_S,
    MINUTE_S,
    Book,
    Used,
    day_of,
    first_day,
    month_of,
    nano_of,
)

_PERIODS = """
SELECT provider, coalesce(sum(cost_usd), 0), coalesce(sum(cost_usd) FILTER (WHERE occurred_at >= %(day)s), 0)
FROM ai_usage_tracking WHERE client = %(client)s AND occurred_at >= %(month)s AND provider <> 'local'
GROUP BY provider
"""

_WINDOW = """
SELECT provider, floor(extract(epoch FROM occurred_at) * %(buckets)s / %(window_s)s)::bigint AS bucket,
       count(*) FILTER (WHERE input_count > 0), coalesce(sum(coalesce(tokens_reported, tokens)), 0)::bigint
FROM ai_usage_tracking WHERE client = %(client)s AND occurred_at >= %(since)s AND provider <> 'local'
  AND operation <> 'moderate'
GROUP BY provider, bucket
"""


def book_of_ledger(connection: psycopg.Connection, client: str, now: datetime) -> Book:
    """What the ledger says that a client has used, with nothing under way."""
    day, month = day_of(now.timestamp()), month_of(now.timestamp())
    periods = connection.execute(
        _PERIODS,
        {"client": client, "month": first_day(month), "day": datetime.fromtimestamp(day * 86_400, UTC)},
    ).fetchall()
    requests: dict[str, dict[int, int]] = defaultdict(dict)
    tokens: dict[str, dict[int, int]] = defaultdict(dict)
    for provider, bucket, calls, _ in _window(connection, client, now, MINUTE_S):
        requests[provider][bucket] = calls
    for provider, bucket, _, so_many in _window(connection, client, now, HOUR_S):
        tokens[provider][bucket] = so_many
    costs = {provider: (nano_of(of_day), nano_of(of_month)) for provider, of_month, of_day in periods}
    return Book(
        day,
        month,
        {
            provider: Used(requests[provider], tokens[provider], *costs.get(provider, (0, 0)))
            for provider in {*requests, *tokens, *costs}
        },
    )


def _window(
    connection: psycopg.Connection, client: str, now: datetime, window_s: int
) -> list[tuple[str, int, int, int]]:
    since = now - timedelta(seconds=window_s)
    return connection.execute(
        _WINDOW, {"client": client, "since": since, "buckets": BUCKETS, "window_s": window_s}
    ).fetchall()


def costs_of(
    connection: psycopg.Connection, reservation_ids: Sequence[UUID]
) -> dict[UUID, tuple[int, Decimal]]:
    """Tokens and dollars of the requests that are in the ledger, by reservation; of moderation dollars alone."""
    found = connection.execute(
        "SELECT event_id, CASE operation WHEN 'moderate' THEN 0 ELSE coalesce(tokens_reported, tokens) END, cost_usd"
        " FROM ai_usage_tracking"
        " WHERE event_id = ANY(%s)",
        [list(reservation_ids)],
    )
    return {event_id: (tokens, usd) for event_id, tokens, usd in found}

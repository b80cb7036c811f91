"""Sums over the usage ledger, exact: dollars are decimals from the table to the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal, get_args

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

Column = Literal["day", "month", "client", "provider", "model", "source", "operation"]
COLUMNS: tuple[Column, ...] = get_args(Column)

_EXPRESSIONS: Mapping[Column, sql.SQL] = {
    "day": sql.SQL("to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')"),
    "month": sql.SQL("to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM')"),
    "client": sql.SQL("client"),
    "provider": sql.SQL("provider"),
    "model": sql.SQL("model"),
    "source": sql.SQL("source"),
    "operation": sql.SQL("operation"),
}

_SUMS = sql.SQL(
    "count(*) FILTER (WHERE input_count > 0) AS calls, count(error_type) AS failed_calls,"
    " coalesce(sum(input_count), 0)::bigint AS inputs,"
    " coalesce(sum(coalesce(tokens_reported, tokens)), 0)::bigint AS tokens,"
    " coalesce(sum(reused), 0)::bigint AS reused, coalesce(sum(cache_hits), 0)::bigint AS cache_hits,"
    " coalesce(sum(tokens_saved), 0)::bigint AS tokens_saved, coalesce(sum(usd_saved), 0) AS usd_saved,"
    " coalesce(sum(cost_usd), 0) AS cost_usd, coalesce(sum(machine_seconds), 0) AS machine_seconds"
)


@dataclass(frozen=True, slots=True)
class Period:
    """Days in UTC, both included."""

    first: date
    last: date


@dataclass(frozen=True, slots=True)
class UsageSums:
    """What some rows of the ledger come to.

    Args:
        inputs: texts given to an engine or provider, further attempts included.
        tokens: of them, as the provider billed them; as counted here where it did not say.
        reused: inputs answered from vectors already stored.
        cache_hits: inputs that the embedding cache, or an equal one beside them, answered, at no cost.
        tokens_saved: of those.
        usd_saved: what the provider would have asked for those.
    """

    calls: int
    failed_calls: int
    inputs: int
    tokens: int
    reused: int
    cache_hits: int
    tokens_saved: int
    usd_saved: Decimal
    cost_usd: Decimal
    machine_seconds: float


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One group of calls: column -> value, and their sums."""

    group: Mapping[str, str]
    sums: UsageSums


def sum_usage(
    connection: psycopg.Connection, by: Sequence[Column], period: Period, client: str | None = None
) -> tuple[list[UsageRow], UsageSums]:
    """Sums of a period by some columns, days and months newest first, and over all.

    Args:
        by: at least one column; rows are in its order.
        client: None for all that the connection's role may see.
    """
    names = dict.fromkeys(by)
    query = sql.SQL(
        "SELECT {groups}, {sums}, grouping({first}) = 1 AS is_total FROM ai_usage_tracking"
        " WHERE occurred_at >= %(first)s::date::timestamp AT TIME ZONE 'UTC'"
        " AND occurred_at < (%(last)s::date + 1)::timestamp AT TIME ZONE 'UTC'"
        " AND (%(client)s::text IS NULL OR client = %(client)s)"
        " GROUP BY GROUPING SETS (({expressions}), ()) ORDER BY is_total, {order}"
    ).format(
        groups=sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(_EXPRESSIONS[name], sql.Identifier(f"by_{name}")) for name in names
        ),
        sums=_SUMS,
        first=_EXPRESSIONS[by[0]],
        expressions=sql.SQL(", ").join(_EXPRESSIONS[name] for name in names),
        order=sql.SQL(", ").join(
            sql.SQL("{} DESC" if name in ("day", "month") else "{}").format(sql.Identifier(f"by_{name}"))
            for name in names
        ),
    )
    parameters = {"first": period.first, "last": period.last, "client": client}
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(query, parameters).fetchall()
    *rows, total = [
        UsageRow(
            {name: row[f"by_{name}"] for name in names},
            UsageSums(**{field: row[field] for field in UsageSums.__slots__}),
        )
        for row in found
    ]
    return rows, total.sums


def spent_through(connection: psycopg.Connection, integrations: Sequence[str]) -> Decimal:
    """Dollars of all calls that ever went through some endpoints."""
    found = connection.execute(
        "SELECT coalesce(sum(cost_usd), 0) FROM ai_usage_tracking WHERE integration = ANY(%s)",
        [list(integrations)],
    ).fetchone()
    return Decimal(found[0]) if found else Decimal(0)


def refresh_daily_usage(connection: psycopg.Connection) -> None:
    """Bring the materialised view `ai_usage_daily` up to the ledger; those who read it meanwhile need not wait."""
    connection.execute("REFRESH MATERIALIZED VIEW CONCURRENTLY ai_usage_daily")

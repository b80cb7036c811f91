"""How endpoints do is read from the ledger, over a bounded part of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import psycopg
import pytest

from schemas.usage import UNFINISHED
from tests.transforms.routing.world import integration, ledger
from transforms.postgres import Store
from transforms.providers.metering import ProviderCall
from transforms.routing.health import MAX_CALLS, endpoint_health
from transforms.stored_integrations import write_integrations

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def call(name: str, latency_s: float, error: str | None = None, ago_s: float = 1) -> ProviderCall:
    at = NOW - timedelta(seconds=ago_s)
    return ProviderCall(
        uuid4(), name, "openai", "m", "embed_documents", 1, 1, 1, Decimal(0), latency_s, 1, error, None, at
    )


def test_success_and_latencies_are_those_of_the_last_quarter_of_an_hour(
    database: Store, connection: psycopg.Connection
) -> None:
    write_integrations(connection, [integration("a"), integration("idle")])
    meter = ledger(database)
    for number in range(1, 101):
        meter(call("a", number / 100))
    for error in ["ProviderTimeout"] * 20 + ["RateLimited"] * 7 + ["InputRefused"] * 5 + [UNFINISHED] * 3:
        meter(call("a", 60.0, error))
    meter(call("a", 60.0, "ProviderTimeout", ago_s=901))
    meter(
        replace(call("a", 60.0, "ProviderTimeout"), operation="moderate")
    )  # another service at the same address
    meter.close()
    a, idle = endpoint_health(connection, NOW)
    assert (a.integration, a.state, a.calls, a.rate_limited) == ("a", "closed", 132, 7)
    assert a.success == pytest.approx(105 / 125)
    assert (a.p50_s, a.p95_s) == (pytest.approx(0.505), pytest.approx(0.9505))
    assert (idle.calls, idle.success, idle.p50_s) == (0, None, None)


def test_no_more_calls_are_looked_at_than_the_latest_so_many(
    database: Store, connection: psycopg.Connection
) -> None:
    write_integrations(connection, [integration("a")])
    connection.execute(
        "INSERT INTO ai_usage_tracking (event_id, occurred_at, client, provider, operation, model, space_id,"
        " input_count, tokens, cost_usd, machine_seconds, latency_s, attempt, reused, integration, error_type)"
        " SELECT gen_random_uuid(), %s - make_interval(secs => n / 100.0), 'acme', 'openai', 'embed_documents', 'm',"
        " 's', 1, 1, 0, 0, 1, 1, 0, 'a', CASE WHEN n > %s THEN 'ProviderTimeout' END"
        " FROM generate_series(1, 5000) AS n",
        [NOW, MAX_CALLS],
    )
    (a,) = endpoint_health(connection, NOW)
    assert (a.calls, a.success) == (MAX_CALLS, 1.0)

"""The ledger has one row for each call, and its sums are those of the calls."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import apache_beam as beam
import psycopg
from apache_beam.options.pipeline_options import PipelineOptions

from schemas.usage import UsageEvent
from transforms.postgres import Store
from transforms.sinks.ledger import WriteUsage
from transforms.usage import RunUsage, usage_of_run, write_usage

NOW = datetime.now(UTC)


def event(run_id: UUID | None = None, *, client: str = "acme", occurred_at: datetime = NOW) -> UsageEvent:
    return UsageEvent(
        event_id=uuid4(),
        client=client,
        run_id=run_id,
        provider="local",
        operation="embed_documents",
        model="tests/tiny",
        space_id="0" * 16,
        inputs=3,
        tokens=100,
        tokens_reported=None,
        cost_usd=Decimal("0.00000013"),
        machine_seconds=1.5,
        latency_s=0.75,
        occurred_at=occurred_at,
        reused=2,
        cache_hits=5,
        metadata={"note": "a\0b"},
    )


def test_an_event_written_twice_is_one_row(connection: psycopg.Connection) -> None:
    one = event()
    write_usage(connection, one)
    write_usage(connection, one)
    assert connection.execute("SELECT count(*), sum(cost_usd) FROM ai_usage_tracking").fetchone() == (
        1,
        Decimal("0.00000013"),
    )


def test_a_run_sums_its_own_calls_exactly(connection: psycopg.Connection) -> None:
    run_id = uuid4()
    for one in (event(run_id), replace(event(run_id), error_type="EngineFailed"), event(uuid4())):
        write_usage(connection, one)
    assert usage_of_run(connection, run_id) == RunUsage(2, 1, 6, 200, 4, Decimal("0.00000026"), 3.0, 1.5, 10)
    assert usage_of_run(connection, uuid4()) == RunUsage(0, 0, 0, 0, 0, Decimal(0), 0.0, 0.0, 0)


def test_repeated_bundles_write_each_event_once(database: Store, connection: psycopg.Connection) -> None:
    pipeline = beam.Pipeline(
        options=PipelineOptions(["--runner=FnApiRunner", "--direct_runner_bundle_repeat=2"])
    )
    pipeline | beam.Create([event() for _ in range(5)], reshuffle=False) | WriteUsage(database)
    pipeline.run().wait_until_finish()
    assert connection.execute("SELECT count(*) FROM ai_usage_tracking").fetchone() == (5,)

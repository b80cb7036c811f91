"""The usage ledger in Postgres: a row for each call, written once however often the write is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from schemas.usage import UNFINISHED, UsageEvent
from transforms.storable import storable_json, storable_text


@dataclass(frozen=True, slots=True)
class RunUsage:
    """All calls of one run.

    Args:
        inputs: texts given to an engine.
        reused: inputs answered from vectors stored before.
        cache_hits: as in `UsageEvent`.
        latency_s: wall seconds in the engine.
    """

    calls: int
    failed_calls: int
    inputs: int
    tokens: int
    reused: int
    cost_usd: Decimal
    machine_seconds: float
    latency_s: float
    cache_hits: int

    @property
    def hit_rate(self) -> float:
        """Share of the inputs not reused that no engine was given, 0 to 1."""
        return hit_rate(self.cache_hits, self.inputs)


def hit_rate(cache_hits: int, inputs: int) -> float:
    """Share of hits among hits and the inputs an engine had to be given; further attempts count as inputs again."""
    return cache_hits / (cache_hits + inputs) if cache_hits else 0.0


def write_usage(connection: psycopg.Connection, event: UsageEvent) -> None:
    """Add one event to the ledger, or complete it; one that is there as it ended is left as it is."""
    connection.execute(
        "INSERT INTO ai_usage_tracking (event_id, occurred_at, client, run_id, provider, operation, model, space_id,"
        " input_count, tokens, tokens_reported, cost_usd, machine_seconds, latency_s, attempt, reused, error_type,"
        " request_metadata, cache_hits, tokens_saved, usd_saved, source, integration)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (event_id) DO UPDATE SET occurred_at = EXCLUDED.occurred_at, tokens = EXCLUDED.tokens,"
        " tokens_reported = EXCLUDED.tokens_reported, cost_usd = EXCLUDED.cost_usd, latency_s = EXCLUDED.latency_s,"
        " error_type = EXCLUDED.error_type, request_metadata = EXCLUDED.request_metadata"
        " WHERE ai_usage_tracking.error_type = %s",
        [
            event.event_id,
            event.occurred_at,
            event.client,
            event.run_id,
            event.provider,
            event.operation,
            event.model,
            event.space_id,
            event.inputs,
            event.tokens,
            event.tokens_reported,
            event.cost_usd,
            event.machine_seconds,
            event.latency_s,
            event.attempt,
            event.reused,
            event.error_type,
            storable_json(event.metadata),
            event.cache_hits,
            event.tokens_saved,
            event.usd_saved,
            storable_text(event.source),
            event.integration,
            UNFINISHED,
        ],
    )


def usage_of_run(connection: psycopg.Connection, run_id: UUID) -> RunUsage:
    """What a run used to embed, moderation left out; zeros for a run that called nothing."""
    with connection.cursor(row_factory=class_row(RunUsage)) as cursor:
        found = cursor.execute(
            "SELECT count(*) FILTER (WHERE input_count > 0) AS calls, count(error_type) AS failed_calls,"
            " coalesce(sum(input_count), 0) AS inputs, coalesce(sum(tokens), 0)::bigint AS tokens,"
            " coalesce(sum(reused), 0) AS reused, coalesce(sum(cost_usd), 0) AS cost_usd,"
            " coalesce(sum(machine_seconds), 0) AS machine_seconds, coalesce(sum(latency_s), 0) AS latency_s,"
            " coalesce(sum(cache_hits), 0) AS cache_hits"
            " FROM ai_usage_tracking WHERE run_id = %s AND operation <> 'moderate'",
            [run_id],
        ).fetchone()
    return found or RunUsage(0, 0, 0, 0, 0, Decimal(0), 0.0, 0.0, 0)


def local_rate(connection: psycopg.Connection, space_id: str, days: int = 30) -> tuple[int, float]:
    """Tokens that local engines embedded into a space in the last `days` days, and the seconds they took."""
    found = connection.execute(
        "SELECT coalesce(sum(tokens), 0)::bigint, coalesce(sum(latency_s), 0)::float8 FROM ai_usage_tracking"
        " WHERE space_id = %s AND provider = 'local' AND operation = 'embed_documents' AND error_type IS NULL"
        " AND occurred_at > now() - make_interval(days => %s)",
        [space_id, days],
    ).fetchone()
    return found or (0, 0.0)


def tokens_since(
    connection: psycopg.Connection, clients: Sequence[str], space_id: str, since: datetime
) -> int:
    """Tokens of documents embedded for some clients into a space, failed and repeated calls included."""
    found = connection.execute(
        "SELECT coalesce(sum(tokens), 0)::bigint FROM ai_usage_tracking WHERE client = ANY(%s) AND space_id = %s"
        " AND operation = 'embed_documents' AND occurred_at >= %s",
        [list(clients), space_id, since],
    ).fetchone()
    return int(found[0]) if found else 0

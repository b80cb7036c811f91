"""The usage ledger: one event for each call to a provider, failed calls and retries included.

A buffer of texts given to a local engine is one call, whatever batches it computes it in; its failed batches and
their repetitions are events of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

UNFINISHED = "Unfinished"
"""`error_type` of a request that is under way, or whose worker died in its middle: nobody knows what came of it, so
its tokens and its cost stay those of the estimate."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a provider asks, as published on a day.

    Args:
        usd_per_million_tokens: input tokens.
        as_of: the day the page was read.
        source: where it is published.
    """

    usd_per_million_tokens: Decimal
    as_of: date
    source: str


LOCAL = Price(Decimal(0), date(2026, 11, 21), "runs on this machine; machine_seconds is recorded instead")


def cost_usd(tokens: int, price: Price) -> Decimal:
    """Cost of `tokens` input tokens in dollars, exact."""
    return price.usd_per_million_tokens * tokens / 1_000_000


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """One call. A row is written once for each `event_id`, however often the write is repeated.

    Args:
        event_id: unique to the call (a repeated call is another event: it cost again).
        operation: `embed_documents` or `embed_query`.
        inputs: texts given to the engine, equal ones counted once.
        tokens: counted locally, special tokens included.
        tokens_reported: as the provider billed them; None for local engines.
        machine_seconds: wall seconds of the engine times its threads; 0 for remote providers.
        latency_s: wall seconds of the call.
        attempt: 1 for the first try.
        reused: inputs answered from vectors already stored, at no cost.
        cache_hits: inputs answered from the embedding cache, or by an equal one of the same buffer, at no cost.
        tokens_saved: of those inputs; with `tokens` of the calls that were answered, those of all chunks that have a
            vector now and had none stored of their own.
        usd_saved: what the provider would have asked for them.
        source: name of the configured source the inputs came from; empty for a query.
        integration: name of the endpoint asked; None for a local engine.
        error_type: class name when the call failed.
    """

    event_id: UUID
    client: str
    run_id: UUID | None
    provider: str
    operation: str
    model: str
    space_id: str
    inputs: int
    tokens: int
    tokens_reported: int | None
    cost_usd: Decimal
    machine_seconds: float
    latency_s: float
    occurred_at: datetime
    attempt: int = 1
    reused: int = 0
    cache_hits: int = 0
    tokens_saved: int = 0
    usd_saved: Decimal = Decimal(0)
    source: str = ""
    integration: str | None = None
    error_type: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

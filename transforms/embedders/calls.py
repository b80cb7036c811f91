"""From calls into an engine to rows of the ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from uuid import UUID, uuid4

from schemas.usage import UsageEvent, cost_usd
from transforms.embedders.base import Engine
from transforms.embedders.batching import EngineCall


def usage_events(
    engine: Engine,
    calls: Sequence[EngineCall],
    reused: int,
    client: str,
    run_id: UUID | None,
    now: datetime,
    cache_hits: int = 0,
    tokens_saved: int = 0,
    source: str = "",
) -> Iterator[UsageEvent]:
    """The ledger's rows for one buffer.

    A local engine computes a buffer in many small padded batches; those that went alike (same attempt, same error)
    are one row, which says how many they were. What was taken from stored vectors and from the cache is a row at no
    cost.

    Args:
        tokens_saved: of the inputs that the cache answered.
        source: that the inputs came from.
    """
    alike: dict[tuple[int, str | None], list[EngineCall]] = defaultdict(list)
    for call in calls:
        alike[call.attempt, call.error].append(call)
    event = partial(
        UsageEvent,
        client=client,
        run_id=run_id,
        provider=engine.facts.provider,
        operation="embed_documents",
        model=engine.space.model,
        space_id=engine.space.space_id,
        tokens_reported=None,
        occurred_at=now,
        source=source,
    )
    for (attempt, error), batches in sorted(alike.items(), key=lambda item: item[0][0]):
        tokens = sum(call.tokens for call in batches)
        # Calls of several streams run side by side, each on its share of the threads.
        seconds = sum(call.seconds for call in batches) / engine.facts.streams
        yield event(
            event_id=uuid4(),
            inputs=sum(call.inputs for call in batches),
            tokens=tokens,
            cost_usd=cost_usd(tokens, engine.facts.price),
            machine_seconds=seconds * engine.facts.threads,
            latency_s=seconds,
            attempt=attempt,
            error_type=error,
            metadata={
                "batches": len(batches),
                "computed_tokens": sum(call.computed_tokens for call in batches),
            },
        )
    if reused or cache_hits:
        yield event(
            event_id=uuid4(),
            inputs=0,
            tokens=0,
            cost_usd=Decimal(0),
            machine_seconds=0.0,
            latency_s=0.0,
            reused=reused,
            cache_hits=cache_hits,
            tokens_saved=tokens_saved,
            usd_saved=cost_usd(tokens_saved, engine.facts.price),
        )

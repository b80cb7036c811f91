"""What so many tokens cost: in dollars at providers, in hours on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import psycopg

from pipelines.sampling import Estimate
from schemas.config import Config, Model
from schemas.documents import ModelInput
from schemas.errors import UnknownName
from schemas.prices import LIST_PRICES
from schemas.usage import Price, cost_usd
from transforms.embedders.base import Engine
from transforms.embedders.batching import embed_all
from transforms.embedders.loading import load_engine
from transforms.providers.base import known_price
from transforms.stored_integrations import integration_of, load_rows
from transforms.usage import local_rate

MEASURED_S = 2.0
"""How long the engine is tried; the buffer it began with is finished."""
MEASURED_BUFFER_TOKENS = 16_384
ENOUGH_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class ProviderCost:
    """What a provider asks; its own tokenizer counts some percent more or fewer.

    Args:
        source: where the price is from.
        integration: name of the configured endpoint whose price it is; None for a list price.
    """

    provider: str
    model: str
    usd: Decimal
    usd_low: Decimal
    usd_high: Decimal
    usd_per_million_tokens: Decimal
    as_of: date
    source: str
    integration: str | None = None


@dataclass(frozen=True, slots=True)
class LocalCost:
    """What the configured model takes here.

    Args:
        rate_from: `measured now`, `ledger` (runs of the last 30 days, on whatever machine) or `unknown`.
        tokens_per_s: of the engine alone; the rest of the job is done beside it.
        measured_tokens: that the rate stands on.
        machine_hours: of this machine as a whole.
        usd: at `usd_per_machine_hour`, where one is configured.
    """

    model: str
    engine: str
    arithmetic: str
    threads: int
    rate_from: str
    tokens_per_s: float | None
    measured_tokens: int
    machine_hours: float | None
    machine_hours_high: float | None
    usd_per_machine_hour: float | None
    usd: float | None


def provider_costs(tokens: Estimate) -> tuple[ProviderCost, ...]:
    """What each provider known would ask by its list price."""
    return tuple(_cost(listed.provider, listed.model, listed.price, tokens) for listed in LIST_PRICES)


def _cost(
    provider: str, model: str, price: Price, tokens: Estimate, integration: str | None = None
) -> ProviderCost:
    return ProviderCost(
        provider,
        model,
        cost_usd(tokens.value, price),
        cost_usd(tokens.low, price),
        cost_usd(tokens.high, price),
        price.usd_per_million_tokens,
        price.as_of,
        price.source,
        integration,
    )


def measure_engine(
    engine: Engine, inputs: Sequence[ModelInput], model: Model, clock: Callable[[], float] = time.perf_counter
) -> tuple[int, float]:
    """Embed some of `inputs` for about two seconds; tokens, and the seconds they took."""
    embed_all(engine, inputs[:16], model.max_batch_tokens)  # warms up
    buffer_tokens = min(model.max_buffer_tokens, MEASURED_BUFFER_TOKENS)
    tokens, began = 0, clock()
    start = gathered = 0
    for end, one in enumerate(inputs, start=1):
        gathered += len(one)
        if gathered >= buffer_tokens or end == len(inputs):
            tokens += embed_all(engine, inputs[start:end], model.max_batch_tokens).tokens
            start, gathered = end, 0
            if clock() - began >= MEASURED_S:
                break
    return tokens, clock() - began


def remote_cost(connection: psycopg.Connection, name: str, tokens: Estimate) -> ProviderCost:
    """What the endpoint asks that the model is configured for.

    Raises:
        UnknownName: there is no such integration.
        BadConfig: its row is wrong, or nobody has said what it costs.
    """
    row = load_rows(connection).get(name)
    if row is None:
        raise UnknownName(f"model.integration: there is no integration {name!r}: add it to [[integrations]]")
    integration = integration_of(row)
    price = known_price(integration)
    return _cost(integration.provider, integration.model, price, tokens, integration.name)


def local_cost(
    connection: psycopg.Connection,
    config: Config,
    space_id: str,
    inputs: Sequence[ModelInput],
    tokens: Estimate,
) -> LocalCost:
    """Hours of the configured engine, at the rate of a short run over `inputs`, or else of earlier runs."""
    engine = load_engine(config.model)
    rate_from, measured, seconds = "measured now", 0, 0.0
    if sum(map(len, inputs)) >= ENOUGH_TOKENS:
        measured, seconds = measure_engine(engine, inputs, config.model)
    if not measured:
        rate_from = "ledger"
        measured, seconds = local_rate(connection, space_id)
    rate = measured / seconds if seconds else None
    hours = tokens.value / rate / 3600 if rate else None
    price = config.backfill.usd_per_machine_hour
    return LocalCost(
        model=engine.space.model,
        engine=engine.facts.engine,
        arithmetic=engine.facts.arithmetic,
        threads=engine.facts.threads,
        rate_from=rate_from if rate else "unknown",
        tokens_per_s=rate,
        measured_tokens=measured,
        machine_hours=hours,
        machine_hours_high=tokens.high / rate / 3600 if rate else None,
        usd_per_machine_hour=price,
        usd=hours * price if hours is not None and price is not None else None,
    )

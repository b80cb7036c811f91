"""Try every endpoint that is configured, at no cost: its key, its model, the dimensions asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal

from schemas.config import Config
from schemas.errors import BadConfig, PipelineError, UnknownName
from schemas.integrations import Integration
from transforms.embedders.models import space_of
from transforms.postgres import open_store
from transforms.providers.base import ModelInfo
from transforms.providers.gateway import Gateway
from transforms.providers.inputs import RemoteWords
from transforms.providers.moderation import ModerationEndpoint, price_of_moderation
from transforms.providers.opening import open_provider
from transforms.routing.resolution import chain_of
from transforms.stored_integrations import Row, integration_of, load_rows

MAX_NAMED = 5
"""Models named where one is missing."""
HARMLESS = "The gate opens at noon."
PRICED = " ".join([HARMLESS] * 200)
"""So long that what a gateway adds to a text, as to a message of a chat, is little."""
PRICES_DIFFER = Decimal("0.2")
"""Share from which it cannot be that tokens are counted in another way."""

Attempt = tuple[str, Callable[[], str]]
"""What is tried, and how: gives what was found."""


def integration_attempts(config: Config) -> Iterator[Attempt]:
    """All endpoints of the table, those of the file among them, then what is made of them.

    Without a database only those of the file are known.
    """
    try:
        with open_store(config).connect() as connection:
            rows = load_rows(connection)
    except PipelineError:
        for integration in config.integrations:
            yield _attempt(integration.name, lambda one=integration: one, config)  # type: ignore[misc]
        return
    for name, row in rows.items():
        yield _attempt(name, lambda one=row: integration_of(one), config)  # type: ignore[misc]
    if config.model.integration is not None:
        yield "routing", lambda: _routing(config, rows)
    if config.moderation is not None:
        yield "moderation", lambda: _moderation(config, rows)


def _attempt(name: str, find: Callable[[], Integration], config: Config) -> Attempt:
    return f"integration {name}", lambda: try_integration(find(), config)


def try_integration(integration: Integration, config: Config) -> str:
    """Ask an endpoint what costs nothing; what was found, on one line.

    Raises:
        PipelineError: the key, the model or its dimensions are not as configured, or it cannot be asked.
    """
    dimensions = _dimensions_of(integration, config)
    if dimensions is None:
        if config.moderation is not None and config.moderation.integration == integration.name:
            return "for moderation alone: it says no dimensions"
        raise BadConfig(
            f'integration "{integration.name}" serves another space than [model]: give its dimensions'
        )
    with closing(open_provider(integration, dimensions)) as provider:
        provider.validate_credentials()
        listed = provider.available_models()
        # A deployment has any name; the list of Azure's account has what may be deployed.
        name = integration.weights_id if integration.provider == "azure" else integration.model
        if name not in listed:
            some = ", ".join([*listed[:MAX_NAMED], *["…"] * (len(listed) > MAX_NAMED)]) or "there are none"
            raise UnknownName(
                f'integration "{integration.name}": the key is good, but {name} is not among the models it may use'
                f" ({some}): check model"
            )
        gateways_usd = _gateways_usd(provider) if isinstance(provider, Gateway) else None
        return said_of(provider.model_info(integration.model), gateways_usd)


def said_of(info: ModelInfo, gateways_usd: Decimal | None) -> str:
    """An endpoint that is ready, on one line. Pure.

    Args:
        gateways_usd: for a million tokens, by the gateway's own price list; None where there is none.
    """
    limits, price = info.limits, info.price
    cost = f", ${price.usd_per_million_tokens} per million tokens as of {price.as_of}" if price else ""
    if price and gateways_usd is not None:
        ours = price.usd_per_million_tokens
        if abs(gateways_usd - ours) > PRICES_DIFFER * ours:
            cost += f", but the gateway charges ${gateways_usd:f}: see price_usd_per_million_tokens"
    return (
        f"{info.model}: key accepted, model available, {info.dimensions} dimensions, {limits.max_inputs:,} texts"
        f" and {limits.max_request_tokens:,} tokens a request{cost}"
    )


def _gateways_usd(gateway: Gateway) -> Decimal | None:
    """What it charges for a million tokens of text, None where it keeps no accounts."""
    try:
        usd = gateway.calculate_spend(PRICED)
    except PipelineError:
        return None
    return round(usd * 1_000_000 / RemoteWords().count(PRICED), 3)


def _dimensions_of(integration: Integration, config: Config) -> int | None:
    serves = integration.weights_id == config.model.name
    return integration.dimensions or (config.model.dimensions if serves else None)


def _routing(config: Config, rows: dict[str, Row]) -> str:
    first = config.model.integration or ""
    chain = chain_of(rows, first, space_of(config.model))
    return " -> ".join(integration.name for integration in chain)


def _moderation(config: Config, rows: dict[str, Row]) -> str:
    settings = config.moderation
    if settings is None or settings.integration not in rows:
        raise UnknownName("moderation: its integration is neither in the file nor in the table")
    integration = integration_of(rows[settings.integration])
    price = price_of_moderation(settings, integration).usd_per_million_tokens
    with closing(ModerationEndpoint(integration, settings.model)) as endpoint:
        if not price:
            endpoint.judge([HARMLESS])
        elif settings.model not in endpoint.available_models():
            raise UnknownName(
                f'integration "{integration.name}" has no model {settings.model}: check [moderation]'
            )
    cost = f", ${price:f} per million tokens" if price else ""
    return f"{settings.model} at {integration.name}{cost}; documents nobody can judge: {settings.on_failure}"

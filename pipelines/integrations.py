"""What is known of the endpoints that embed, as plain rows."""

from __future__ import annotations

from typing import Any

from schemas.config import Config
from schemas.integrations import Integration
from transforms.postgres import open_store
from transforms.providers.base import price_of
from transforms.stored_integrations import list_integrations


def read_integrations(config: Config) -> list[dict[str, Any]]:
    """All endpoints, by name, those that only stand in the table among them.

    Raises:
        BadConfig: a row of the table is not valid.
    """
    with open_store(config).connect() as connection:
        return [
            {
                **_row(stored.integration),
                "from": stored.origin,
                "used": stored.integration.name == config.model.integration,
            }
            for stored in list_integrations(connection)
        ]


def _row(integration: Integration) -> dict[str, Any]:
    price = price_of(integration)
    return {
        "name": integration.name,
        "provider": integration.provider,
        "model": integration.model,
        "weights": integration.weights_id,
        "dimensions": integration.dimensions,
        "usd_per_million_tokens": None if price is None else price.usd_per_million_tokens,
        "key": integration.api_key,
        "fallback": integration.fallback,
    }

"""Endpoints in Postgres: written from the configuration file, read by whoever routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pydantic import ValidationError

from schemas.errors import BadConfig, UnknownName
from schemas.integrations import Integration

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredIntegration:
    """An endpoint, and who looks after its row.

    Args:
        origin: `file` or `table`.
    """

    integration: Integration
    origin: str
    updated_at: datetime


_READ = """
SELECT i.name, i.origin, i.provider, i.model, i.url, i.api_key, i.api_version, i.weights, i.dimensions,
       i.price_usd_per_million_tokens, i.price_as_of, i.model_config AS limits,
       i.performance_config AS performance, fallback.name AS fallback, i.updated_at
FROM integrations AS i LEFT JOIN integrations AS fallback ON fallback.integration_id = i.fallback_integration_id
ORDER BY i.name
"""


def load_rows(connection: psycopg.Connection) -> dict[str, Row]:
    """All rows of `integrations` by name, as they stand; see `integration_of`."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return {row["name"]: row for row in cursor.execute(_READ)}


def integration_of(row: Row) -> Integration:
    """What a row says.

    Raises:
        BadConfig: it is not a valid integration, such as one with a key instead of a reference; never shows it.
    """
    given = {key: value for key, value in row.items() if key not in ("origin", "updated_at")}
    try:
        return Integration.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "row"
        message = first["msg"].removeprefix("Value error, ")
        raise BadConfig(f"table integrations, {row['name']}: {key}: {message}") from None


def list_integrations(connection: psycopg.Connection) -> list[StoredIntegration]:
    """All endpoints, by name.

    Raises:
        BadConfig: as `integration_of`.
    """
    return [
        StoredIntegration(integration_of(row), row["origin"], row["updated_at"])
        for row in load_rows(connection).values()
    ]


def configured_for(connection: psycopg.Connection, client: str) -> str | None:
    """Name of the integration that a client uses instead of what the file says."""
    found = connection.execute(
        "SELECT name FROM client_ai_configuration JOIN integrations ON integration_id = embedding_integration_id"
        " WHERE client = %s",
        [client],
    ).fetchone()
    return None if found is None else str(found[0])


def preferred_by(connection: psycopg.Connection, client: str) -> list[str]:
    """Names of the integrations that may be proposed to a client for a new space, best first."""
    rows = connection.execute(
        "SELECT name FROM client_ai_preferences JOIN integrations USING (integration_id)"
        " WHERE client = %s ORDER BY rank",
        [client],
    )
    return [name for (name,) in rows]


_UPSERT = """
INSERT INTO integrations AS known (
    name, origin, provider, model, url, api_key, api_version, weights, dimensions, price_usd_per_million_tokens,
    price_as_of, model_config, performance_config
)
VALUES (%s, 'file', %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (name) DO UPDATE SET
    provider = EXCLUDED.provider, model = EXCLUDED.model, url = EXCLUDED.url, api_key = EXCLUDED.api_key,
    api_version = EXCLUDED.api_version, weights = EXCLUDED.weights, dimensions = EXCLUDED.dimensions,
    price_usd_per_million_tokens = EXCLUDED.price_usd_per_million_tokens, price_as_of = EXCLUDED.price_as_of,
    model_config = EXCLUDED.model_config, performance_config = EXCLUDED.performance_config, updated_at = now()
"""

_LINK = """
UPDATE integrations SET updated_at = now(),
       fallback_integration_id = (SELECT integration_id FROM integrations WHERE name = %(fallback)s)
WHERE name = %(name)s
"""


def write_integrations(connection: psycopg.Connection, integrations: Sequence[Integration]) -> None:
    """Bring the table up to date with a configuration file, in one transaction. Rows of other files stay.

    Raises:
        BadConfig: a name is that of a row looked after in the table itself.
        UnknownName: a fallback is neither in the file nor in the table.
    """
    stored = load_rows(connection) if integrations else {}
    changed = [new for new in integrations if not _says_the_same(stored.get(new.name), new)]
    names = stored.keys() | {integration.name for integration in integrations}
    for integration in changed:
        if stored.get(integration.name, {}).get("origin") == "table":
            raise BadConfig(
                f"integrations: {integration.name} is in the table integrations and differs: take it out of the file,"
                " or give it another name"
            )
        if integration.fallback is not None and integration.fallback not in names:
            raise UnknownName(
                f"integrations.{integration.name}.fallback: there is no integration {integration.fallback!r}"
            )
    if not changed:
        return
    with connection.transaction(), connection.cursor() as cursor:
        ordered = sorted(changed, key=lambda integration: integration.name)
        cursor.executemany(_UPSERT, [_values(integration) for integration in ordered])
        cursor.executemany(_LINK, [{"name": new.name, "fallback": new.fallback} for new in ordered])


def _says_the_same(row: Row | None, integration: Integration) -> bool:
    try:
        return row is not None and integration_of(row) == integration
    except BadConfig:
        return False


def _values(integration: Integration) -> tuple[object, ...]:
    return (
        integration.name,
        integration.provider,
        integration.model,
        integration.url,
        integration.api_key,
        integration.api_version,
        integration.weights,
        integration.dimensions,
        integration.price_usd_per_million_tokens,
        integration.price_as_of,
        Jsonb(integration.limits.model_dump(exclude_none=True)),
        Jsonb(integration.performance.model_dump(exclude_defaults=True)),
    )

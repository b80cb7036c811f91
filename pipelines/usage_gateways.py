"""What gateways have counted, beside our ledger: LiteLLM's `/key/info` says what a key has spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal

import psycopg

from schemas.config import Config
from schemas.errors import PipelineError
from schemas.integrations import Integration
from transforms.postgres import is_refused, open_store
from transforms.providers.gateway import Gateway
from transforms.stored_integrations import list_integrations
from transforms.usage_sums import spent_through

TIMEOUT_S = 10.0
"""A look at costs does not wait as long as a run for a gateway that hangs."""


@dataclass(frozen=True, slots=True)
class GatewayTotal:
    """What a key has spent by the gateway's word, and by ours.

    Args:
        integrations: that ask with this key.
        ours_usd: all that the ledger has of them.
        theirs_usd: since the key was made, or its budget was last reset; None where the gateway did not say.
        problem: why it did not.
    """

    integrations: tuple[str, ...]
    ours_usd: Decimal
    theirs_usd: Decimal | None
    problem: str | None = None

    @property
    def difference_usd(self) -> Decimal | None:
        """Theirs less ours: what others have spent with the key, or what one of us has missed."""
        return None if self.theirs_usd is None else self.theirs_usd - self.ours_usd


def gateway_totals(config: Config) -> list[GatewayTotal]:
    """One request to each gateway that is configured, for each of its keys; none where our role may not see them."""
    with open_store(config).connect() as connection:
        try:
            stored = list_integrations(connection)
        except psycopg.Error as error:
            if is_refused(error):  # a reader of one client: keys are the owner's
                return []
            raise
        sharing: dict[tuple[str | None, str | None], list[Integration]] = defaultdict(list)
        for one in stored:
            if one.integration.provider == "gateway":
                sharing[one.integration.url, one.integration.api_key].append(one.integration)
        return [_total(connection, config, integrations) for integrations in sharing.values()]


def _total(
    connection: psycopg.Connection, config: Config, integrations: Sequence[Integration]
) -> GatewayTotal:
    names = tuple(integration.name for integration in integrations)
    ours_usd = spent_through(connection, names)
    first = integrations[0]
    performance = first.performance.model_copy(
        update={"timeout_s": min(TIMEOUT_S, first.performance.timeout_s)}
    )
    try:
        asked = first.model_copy(update={"performance": performance})
        with closing(Gateway(asked, first.dimensions or config.model.dimensions or 1)) as gateway:
            return GatewayTotal(names, ours_usd, gateway.key_info().spend_usd)
    except PipelineError as error:
        return GatewayTotal(names, ours_usd, None, str(error))

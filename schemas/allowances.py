"""What clients may use at providers: `[allowance]` of the file, or rows of `ai_rate_limits` and `ai_budgets`."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from schemas.integrations import ProviderName
from schemas.sections import ClientName, SecretReference, Section

EVERY: Final = "*"
"""Stands for all providers together."""

AllowedProvider = Literal[ProviderName, "*"]
Usd = Annotated[Decimal, Field(ge=0, le=1_000_000)]


class RateLimit(Section):
    """How much of a provider a client may use in a time; every rule that applies to a request must have room.

    Args:
        client: None is the file's own.
        provider: `*` counts all providers together.
        requests_per_minute: in any sixty seconds.
        tokens_per_hour: in any sixty minutes.
        cost_per_day_usd: from midnight to midnight, UTC.
    """

    client: ClientName | None = None
    provider: AllowedProvider = EVERY
    requests_per_minute: int | None = Field(default=None, ge=1, le=10**12)
    tokens_per_hour: int | None = Field(default=None, ge=1, le=10**15)
    cost_per_day_usd: Usd | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> RateLimit:
        if (
            self.requests_per_minute is None
            and self.tokens_per_hour is None
            and self.cost_per_day_usd is None
        ):
            raise ValueError("give requests_per_minute, tokens_per_hour or cost_per_day_usd")
        return self


class Budget(Section):
    """What a client may spend in a calendar month, UTC.

    Args:
        client: None is the file's own.
        provider: `*` counts all providers together.
        monthly_usd: beyond it no request is made, if `hard_limit`.
        alert_threshold: share of it at which an alert is raised.
        hard_limit: False only alerts.
    """

    client: ClientName | None = None
    provider: AllowedProvider = EVERY
    monthly_usd: Usd
    alert_threshold: Decimal = Field(default=Decimal("0.8"), gt=0, le=1)
    hard_limit: bool = True


class AllowanceSettings(Section):
    """Limits and budgets, where they are counted, and who is told.

    Args:
        kind: where all workers count together: `postgres`, beside the truth, or `redis`.
        url: reference to a Redis URL, which may hold a password; for `redis` alone.
        webhook: reference to a URL that alerts are posted to.
        rates: limits of the file; there may be more in the table `ai_rate_limits`.
        budgets: of the file; there may be more in the table `ai_budgets`.
    """

    kind: Literal["postgres", "redis"] = "postgres"
    url: SecretReference | None = None
    webhook: SecretReference | None = None
    rates: tuple[RateLimit, ...] = ()
    budgets: tuple[Budget, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> AllowanceSettings:
        if (self.kind == "redis") != (self.url is not None):
            raise ValueError(
                'kind "redis" needs url = "env:NAME" or "file:/path", and no other kind takes one'
            )
        for name, rules in (("rates", self.rates), ("budgets", self.budgets)):
            owners = [(rule.client, rule.provider) for rule in rules]
            if twice := {owner for owner in owners if owners.count(owner) > 1}:
                client, provider = min(twice, key=str)
                raise ValueError(
                    f"{name}: client {client or '(default)'} and provider {provider} stand twice"
                )
        return self

"""Endpoints that embed for us: `[[integrations]]` of the file, or rows of the table of that name."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.sections import SecretReference, Section

ProviderName = Literal["openai", "azure", "gemini", "vertex", "voyage", "mistral", "cohere", "gateway"]
IntegrationName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]

_NEEDS_URL = ("azure", "vertex", "gateway")
_NEEDS_KEY = ("openai", "azure", "gemini", "voyage", "mistral", "cohere")


class Limits(Section):
    """What one request may hold, where that differs from what is known of the model (column `model_config`).

    Args:
        max_inputs: texts.
        max_request_tokens: of all texts together.
        max_input_tokens: of one text.
    """

    max_inputs: int | None = Field(default=None, ge=1)
    max_request_tokens: int | None = Field(default=None, ge=16)
    max_input_tokens: int | None = Field(default=None, ge=16)


class Performance(Section):
    """How hard an endpoint is asked (column `performance_config`).

    Args:
        timeout_s: longest that one request may take.
        max_concurrency: requests at once, by each process.
        max_attempts: requests for one batch before it is given up; those that met a rate limit do not count.
    """

    timeout_s: float = Field(default=60, gt=0, le=600)
    max_concurrency: int = Field(default=4, ge=1, le=64)
    max_attempts: int = Field(default=5, ge=1, le=20)


class Integration(Section):
    """One endpoint.

    Args:
        name: as `[model] integration`, `fallback` and the tables know it.
        provider: whose API it speaks; `gateway` is any that is compatible with OpenAI's (LiteLLM, TEI, vLLM).
        model: as the endpoint calls it; for `azure` the deployment.
        url: where it is; None is the provider's own.
        api_key: reference to the key; a gateway may need none, and `vertex` takes the machine's own account without.
        api_version: of Azure's API.
        weights: names the weights behind it; None takes `model`. Two endpoints serve one space only if these and
            the dimensions are equal.
        dimensions: of a vector; None where `[model] dimensions` says all there is to say.
        price_usd_per_million_tokens: of input; None takes the provider's list price. 0 where nothing is billed.
        price_as_of: the day that price was read.
        limits: of a request.
        performance: see there.
        fallback: name of the integration that is asked when this one cannot be; it must serve the same space.
    """

    name: IntegrationName
    provider: ProviderName
    model: str = Field(min_length=1, max_length=200)
    url: str | None = Field(default=None, pattern=r"^https?://[^\s@]+$", max_length=2000)
    api_key: SecretReference | None = None
    api_version: str | None = None
    weights: str | None = Field(default=None, min_length=1, max_length=200)
    dimensions: int | None = Field(default=None, ge=1, le=16_000)
    price_usd_per_million_tokens: Decimal | None = Field(default=None, ge=0)
    price_as_of: date | None = None
    limits: Limits = Limits()
    performance: Performance = Performance()
    fallback: IntegrationName | None = None

    @property
    def weights_id(self) -> str:
        """What tells the weights apart from others."""
        return self.weights or self.model

    def differs_from(self, weights: str, dimensions: int | None) -> str | None:
        """Why this endpoint cannot serve a space, None when by its configuration it does."""
        if self.weights_id != weights:
            return f"{self.name} serves the weights {self.weights_id!r}, the space is of {weights!r}"
        if self.dimensions not in (None, dimensions):
            return f"{self.name} gives {self.dimensions} dimensions, the space has {dimensions}"
        return None

    @model_validator(mode="after")
    def _is_whole(self) -> Integration:
        if self.provider in _NEEDS_URL and self.url is None:
            raise ValueError(f"provider {self.provider} has no address of its own: give url")
        if self.provider in _NEEDS_KEY and self.api_key is None:
            raise ValueError(f'provider {self.provider} needs api_key = "env:NAME" or "file:/path"')
        if (self.price_usd_per_million_tokens is None) != (self.price_as_of is None):
            raise ValueError("price_usd_per_million_tokens and price_as_of go together")
        if self.fallback == self.name:
            raise ValueError("fallback names the integration itself")
        return self

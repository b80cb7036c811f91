"""The contract of a provider: one configured endpoint that turns texts into vectors. They do not know each other.

A provider makes one request for each call and says what became of it; who asks again, and whom, is not its business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from schemas.errors import BadConfig
from schemas.integrations import Integration, ProviderName
from schemas.prices import EARLIER_PRICES, LIST_PRICES
from schemas.usage import Price
from transforms.embedders.base import Vectors

Purpose = Literal["document", "query"]
"""What a text is embedded for: some models are asked in another way for each."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may hold.

    Args:
        max_inputs: texts.
        max_request_tokens: of all texts together.
        max_input_tokens: of one text.
    """

    max_inputs: int
    max_request_tokens: int
    max_input_tokens: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model behind an endpoint.

    Args:
        provider: as in the ledger.
        dimensions: of the vectors this endpoint is asked for.
        dimensions_settable: a request may ask for fewer than the model's own.
        price: dated and with its source; None where nobody has said.
    """

    provider: str
    model: str
    dimensions: int
    dimensions_settable: bool
    limits: RequestLimits
    price: Price | None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answered request.

    Args:
        vectors: float32, (texts, dimensions), finite, in the order asked.
        tokens_reported: as billed; None where the endpoint does not say.
        request_id: the provider's own, for its support; None where there is none.
    """

    vectors: Vectors
    tokens_reported: int | None
    request_id: str | None


class Provider(Protocol):
    """One configured endpoint. Methods may be called from several threads."""

    info: ModelInfo

    def embed(self, texts: Sequence[str], purpose: Purpose) -> Reply:
        """Vectors of texts that keep to `info.limits`, by one request that is not repeated.

        Raises:
            RateLimited: 429; with the seconds to wait, where it says them.
            ProviderUnavailable: 5xx, no connection, or half an answer.
            ProviderTimeout: no whole answer in time.
            BadAnswer: an answer that cannot be right: number, order, dimensions, NaN, not JSON.
            InputRefused: it does not take one of the texts.
            AccessRefused: 401, 403.
            WrongAddress: 404.
            OutOfCredit: the account has nothing left to pay with.
        """
        ...

    def validate_credentials(self) -> None:
        """Make a request that costs nothing and needs the key.

        Raises:
            As `embed`.
        """
        ...

    def available_models(self) -> tuple[str, ...]:
        """Embedding models this key may use, sorted; where an endpoint does not tell which are, all of them.

        Raises:
            As `embed`.
        """
        ...

    def model_info(self, model: str) -> ModelInfo:
        """What is known of a model, the endpoint asked where it can tell.

        Raises:
            UnknownName: nothing is.
            As `embed`.
        """
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


def known_as(integration: Integration) -> str:
    """The name that documentation and price lists have for its model: on Azure a deployment has one of its own."""
    return integration.weights_id if integration.provider == "azure" else integration.model


MOST_BILLED = 1.5
"""Tokens that a provider may bill for one counted here: of logs and code Voyage's tokenizer makes nearly as many."""
ADDED_TOKENS = 16
"""At most, by the words that some put before each text (Voyage's prompts, `google_api.prefixed`)."""


def most_billed(provider: ProviderName, tokens: int, inputs: int) -> int:
    """The most tokens that a request may be billed at, which is what is reserved for it.

    Args:
        tokens: of its texts, as counted here. OpenAI counts in the same way.
        inputs: texts in it.
    """
    if provider in ("openai", "azure"):
        return tokens
    return math.ceil(tokens * MOST_BILLED) + ADDED_TOKENS * inputs


_LISTED_AS = {"azure": "openai", "gemini": "google", "vertex": "google"}
"""Whose price list holds for a kind of endpoint, where the two have different names."""


def price_of(integration: Integration) -> Price | None:
    """What an endpoint asks: as configured, else by the list of its provider; None where neither says."""
    if integration.price_usd_per_million_tokens is not None and integration.price_as_of is not None:
        source = f"integration {integration.name}"
        return Price(integration.price_usd_per_million_tokens, integration.price_as_of, source)
    provider = _LISTED_AS.get(integration.provider, integration.provider)
    prices = {(listed.provider, listed.model): listed.price for listed in (*LIST_PRICES, *EARLIER_PRICES)}
    return prices.get((provider, known_as(integration)))


def known_price(integration: Integration) -> Price:
    """As `price_of`, where there must be one: what cannot be priced cannot be kept within a budget.

    Raises:
        BadConfig: neither says.
    """
    price = price_of(integration)
    if price is None:
        raise BadConfig(
            f'integration "{integration.name}": no list price of {known_as(integration)} is known: give '
            "price_usd_per_million_tokens and price_as_of, 0 where nothing is billed"
        )
    return price


def price_asked(info: ModelInfo) -> Price:
    """The price of an endpoint that `open_provider` opened: it opens none without."""
    assert info.price is not None, info.model
    return info.price


def limits_of(integration: Integration, own: RequestLimits) -> RequestLimits:
    """The limits of a provider's model, lowered or raised by the configuration."""
    said = integration.limits
    return RequestLimits(
        said.max_inputs or own.max_inputs,
        said.max_request_tokens or own.max_request_tokens,
        said.max_input_tokens or own.max_input_tokens,
    )

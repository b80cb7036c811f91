"""The table of the configuration file that says whether, and by whom, texts are judged before they are embedded."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Literal

from pydantic import Field, model_validator

from schemas.integrations import IntegrationName
from schemas.sections import Section


class Moderation(Section):
    """Texts are shown to a provider's moderation endpoint before they are embedded; what it flags is not stored.

    Args:
        integration: whose endpoint: one of provider `openai`, `mistral` or `gateway`. Its address, key and
            performance are taken, its model is not.
        model: that judges.
        on_failure: what becomes of a document that nobody could judge: `refuse` makes it a dead letter that can be
            tried again, `pass` embeds it and counts it. There is no default: it is a decision.
        price_usd_per_million_tokens: of judging; None takes the provider's list price (OpenAI's is 0). A gateway has
            none.
        price_as_of: the day that price was read.
    """

    integration: IntegrationName
    model: str = Field(default="omni-moderation-latest", min_length=1, max_length=200)
    on_failure: Literal["refuse", "pass"]
    price_usd_per_million_tokens: Decimal | None = Field(default=None, ge=0)
    price_as_of: date | None = None

    @model_validator(mode="after")
    def _price_is_dated(self) -> Moderation:
        if (self.price_usd_per_million_tokens is None) != (self.price_as_of is None):
            raise ValueError("price_usd_per_million_tokens and price_as_of go together")
        return self

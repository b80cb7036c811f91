"""What providers ask for embeddings, as their price pages said: for estimates, and for endpoints without a price.

Each counts tokens with its own tokenizer, which on the same text differs from a local model's by some percent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from schemas.usage import Price

READ_ON = date(2026, 11, 21)
"""The day they were looked up, in public copies of these pages or lists that quote them: see the page itself before
money depends on it."""


@dataclass(frozen=True, slots=True)
class ListPrice:
    """What one model costs, without discounts for batches, volume or free tokens."""

    provider: str
    model: str
    price: Price


def _listed(provider: str, source: str, usd_per_million_tokens: dict[str, str]) -> tuple[ListPrice, ...]:
    return tuple(
        ListPrice(provider, model, Price(Decimal(usd), READ_ON, source))
        for model, usd in usd_per_million_tokens.items()
    )


LIST_PRICES = (
    *_listed(
        "openai",
        "https://developers.openai.com/api/docs/pricing",
        {"text-embedding-3-small": "0.02", "text-embedding-3-large": "0.13"},
    ),
    *_listed("google", "https://ai.google.dev/gemini-api/docs/pricing", {"gemini-embedding-2": "0.20"}),
    *_listed(
        "voyage",
        "https://docs.voyageai.com/docs/pricing",
        {"voyage-4-lite": "0.02", "voyage-4": "0.06", "voyage-4-large": "0.12", "voyage-code-3": "0.18"},
    ),
    *_listed("mistral", "https://mistral.ai/pricing", {"mistral-embed": "0.10", "codestral-embed": "0.15"}),
    *_listed("cohere", "https://cohere.com/pricing", {"embed-v4.0": "0.12"}),
)
"""Of the models that are offered for new work."""

EARLIER_PRICES = (
    *_listed("openai", "https://developers.openai.com/api/docs/pricing", {"text-embedding-ada-002": "0.10"}),
    *_listed("google", "https://ai.google.dev/gemini-api/docs/pricing", {"gemini-embedding-001": "0.15"}),
    *_listed(
        "voyage",
        "https://docs.voyageai.com/docs/pricing",
        {
            "voyage-3-large": "0.18",
            "voyage-3.5": "0.06",
            "voyage-3.5-lite": "0.02",
            "voyage-finance-2": "0.12",
            "voyage-law-2": "0.12",
        },
    ),
    *_listed(
        "cohere",
        "https://cohere.com/pricing",
        {"embed-english-v3.0": "0.10", "embed-multilingual-v3.0": "0.10"},
    ),
)
"""Of models that many a space was made with and that are still served, or were."""

"""Moderation as OpenAI shapes it: texts in, for each whether it is flagged and in which categories.

https://platform.openai.com/docs/api-reference/moderations/create; LiteLLM passes it on. Mistral's has the same shape
without `flagged` (https://docs.mistral.ai/api/endpoint/classifiers): there any category that is true flags a text.
OpenAI's costs nothing, Mistral's is billed by the token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from schemas.errors import BadAnswer, BadConfig
from schemas.integrations import Integration
from schemas.moderation import Moderation
from schemas.prices import READ_ON
from schemas.usage import Price
from transforms.providers.answers import listed, members, names, whole_number
from transforms.providers.exchange import JsonClient, bearer, caller_of

URLS = {
    "openai": "https://api.openai.com/v1",
    "mistral": "https://api.mistral.ai/v1",
    "gateway": "",
}
PRICES = {
    "openai": Price(Decimal(0), READ_ON, "https://platform.openai.com/docs/guides/moderation"),
    "mistral": Price(Decimal("0.10"), READ_ON, "https://mistral.ai/pricing"),
}
MAX_CATEGORIES = 20
MAX_CATEGORY_CHARS = 40


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of a text.

    Args:
        categories: those it is flagged for, as the provider names them, sorted.
    """

    flagged: bool
    categories: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """An answered request.

    Args:
        verdicts: one for each text, in the order asked.
        tokens_reported: as billed; None where the endpoint does not say.
    """

    verdicts: tuple[Verdict, ...]
    tokens_reported: int | None
    request_id: str | None


def price_of_moderation(moderation: Moderation, integration: Integration) -> Price:
    """What an endpoint asks for judging: as configured, else by the list of its provider.

    Raises:
        BadConfig: neither says.
    """
    if moderation.price_usd_per_million_tokens is not None and moderation.price_as_of is not None:
        return Price(moderation.price_usd_per_million_tokens, moderation.price_as_of, "[moderation]")
    if integration.provider not in PRICES:
        raise BadConfig(
            f'moderation: nobody has said what {moderation.model} costs at integration "{integration.name}": give'
            " price_usd_per_million_tokens and price_as_of in [moderation], 0 where nothing is billed"
        )
    return PRICES[integration.provider]


class ModerationEndpoint:
    """Asks one endpoint, once for each call; may be used by several threads.

    Args:
        integration: where it is, and the key.
        model: that judges.
    Raises:
        BadConfig: the provider has no such endpoint.
    """

    def __init__(self, integration: Integration, model: str) -> None:
        if integration.provider not in URLS:
            raise BadConfig(
                f'moderation: integration "{integration.name}" is of provider {integration.provider}, which has no '
                f"moderation: take one of {', '.join(sorted(URLS))}"
            )
        self.integration = integration
        self.model = model
        headers = bearer(integration) if integration.api_key is not None else dict
        self._caller = caller_of(integration, "moderation", URLS[integration.provider], headers)
        self._client = JsonClient(self._caller)

    def judge(self, texts: Sequence[str]) -> Judged:
        """Verdicts over texts, by one request that is not repeated.

        Raises:
            As `transforms.providers.base.Provider.embed`.
        """
        answer = self._client.post("moderations", {"model": self.model, "input": list(texts)})
        tokens = whole_number(members(answer.body, "usage").get("total_tokens"))
        results = listed(answer.body, "results")
        verdicts = [verdict_of(result) for result in results]
        if len(verdicts) != len(texts) or None in verdicts:
            raise BadAnswer(
                f"{self._caller.place} gave {len(results)} verdicts for {len(texts)} texts, or none that say",
                tokens,
            )
        found = tuple(verdict for verdict in verdicts if verdict is not None)
        return Judged(found, tokens, answer.headers.get("x-request-id"))

    def available_models(self) -> tuple[str, ...]:
        """All models it has, which costs nothing to ask.

        Raises:
            As `judge`.
        """
        return tuple(sorted(set(names(self._client.get("models").body, "data", "id"))))

    def close(self) -> None:
        """Give connections back."""
        self._client.close()


def verdict_of(result: Any) -> Verdict | None:
    """What one result says; None where it says nothing of whether the text is flagged. Pure."""
    if not isinstance(result, dict):
        return None
    categories = members(result, "categories")
    true = sorted(name[:MAX_CATEGORY_CHARS] for name, value in categories.items() if value is True)
    flagged = result.get("flagged", bool(true) if categories else None)
    if not isinstance(flagged, bool):
        return None
    return Verdict(flagged, tuple(true[:MAX_CATEGORIES]) if flagged else ())

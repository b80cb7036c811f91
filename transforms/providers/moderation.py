"""Moderation as OpenAI shapes it: texts in, for each whether it is flagged and in which categories. It costs nothing.

https://platform.openai.com/docs/api-reference/moderations/create; LiteLLM passes it on. Mistral's has the same shape
without `flagged` (https://docs.mistral.ai/api/endpoint/classifiers): there any category that is true flags a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from schemas.errors import BadAnswer, BadConfig
from schemas.integrations import Integration
from transforms.providers.answers import listed, members
from transforms.providers.exchange import JsonClient, bearer, caller_of

URLS = {
    "openai": "https://api.openai.com/v1",
    "mistral": "https://api.mistral.ai/v1",
    "gateway": "",
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
    """An answered request: a verdict for each text, in the order asked."""

    verdicts: tuple[Verdict, ...]
    request_id: str | None


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
        results = listed(answer.body, "results")
        verdicts = [verdict_of(result) for result in results]
        if len(verdicts) != len(texts) or None in verdicts:
            raise BadAnswer(
                f"{self._caller.place} gave {len(results)} verdicts for {len(texts)} texts, or none that say"
            )
        found = tuple(verdict for verdict in verdicts if verdict is not None)
        return Judged(found, answer.headers.get("x-request-id"))

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

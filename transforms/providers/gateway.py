"""Any endpoint that speaks OpenAI's API: LiteLLM's proxy, Text Embeddings Inference, vLLM.

Their pages: https://docs.litellm.ai/docs/proxy/user_keys, https://huggingface.co/docs/text-embeddings-inference,
https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html. Each decides itself what one request may hold:
unless the configuration says more, it is what Text Embeddings Inference takes unconfigured.
`/key/info` and `/spend/calculate` are LiteLLM's own (https://docs.litellm.ai/docs/proxy/virtual_keys).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from schemas.errors import BadAnswer, OutOfCredit, PipelineError, ProviderUnavailable, UnknownName
from schemas.integrations import Integration
from transforms.providers.answers import listed_reply, members, names
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits
from transforms.providers.exchange import JsonClient, bearer, caller_of, codes
from transforms.providers.models import described

OTHERWISE = RequestLimits(max_inputs=32, max_request_tokens=16_384, max_input_tokens=8192)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What LiteLLM knows of the key it is asked with.

    Args:
        spend_usd: since the key was made, or its budget was last reset.
        max_budget_usd: None without a budget.
    """

    spend_usd: Decimal
    max_budget_usd: Decimal | None


class Gateway:
    """A `Provider`. `dimensions` is sent only where the integration states them: not every gateway takes it."""

    def __init__(self, integration: Integration, dimensions: int) -> None:
        self.info = described(integration, dimensions, {}, OTHERWISE)
        self._asks_for_dimensions = integration.dimensions is not None
        headers = bearer(integration) if integration.api_key is not None else dict
        self._caller = caller_of(integration, "gateway", "", headers, meaning)
        self._client = JsonClient(self._caller)
        root = integration.model_copy(update={"url": self._caller.base_url.removesuffix("/v1")})
        self._own = JsonClient(caller_of(root, "LiteLLM", "", headers, meaning))

    def embed(self, texts: Sequence[str], purpose: Purpose) -> Reply:
        """As `Provider.embed`. Numbers come as JSON has them: not every gateway knows base64."""
        body: dict[str, object] = {"model": self.info.model, "input": list(texts), "encoding_format": "float"}
        if self._asks_for_dimensions:
            body["dimensions"] = self.info.dimensions
        answer = self._client.post("embeddings", body)
        return listed_reply(self._caller.place, answer, len(texts), self.info.dimensions)

    def validate_credentials(self) -> None:
        """List models."""
        self._client.get("models")

    def available_models(self) -> tuple[str, ...]:
        """All models it has: it does not say which embed."""
        return tuple(sorted(set(names(self._client.get("models").body, "data", "id"))))

    def model_info(self, model: str) -> ModelInfo:
        """As `Provider.model_info`: the configured model alone is known, if the gateway has it."""
        if model != self.info.model or model not in self.available_models():
            raise UnknownName(f"{self._caller.place} has no model {model}: check model, or what it serves")
        return self.info

    def key_info(self) -> KeyInfo:
        """What the gateway has counted for this key (LiteLLM's `/key/info`).

        Raises:
            WrongAddress: this gateway counts nothing.
            As `embed`.
        """
        info = members(self._own.get("key/info").body, "info")
        spend = _usd(info.get("spend"))
        if spend is None:
            raise BadAnswer(f"{self._caller.place} did not say what the key has spent")
        return KeyInfo(spend, _usd(info.get("max_budget")))

    def calculate_spend(self, text: str) -> Decimal:
        """Dollars that the gateway would charge to embed a text (LiteLLM's `/spend/calculate`); nothing is billed.

        Raises:
            WrongAddress: this gateway counts nothing.
            As `embed`.
        """
        body = {"model": self.info.model, "messages": [{"role": "user", "content": text}]}
        cost = _usd(self._own.post("spend/calculate", body).body.get("cost"))
        if cost is None:
            raise BadAnswer(f"{self._caller.place} did not say what that would cost")
        return cost

    def close(self) -> None:
        """Give connections back."""
        self._client.close()
        self._own.close()


def meaning(status: int, body: Any) -> type[PipelineError] | None:
    """LiteLLM says 400 when a budget is used up; Text Embeddings Inference 424 when its model failed."""
    if "budget_exceeded" in codes(body):
        return OutOfCredit
    return ProviderUnavailable if status == 424 else None


def _usd(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        usd = Decimal(str(value))
    except InvalidOperation:
        return None
    return usd if usd.is_finite() and usd >= 0 else None

"""Embeddings of Mistral AI.

https://docs.mistral.ai/api/endpoint/embeddings says what a request holds. How much of it, its refusals say:
"Too many tokens in batch. Max is 16384", and 256 texts are taken where 257 are not. Text that is too long is refused.
Documents and queries are embedded alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.errors import PipelineError, QueryRefused, WrongAddress
from schemas.integrations import Integration
from transforms.providers.answers import listed, listed_reply, names
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits
from transforms.providers.exchange import JsonClient, bearer, caller_of, codes
from transforms.providers.models import KnownModel, described, described_other

URL = "https://api.mistral.ai/v1"
OTHERWISE = RequestLimits(max_inputs=256, max_request_tokens=16_384, max_input_tokens=8192)
MODELS = {
    "mistral-embed": KnownModel(1024, OTHERWISE),
    "codestral-embed": KnownModel(1536, OTHERWISE, range(1, 3073)),
}


class Mistral:
    """A `Provider`.

    Raises:
        DimensionMismatch: the model has no vectors of so many dimensions.
    """

    def __init__(self, integration: Integration, dimensions: int) -> None:
        self.info = described(integration, dimensions, MODELS, OTHERWISE)
        self._integration = integration
        self._caller = caller_of(integration, "Mistral", URL, bearer(integration), meaning)
        self._client = JsonClient(self._caller)

    def embed(self, texts: Sequence[str], purpose: Purpose) -> Reply:
        """As `Provider.embed`."""
        body: dict[str, object] = {"model": self.info.model, "input": list(texts)}
        if self.info.dimensions_settable:
            body["output_dimension"] = self.info.dimensions
        answer = self._client.post("embeddings", body)
        return listed_reply(self._caller.place, answer, len(texts), self.info.dimensions)

    def validate_credentials(self) -> None:
        """Ask which models there are."""
        self.available_models()

    def available_models(self) -> tuple[str, ...]:
        """Models with `embed` in their name: what a model is for is not listed."""
        answer = self._client.get("models")
        return tuple(sorted({name for name in names(answer.body, "data", "id") if "embed" in name}))

    def model_info(self, model: str) -> ModelInfo:
        """As `Provider.model_info`, from the documentation."""
        return self.info if model == self.info.model else described_other(self._integration, model, MODELS)

    def close(self) -> None:
        """Give connections back."""
        self._client.close()


def meaning(status: int, body: Any) -> type[PipelineError] | None:
    """A 400 may be about the model, a 422 about another member of the request than its texts."""
    if status == 400 and "invalid_model" in codes(body):
        return WrongAddress
    if status == 422 and isinstance(body, dict):
        places = [problem.get("loc") for problem in listed(body, "detail") if isinstance(problem, dict)]
        if places and not any(isinstance(place, list) and "input" in place for place in places):
            return QueryRefused
    return None

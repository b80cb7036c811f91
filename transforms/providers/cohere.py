"""Embeddings of Cohere, by version 2 of its API.

https://docs.cohere.com/reference/embed says what a request holds, https://docs.cohere.com/docs/models#embed which
models there are, https://docs.cohere.com/reference/errors what its refusals mean. Vectors come in the order asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.errors import BadAnswer, InputRefused, PipelineError, ProviderUnavailable
from schemas.integrations import Integration
from transforms.providers.answers import listed, members, names, to_vectors, whole_number
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits
from transforms.providers.exchange import JsonClient, bearer, caller_of
from transforms.providers.models import KnownModel, described, described_other

URL = "https://api.cohere.com"
MAX_INPUTS = 96
MAX_PAGES = 20
INPUT_TYPES = {"document": "search_document", "query": "search_query"}

_THIRD = RequestLimits(MAX_INPUTS, MAX_INPUTS * 512, 512)
OTHERWISE = _THIRD
MODELS = {
    "embed-v4.0": KnownModel(
        1536, RequestLimits(MAX_INPUTS, 128_000, 128_000), frozenset({256, 512, 1024, 1536})
    ),
    "embed-english-v3.0": KnownModel(1024, _THIRD),
    "embed-multilingual-v3.0": KnownModel(1024, _THIRD),
    "embed-english-light-v3.0": KnownModel(384, _THIRD),
    "embed-multilingual-light-v3.0": KnownModel(384, _THIRD),
}


class Cohere:
    """A `Provider`.

    Raises:
        DimensionMismatch: the model has no vectors of so many dimensions.
    """

    def __init__(self, integration: Integration, dimensions: int) -> None:
        self.info = described(integration, dimensions, MODELS, OTHERWISE)
        self._integration = integration
        self._caller = caller_of(integration, "Cohere", URL, bearer(integration), meaning)
        self._client = JsonClient(self._caller)

    def embed(self, texts: Sequence[str], purpose: Purpose) -> Reply:
        """As `Provider.embed`. A text that is too long is refused, not cut: `truncate` is `NONE`."""
        body: dict[str, object] = {
            "model": self.info.model,
            "texts": list(texts),
            "input_type": INPUT_TYPES[purpose],
            "embedding_types": ["float"],
            "truncate": "NONE",
        }
        if self.info.dimensions_settable:
            body["output_dimension"] = self.info.dimensions
        answer = self._client.post("v2/embed", body)
        billed = members(members(answer.body, "meta"), "billed_units")
        tokens = whole_number(billed.get("input_tokens"))
        rows = listed(members(answer.body, "embeddings"), "float")
        vectors = to_vectors(self._caller.place, enumerate(rows), len(texts), self.info.dimensions, tokens)
        request_id = answer.body.get("id")
        return Reply(vectors, tokens, request_id if isinstance(request_id, str) else None)

    def validate_credentials(self) -> None:
        """Ask whether the key is valid (https://docs.cohere.com/reference/check-api-key)."""
        self._client.post("v1/check-api-key", {})

    def available_models(self) -> tuple[str, ...]:
        """Those that are for embeddings (https://docs.cohere.com/reference/list-models)."""
        found: set[str] = set()
        params = {"endpoint": "embed", "page_size": "1000"}
        for _ in range(MAX_PAGES):
            answer = self._client.get("v1/models", params)
            found.update(names(answer.body, "models", "name"))
            token = answer.body.get("next_page_token")
            if not isinstance(token, str) or not token:
                return tuple(sorted(found))
            params = {**params, "page_token": token}
        raise BadAnswer(f"{self._caller.place} lists models without an end")

    def model_info(self, model: str) -> ModelInfo:
        """As `Provider.model_info`, from the documentation."""
        return self.info if model == self.info.model else described_other(self._integration, model, MODELS)

    def close(self) -> None:
        """Give connections back."""
        self._client.close()


def meaning(status: int, body: Any) -> type[PipelineError] | None:
    """498: a text holds what Cohere does not take. 499: the request was given up on its side."""
    return {498: InputRefused, 499: ProviderUnavailable}.get(status)

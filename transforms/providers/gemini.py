"""Embeddings of the Gemini API, by API key.

https://ai.google.dev/api/embeddings says what a request holds, https://ai.google.dev/gemini-api/docs/embeddings which
models there are. It cuts a text that is too long and does not say so, and has no switch against it (`autoTruncate` is
Vertex's): what keeps texts whole is `max_input_tokens` alone, to which the engine keeps. Shortened vectors of
gemini-embedding-001 do not come with length 1; the engine sees to that for every provider.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.integrations import Integration
from transforms.providers import google_api
from transforms.providers.answers import listed, members, to_vectors, whole_number
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits
from transforms.providers.exchange import JsonClient, caller_of, key_of
from transforms.providers.models import KnownModel, described, described_other

URL = "https://generativelanguage.googleapis.com/v1beta"
MAX_INPUTS = 100  # "at most 100 requests can be in one batch"
INPUT_SHARE = 0.8
"""Of a text's limit that is used: it counts with a tokenizer of its own, and tells nobody what it cut."""
MAX_REQUEST_TOKENS = 100_000  # ours: none is documented, and the minute's quota is that of many accounts
DIMENSIONS = range(128, 3073)
OTHERWISE = RequestLimits(MAX_INPUTS, MAX_REQUEST_TOKENS, int(2048 * INPUT_SHARE))
MODELS = {
    "gemini-embedding-2": KnownModel(
        3072,
        RequestLimits(MAX_INPUTS, MAX_REQUEST_TOKENS, int((8192 - google_api.PREFIX_TOKENS) * INPUT_SHARE)),
        DIMENSIONS,
    ),
    "gemini-embedding-001": KnownModel(3072, OTHERWISE, DIMENSIONS),
}


class Gemini:
    """A `Provider`.

    Raises:
        DimensionMismatch: the model has no vectors of so many dimensions.
    """

    def __init__(self, integration: Integration, dimensions: int) -> None:
        self.info = described(integration, dimensions, MODELS, OTHERWISE)
        self._integration = integration
        self._caller = caller_of(
            integration,
            "the Gemini API",
            URL,
            lambda: {"x-goog-api-key": key_of(integration)},
            google_api.meaning,
            google_api.wait_s,
        )
        self._client = JsonClient(self._caller)

    def embed(self, texts: Sequence[str], purpose: Purpose) -> Reply:
        """As `Provider.embed`. Vectors come in the order asked."""
        requests = [self._request(text, purpose) for text in texts]
        answer = self._client.post(f"models/{self.info.model}:batchEmbedContents", {"requests": requests})
        tokens = whole_number(members(answer.body, "usageMetadata").get("promptTokenCount"))
        rows = [item.get("values") for item in listed(answer.body, "embeddings") if isinstance(item, dict)]
        vectors = to_vectors(self._caller.place, enumerate(rows), len(texts), self.info.dimensions, tokens)
        return Reply(vectors, tokens, None)

    def _request(self, text: str, purpose: Purpose) -> dict[str, object]:
        by_prefix = google_api.takes_prefix(self.info.model)
        text = google_api.prefixed(text, purpose) if by_prefix else text
        request: dict[str, object] = {
            "model": f"models/{self.info.model}",
            "content": {"parts": [{"text": text}]},
        }
        if not by_prefix:
            request["taskType"] = google_api.TASKS[purpose]
        if self.info.dimensions_settable:
            request["outputDimensionality"] = self.info.dimensions
        return request

    def validate_credentials(self) -> None:
        """Ask for one model of the list."""
        self._client.get("models", {"pageSize": "1"})

    def available_models(self) -> tuple[str, ...]:
        """Models that embed, one text or a batch (https://ai.google.dev/api/models#method:-models.list)."""
        found = google_api.pages(self._client, self._caller.place, "models", "models")
        return tuple(
            sorted(
                str(model.get("name")).removeprefix("models/")
                for model in found
                if any(
                    "embed" in str(method).lower() for method in listed(model, "supportedGenerationMethods")
                )
            )
        )

    def model_info(self, model: str) -> ModelInfo:
        """As `Provider.model_info`, from the documentation."""
        return self.info if model == self.info.model else described_other(self._integration, model, MODELS)

    def close(self) -> None:
        """Give connections back."""
        self._client.close()

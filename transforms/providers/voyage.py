"""Embeddings of Voyage AI, which Anthropic names for use beside its own models.

https://docs.voyageai.com/reference/embeddings-api says what a request holds and how much of it,
https://docs.voyageai.com/docs/embeddings which models there are. Vectors come with length 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.errors import InputRefused
from schemas.integrations import Integration
from transforms.providers.answers import listed_reply
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits
from transforms.providers.exchange import JsonClient, bearer, caller_of
from transforms.providers.models import KnownModel, described, described_other

URL = "https://api.voyageai.com/v1"
MAX_INPUTS = 1000
PROMPT_TOKENS = 16
"""`input_type` puts a sentence before each text, which counts: "Represent the document for retrieval: "."""

_SIZES = frozenset({256, 512, 1024, 2048})


def _model(max_request_tokens: int, context: int = 32_000, settable: frozenset[int] = _SIZES) -> KnownModel:
    return KnownModel(1024, RequestLimits(MAX_INPUTS, max_request_tokens, context - PROMPT_TOKENS), settable)


MODELS = {
    "voyage-4-large": _model(120_000),
    "voyage-4": _model(320_000),
    "voyage-4-lite": _model(1_000_000),
    "voyage-3-large": _model(120_000),
    "voyage-3.5": _model(320_000),
    "voyage-3.5-lite": _model(1_000_000),
    "voyage-code-3": _model(120_000),
    "voyage-finance-2": _model(120_000, settable=frozenset()),
    "voyage-law-2": _model(120_000, 16_000, frozenset()),
}
"""The three of the fourth generation share one space: `weights = "voyage-4"` says so, where that is wanted."""
OTHERWISE = RequestLimits(MAX_INPUTS, 120_000, 16_000 - PROMPT_TOKENS)


class Voyage:
    """A `Provider`.

    Raises:
        DimensionMismatch: the model has no vectors of so many dimensions.
    """

    def __init__(self, integration: Integration, dimensions: int) -> None:
        self.info = described(integration, dimensions, MODELS, OTHERWISE)
        self._integration = integration
        self._caller = caller_of(integration, "Voyage AI", URL, bearer(integration))
        self._client = JsonClient(self._caller)

    def embed(self, texts: Sequence[str], purpose: Purpose) -> Reply:
        """As `Provider.embed`. A text that is too long is refused, not cut: `truncation` is off."""
        body: dict[str, object] = {
            "model": self.info.model,
            "input": list(texts),
            "input_type": purpose,
            "truncation": False,
        }
        if self.info.dimensions_settable:
            body["output_dimension"] = self.info.dimensions
        answer = self._client.post("embeddings", body)
        return listed_reply(self._caller.place, answer, len(texts), self.info.dimensions)

    def validate_credentials(self) -> None:
        """Ask for no vector at all: whoever is known is told that this is no request, and pays nothing."""
        try:
            self._client.post("embeddings", {"model": self.info.model, "input": []})
        except InputRefused:
            return

    def available_models(self) -> tuple[str, ...]:
        """Those of the documentation, and the one configured: there is no request that lists them."""
        return tuple(sorted({*MODELS, self.info.model}))

    def model_info(self, model: str) -> ModelInfo:
        """As `Provider.model_info`, from the documentation."""
        return self.info if model == self.info.model else described_other(self._integration, model, MODELS)

    def close(self) -> None:
        """Give connections back."""
        self._client.close()

"""Embeddings of Vertex AI: Google's models in a Google Cloud project, by access token or service account.

https://docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api says what a request
holds: one text of gemini-embedding-001, 250 of text-embedding-005, no more than 20,000 tokens. gemini-embedding-2 is
asked by `embedContent`, one text at a time
(https://docs.cloud.google.com/gemini-enterprise-agent-platform/reference/rest/v1beta1/projects.locations.publishers.models/embedContent).
Google bills text-embedding models by characters: they need a price in the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from schemas.errors import BadConfig, InputRefused
from schemas.integrations import Integration
from transforms.providers import google_api
from transforms.providers.answers import listed, members, to_vectors, whole_number
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits
from transforms.providers.exchange import Answer, JsonClient, caller_of
from transforms.providers.google_access import GoogleAccess
from transforms.providers.models import KnownModel, described, described_other

OTHERWISE = RequestLimits(max_inputs=1, max_request_tokens=2048, max_input_tokens=2048)
_MANY = RequestLimits(max_inputs=250, max_request_tokens=20_000, max_input_tokens=2048)
MODELS = {
    "gemini-embedding-2": KnownModel(
        3072, RequestLimits(1, 8192, 8192 - google_api.PREFIX_TOKENS), range(128, 3073)
    ),
    "gemini-embedding-001": KnownModel(3072, OTHERWISE, range(1, 3073)),
    "text-embedding-005": KnownModel(768, _MANY, range(1, 769)),
    "text-multilingual-embedding-002": KnownModel(768, _MANY, range(1, 769)),
}


class Vertex:
    """A `Provider`.

    Raises:
        BadConfig: the URL is not that of a location in a project.
        DimensionMismatch: the model has no vectors of so many dimensions.
    """

    def __init__(self, integration: Integration, dimensions: int) -> None:
        self.info = described(integration, dimensions, MODELS, OTHERWISE)
        self._integration = integration
        url = (integration.url or "").rstrip("/")
        root, _, location = url.partition("/projects/")
        if location.split("/")[1:2] != ["locations"]:
            raise BadConfig(
                f'integration "{integration.name}": url of Vertex AI is https://REGION-aiplatform.googleapis.com/v1'
                "/projects/PROJECT/locations/REGION"
            )
        access = GoogleAccess(integration)
        self._caller = caller_of(
            integration, "Vertex AI", url, access.headers, google_api.meaning, google_api.wait_s
        )
        self._client = JsonClient(self._caller)
        self._catalogue = JsonClient(
            caller_of(
                integration.model_copy(update={"url": root}),
                "Vertex AI",
                root,
                access.headers,
                google_api.meaning,
                google_api.wait_s,
            )
        )

    def embed(self, texts: Sequence[str], purpose: Purpose) -> Reply:
        """As `Provider.embed`. A text that is too long is refused, not cut: `autoTruncate` is off."""
        if google_api.takes_prefix(self.info.model):
            return self._embed_content(texts, purpose)
        parameters: dict[str, object] = {"autoTruncate": False}
        if self.info.dimensions_settable:
            parameters["outputDimensionality"] = self.info.dimensions
        instances = [{"content": text, "task_type": google_api.TASKS[purpose]} for text in texts]
        answer = self._ask("predict", {"instances": instances, "parameters": parameters})
        rows = [
            members(item, "embeddings")
            for item in listed(answer.body, "predictions")
            if isinstance(item, dict)
        ]
        statistics = [members(row, "statistics") for row in rows]
        counts = [whole_number(one.get("token_count")) for one in statistics]
        tokens = sum(count for count in counts if count is not None) if None not in counts else None
        self._refuse_cut(any(one.get("truncated") is True for one in statistics))
        return self._reply([row.get("values") for row in rows], len(texts), tokens)

    def _embed_content(self, texts: Sequence[str], purpose: Purpose) -> Reply:
        if len(texts) != 1:
            raise InputRefused(f"{self._caller.place} takes one text in a request of {self.info.model}")
        config: dict[str, object] = {"autoTruncate": False}
        if self.info.dimensions_settable:
            config["outputDimensionality"] = self.info.dimensions
        content = {"parts": [{"text": google_api.prefixed(texts[0], purpose)}]}
        answer = self._ask("embedContent", {"content": content, "embedContentConfig": config})
        self._refuse_cut(answer.body.get("truncated") is True)
        tokens = whole_number(members(answer.body, "usageMetadata").get("promptTokenCount"))
        return self._reply([members(answer.body, "embedding").get("values")], 1, tokens)

    def _ask(self, method: str, body: dict[str, object]) -> Answer:
        return self._client.post(f"publishers/google/models/{self.info.model}:{method}", body)

    def _refuse_cut(self, cut: bool) -> None:
        if cut:
            raise InputRefused(f"{self._caller.place} cut a text that is longer than {self.info.model} takes")

    def _reply(self, rows: Sequence[Any], count: int, tokens: int | None) -> Reply:
        vectors = to_vectors(self._caller.place, enumerate(rows), count, self.info.dimensions, tokens)
        return Reply(vectors, tokens, None)

    def validate_credentials(self) -> None:
        """Ask for the description of the model, which needs a token and costs nothing."""
        self._catalogue.get(f"publishers/google/models/{self.info.model}")

    def available_models(self) -> tuple[str, ...]:
        """The model configured, where the catalogue has it: Vertex lists its whole model garden or nothing.

        https://docs.cloud.google.com/vertex-ai/docs/reference/rest/v1/publishers.models/get
        """
        self.validate_credentials()
        return (self.info.model,)

    def model_info(self, model: str) -> ModelInfo:
        """As `Provider.model_info`, from the documentation."""
        return self.info if model == self.info.model else described_other(self._integration, model, MODELS)

    def close(self) -> None:
        """Give connections back."""
        self._client.close()
        self._catalogue.close()

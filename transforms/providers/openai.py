"""Embeddings of OpenAI, at OpenAI itself or on Azure, by the official client.

https://developers.openai.com/api/reference/resources/embeddings says what a request holds: 2,048 texts, each of 8,192
tokens, together of 300,000; Azure's page says the same. Vectors come with length 1, shortened ones too.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import httpx
import httpx2
import numpy as np
import openai
import orjson

from schemas.errors import BadAnswer, PipelineError, ProviderTimeout, ProviderUnavailable, WrongAddress
from schemas.http_wire import BodyTooLarge, Overdue, TornBody
from schemas.integrations import Integration
from transforms.providers.answers import listed, members, names, to_vectors, whole_number
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits
from transforms.providers.exchange import (
    MAX_ANSWER_BYTES,
    MAX_CONNECT_S,
    Caller,
    caller_of,
    key_of,
    of_status,
)
from transforms.providers.models import KnownModel, described, described_other

URL = "https://api.openai.com/v1"
AZURE_API_VERSION = "2024-10-21"
LIMITS = RequestLimits(max_inputs=2048, max_request_tokens=300_000, max_input_tokens=8192)
MODELS = {
    "text-embedding-3-small": KnownModel(1536, LIMITS, range(1, 1537)),
    "text-embedding-3-large": KnownModel(3072, LIMITS, range(1, 3073)),
    "text-embedding-ada-002": KnownModel(1536, LIMITS),
}

T = TypeVar("T")

for _name in ("openai", "httpx2", "httpcore2"):  # they would log addresses, and requests with their texts
    logging.getLogger(_name).setLevel(logging.WARNING)


class OpenAI:
    """A `Provider`, for `openai` and `azure`. On Azure `model` is the deployment, `weights` what it deploys.

    Raises:
        BadConfig: the key is not where it should be.
        DimensionMismatch: the model has no vectors of so many dimensions.
    """

    def __init__(self, integration: Integration, dimensions: int) -> None:
        self._integration = integration
        self.info = described(integration, dimensions, MODELS, LIMITS)
        self._sends_dimensions = self.info.dimensions_settable or integration.dimensions is not None
        product = "Azure OpenAI" if integration.provider == "azure" else "OpenAI"
        self._caller = caller_of(integration, product, URL, dict)
        self._client = _client(integration, self._caller)

    def embed(self, texts: Sequence[str], purpose: Purpose) -> Reply:
        """As `Provider.embed`. Numbers are asked for in base64: a third of the bytes, and nothing to parse."""
        dimensions = self.info.dimensions if self._sends_dimensions else openai.omit
        answer = self._asked(
            lambda: self._client.embeddings.with_raw_response.create(
                model=self.info.model, input=list(texts), dimensions=dimensions, encoding_format="base64"
            )
        )
        request_id = answer.headers.get("x-request-id")
        return read_reply(self._caller.place, answer.content, request_id, len(texts), self.info.dimensions)

    def validate_credentials(self) -> None:
        """List models, which costs nothing."""
        self._asked(lambda: self._client.models.with_raw_response.list())

    def available_models(self) -> tuple[str, ...]:
        """Models of this key whose names say that they embed."""
        answer = self._asked(lambda: self._client.models.with_raw_response.list())
        found = names(_members_of(self._caller.place, answer.content), "data", "id")
        return tuple(sorted(name for name in found if "embed" in name))

    def model_info(self, model: str) -> ModelInfo:
        """As `Provider.model_info`, from the documentation."""
        return self.info if model == self.info.model else described_other(self._integration, model, MODELS)

    def close(self) -> None:
        """Give connections back."""
        self._client.close()

    def _asked(self, ask: Callable[[], T]) -> T:
        """What `ask` gives, or one of our errors: the client's own know the request, key and texts and all."""
        try:
            return ask()
        except openai.APIStatusError as error:
            answered = httpx.Response(error.status_code, headers=list(error.response.headers.items()))
            problem = of_status(self._caller, answered, error.body, datetime.now(UTC))
        except (openai.APIConnectionError, httpx2.HTTPError, Overdue, TornBody, BodyTooLarge) as error:
            problem = of_connection(self._caller.place, error.__cause__ or error)
        raise problem


def _client(integration: Integration, caller: Caller) -> openai.OpenAI:
    """The official client, which repeats nothing and goes nowhere else, whatever the environment says."""
    timeout = httpx2.Timeout(caller.timeout_s, connect=min(MAX_CONNECT_S, caller.timeout_s))
    http = httpx2.Client(
        timeout=timeout,
        follow_redirects=False,
        headers={"accept-encoding": "identity"},
        event_hooks={"response": [partial(_bound, caller)]},
    )
    key = key_of(integration)
    if integration.provider == "azure":
        return openai.AzureOpenAI(
            api_key=key,
            api_version=integration.api_version or AZURE_API_VERSION,
            azure_endpoint=caller.base_url,
            azure_deployment=integration.model,
            max_retries=0,
            timeout=timeout,
            http_client=http,
        )
    return openai.OpenAI(
        api_key=key, base_url=caller.base_url, max_retries=0, timeout=timeout, http_client=http
    )


class _BoundedStream(httpx2.SyncByteStream):
    """A body that may take so many seconds and bytes; httpx bounds each read, not their sum."""

    def __init__(self, inner: httpx2.SyncByteStream, total_s: float) -> None:
        self._inner = inner
        self._until_s = time.monotonic() + total_s

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._inner:
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise BodyTooLarge
            if time.monotonic() > self._until_s:
                raise Overdue
            yield piece

    def close(self) -> None:
        self._inner.close()


def _bound(caller: Caller, response: httpx2.Response) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise TornBody  # none was asked for, and a small one may unpack to any size
    if isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _BoundedStream(response.stream, caller.timeout_s)


def of_connection(place: str, error: BaseException) -> PipelineError:
    """What a request means that got no whole answer; pure."""
    match error:
        case httpx2.ConnectTimeout() | httpx2.ConnectError() | httpx2.ProxyError():
            line = f"{place} cannot be connected to: check url, the network and the proxy if it never can"
            return ProviderUnavailable(line, False)
        case Overdue() | httpx2.TimeoutException() | openai.APITimeoutError():
            return ProviderTimeout(
                f"{place} did not answer in time: raise performance.timeout_s if it never does"
            )
        case BodyTooLarge():
            return BadAnswer(f"{place} sent more than {MAX_ANSWER_BYTES >> 20} MiB")
        case httpx2.InvalidURL() | httpx2.UnsupportedProtocol():
            return WrongAddress(f"{place}: not an address that can be asked: check url")
    return ProviderUnavailable(f"{place} broke the connection")


def read_reply(place: str, body: bytes, request_id: str | None, count: int, dimensions: int) -> Reply:
    """An answer with numbers in base64; pure.

    Raises:
        BadAnswer: it is not JSON, or as `to_vectors`.
    """
    answer = _members_of(place, body)
    tokens = whole_number(members(answer, "usage").get("total_tokens"))
    items = [item for item in listed(answer, "data") if isinstance(item, dict)]
    indexed = [(item.get("index"), _numbers(item.get("embedding"))) for item in items]
    return Reply(to_vectors(place, indexed, count, dimensions, tokens), tokens, request_id)


def _numbers(embedding: Any) -> Any:
    """float32 from base64; what is none as it is."""
    if not isinstance(embedding, str):
        return embedding
    try:
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    except (binascii.Error, ValueError):
        return None


def _members_of(place: str, body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise BadAnswer(f"{place} sent something else than a JSON object")
    return answer

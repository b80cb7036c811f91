"""A provider of embeddings that speaks OpenAI's API, Azure's way to it and LiteLLM's own: an ASGI application.

fake = FakeProvider()
with serve(fake) as url:
    fake.plan = every(3, rate_limited())
    ...
assert fake.requests == 3 and fake.tokens_billed == 12

Its vectors are those of `vector_of`. What it counts is the truth that a ledger is compared with.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from tests.fakes.serving import App, Fault, Message, Receive, Send, answer, changed, slow, torn

KEY = "sk-of-the-fake"
MODEL = "fake-embed"
DIMENSIONS = 16
MARK = "REFUSE-THIS"
"""A text with it is refused, and its whole request."""

Json = dict[str, Any]
Plan = Callable[[int], Fault | None]
"""What the n-th request for embeddings, from 0, meets; None lets it through."""


def vector_of(text: str, dimensions: int = DIMENSIONS, weights: str = MODEL) -> npt.NDArray[np.float32]:
    """A unit vector that depends on text and weights; with fewer dimensions, the beginning of the longer one."""
    stream = hashlib.shake_128(f"{weights}\0{text}".encode()).digest(2 * dimensions)
    raw = np.frombuffer(stream, "<i2").astype(np.float32) + 0.5
    unit: npt.NDArray[np.float32] = raw / np.float32(np.linalg.norm(raw))
    return unit


def words(text: str) -> int:
    """How the fake counts tokens unless it is told otherwise."""
    return max(1, len(text.split()))


@dataclass
class FakeProvider:
    """The application; its settings may change while it is served.

    Args:
        model: the one it has.
        weights: behind it; others give other vectors of as many dimensions.
        dimensions: of its vectors, where fewer are not asked for.
        count: tokens of a text, as it bills them.
        key: that it lets in.
        usd_per_million_tokens: for LiteLLM's addresses.
        max_inputs: of a request.
        max_request_tokens: of a request.
        plan: what goes wrong.
    """

    model: str = MODEL
    weights: str = MODEL
    dimensions: int = DIMENSIONS
    count: Callable[[str], int] = words
    key: str = KEY
    usd_per_million_tokens: float = 0.02
    max_inputs: int = 2048
    max_request_tokens: int = 300_000
    plan: Plan = lambda number: None
    requests: int = 0  # for embeddings, whatever became of them
    tokens_asked: int = 0  # of all of these
    tokens_billed: int = 0  # of those it computed, whether its answer arrived or not
    most_at_once: int = 0
    texts: Counter[str] = field(default_factory=Counter)  # asked for -> how often
    asked: Counter[str] = field(default_factory=Counter)  # path -> requests of any kind
    at_once: int = 0  # requests it is at
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def usd_billed(self) -> float:
        """What LiteLLM would say was spent."""
        return self.tokens_billed * self.usd_per_million_tokens / 1e6

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        scope["abort"] = receive.__self__.transport.abort  # type: ignore[attr-defined]  # uvicorn's own
        path = scope["path"].removeprefix("/v1")
        with self._lock:
            self.asked[path] += 1

        async def again() -> Message:
            return {"type": "http.request", "body": body}

        if not path.endswith("/embeddings"):
            await self._other(path, body, scope, send)
            return
        fault = self._counted(body)
        try:
            await (
                fault(self._embeddings, scope, again, send) if fault else self._embeddings(scope, again, send)
            )
        finally:
            with self._lock:
                self.at_once -= 1

    def _counted(self, body: bytes) -> Fault | None:
        with self._lock:
            number, self.requests = self.requests, self.requests + 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            texts = _texts(orjson.loads(body))
            self.tokens_asked += sum(map(self.count, texts))
            self.texts.update(texts)
            return self.plan(number)

    async def _embeddings(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        status, content = self._embedded(orjson.loads((await receive())["body"]), scope)
        await _respond(send, status, content)

    def _embedded(self, asked: Json, scope: MutableMapping[str, Any]) -> tuple[int, Any]:
        if not self._knows(scope):
            return _error(401, "Incorrect API key provided.", "invalid_api_key")
        if asked.get("model", _deployment(scope["path"])) != self.model:
            return _error(404, f"The model `{asked.get('model')}` does not exist.", "model_not_found")
        texts = _texts(asked)
        tokens = sum(map(self.count, texts))
        if any(MARK in text or not text for text in texts):
            return _error(400, "'$.input' is invalid.", None)
        if len(texts) > self.max_inputs or tokens > self.max_request_tokens:
            return _error(400, "Too much in one request.", "too_large")
        with self._lock:
            self.tokens_billed += tokens
        dimensions = asked.get("dimensions", self.dimensions)
        vectors = [vector_of(text, dimensions, self.weights) for text in texts]
        if asked.get("encoding_format") == "base64":
            shown: list[Any] = [
                base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors
            ]
        else:
            shown = [vector.tolist() for vector in vectors]
        data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(shown)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return 200, {"object": "list", "data": data, "model": self.model, "usage": usage}

    async def _other(self, path: str, body: bytes, scope: MutableMapping[str, Any], send: Send) -> None:
        model = {"id": self.model, "object": "model", "created": 1, "owned_by": "fake"}
        if not self._knows(scope):
            status, content = _error(401, "Incorrect API key provided.", "invalid_api_key")
        elif path in ("/models", "/openai/models"):
            chat = {**model, "id": "fake-chat"}
            status, content = 200, {"object": "list", "data": [chat, model]}
        elif path == f"/models/{self.model}":
            status, content = 200, model
        elif path == "/spend/calculate":
            tokens = sum(map(self.count, _spend_texts(orjson.loads(body))))
            status, content = 200, {"cost": tokens * self.usd_per_million_tokens / 1e6}
        elif path == "/key/info":
            info = {"key_name": "sk-...fake", "spend": self.usd_billed, "max_budget": 25.0}
            status, content = 200, {"key": "hash-of-the-key", "info": info}
        else:
            status, content = _error(404, "Not found.", None)
        await _respond(send, status, content)

    def _knows(self, scope: MutableMapping[str, Any]) -> bool:
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        return self.key in (headers.get("authorization", "").removeprefix("Bearer "), headers.get("api-key"))


def _texts(asked: Json) -> list[str]:
    given = asked["input"]
    return [given] if isinstance(given, str) else given


def _spend_texts(asked: Json) -> list[str]:
    return [str(message.get("content", "")) for message in asked.get("messages", [])]


def _deployment(path: str) -> str:
    return path.split("/deployments/")[-1].split("/")[0]


def _error(status: int, message: str, code: str | None) -> tuple[int, Json]:
    return status, {
        "error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    }


async def _respond(send: Send, status: int, content: Any) -> None:
    body = orjson.dumps(content)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", b"req_of_the_fake"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def every(step: int, fault: Fault, *, until: int = 10**9) -> Plan:
    """The first request and each `step`-th after it meet `fault`, up to the request of number `until`."""
    return lambda number: fault if number % step == 0 and number < until else None


def first(times: int, fault: Fault) -> Plan:
    """So many requests meet `fault`, then none."""
    return lambda number: fault if number < times else None


def always(fault: Fault) -> Plan:
    """All requests meet `fault`."""
    return lambda number: fault


def rate_limited(retry_after_s: float | None = None) -> Fault:
    """429, as OpenAI says it; with the seconds to wait, where they are given."""
    headers = {} if retry_after_s is None else {"retry-after": f"{retry_after_s:g}"}
    error = {"message": "Rate limit reached.", "type": "tokens", "param": None, "code": "rate_limit_exceeded"}
    return answer(429, headers, {"error": error})


def out_of_credit() -> Fault:
    """429 of another kind: waiting does not help."""
    error = {
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    }
    return answer(429, {}, {"error": error})


def broken(status: int = 500) -> Fault:
    """An error of its own."""
    return answer(status, {}, {"error": {"message": "The server had an error.", "type": "server_error"}})


def late(seconds: float) -> Fault:
    """The right answer, after so long."""
    return slow(seconds)


def half() -> Fault:
    """The connection closes in the middle of the answer, which was billed."""
    return torn(0.5)


def fewer() -> Fault:
    """An answer without its last vector."""
    return _with_data(lambda data: data[:-1])


def shuffled() -> Fault:
    """Vectors in another order than asked, each with its right number."""
    return _with_data(lambda data: data[::-1])


def misnumbered() -> Fault:
    """Two vectors have the same number."""
    return _with_data(lambda data: [{**item, "index": max(0, item["index"] - 1)} for item in data])


def wrong_dimension() -> Fault:
    """Vectors with one number too few."""
    return _with_data(lambda data: [{**item, "embedding": _shorter(item["embedding"])} for item in data])


def not_a_number() -> Fault:
    """The last vector begins with NaN."""
    return _with_data(lambda data: [*data[:-1], {**data[-1], "embedding": _with_nan(data[-1]["embedding"])}])


def dropped(after_computing: bool = False) -> Fault:
    """The connection is cut without a byte of an answer; it may have been billed all the same."""

    async def fault(app: App, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async def unsent(message: Message) -> None:
            return

        if after_computing:
            await app(scope, receive, unsent)
        scope["abort"]()
        await asyncio.sleep(0.01)  # until uvicorn has noticed

    return fault


def _with_data(change: Callable[[list[Json]], list[Json]]) -> Fault:
    def of_body(headers: dict[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
        content = orjson.loads(body)
        if "data" in content:
            content["data"] = change(content["data"])
        return headers, orjson.dumps(content).replace(b'"NaN"', b"NaN")

    return changed(of_body)


def _shorter(embedding: Any) -> Any:
    if isinstance(embedding, str):
        return base64.b64encode(base64.b64decode(embedding)[:-4]).decode()
    return embedding[:-1]


def _with_nan(embedding: Any) -> Any:
    if isinstance(embedding, str):
        nan = np.array([np.nan], "<f4").tobytes()
        return base64.b64encode(nan + base64.b64decode(embedding)[4:]).decode()
    return ["NaN", *embedding[1:]]

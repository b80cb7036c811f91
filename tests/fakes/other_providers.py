"""Gemini, Vertex AI, Voyage, Mistral and Cohere as their documentation describes them: ASGI applications.

faults = Faults(fake_voyage)
with serve(faults) as url:
    ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import orjson

from tests.fakes.embedding_provider import vector_of, words
from tests.fakes.serving import App, Message, MutableMapping, Receive, Send

KEY = "key-of-the-fakes"
TOO_LONG = "TOO-LONG"
"""A text with it is longer than any model takes."""

Json = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A request: body is its JSON, None without one."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any

    @property
    def bearer(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


Handler = Callable[[Asked], tuple[int, Any]]


def application(handle: Handler) -> App:
    """Serve what `handle` says, as JSON."""

    async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message: Message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        query = dict(parse_qsl(scope["query_string"].decode()))
        asked = Asked(scope["method"], scope["path"], query, headers, orjson.loads(body) if body else None)
        status, content = handle(asked)
        raw = orjson.dumps(content)
        shown = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(raw)).encode()),
            (b"x-request-id", b"req-of-the-fake"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": shown})
        await send({"type": "http.response.body", "body": raw})

    return app


def _listed(texts: list[str], dimensions: int) -> Json:
    """As OpenAI lists vectors; last first, since nothing promises an order but `index`."""
    data = [
        {"object": "embedding", "embedding": vector_of(text, dimensions).tolist(), "index": index}
        for index, text in enumerate(texts)
    ]
    return {"object": "list", "data": data[::-1], "usage": {"total_tokens": sum(map(words, texts))}}


def _voyage(asked: Asked) -> tuple[int, Any]:
    """https://docs.voyageai.com/reference/embeddings-api"""
    if asked.bearer != KEY:
        return 401, {"detail": "Provided API key is invalid."}
    if (asked.method, asked.path) != ("POST", "/v1/embeddings"):
        return 404, {"detail": "Not Found"}
    texts = asked.body["input"]
    if not texts:
        return 400, {"detail": "Input cannot be an empty list."}
    if len(texts) > 1000:
        return 400, {"detail": "The batch size limit is 1000."}
    if any(TOO_LONG in text for text in texts) and not asked.body.get("truncation", True):
        return 400, {"detail": "The example at index 0 in your batch has too many tokens."}
    return 200, {"model": asked.body["model"], **_listed(texts, asked.body.get("output_dimension", 1024))}


def _mistral(asked: Asked) -> tuple[int, Any]:
    """https://docs.mistral.ai/api/endpoint/embeddings and /models"""
    if asked.bearer != KEY:
        return 401, {"message": "Unauthorized", "request_id": "1"}
    if (asked.method, asked.path) == ("GET", "/v1/models"):
        models = ("mistral-embed", "mistral-large-latest", "codestral-embed")
        return 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in models]}
    if (asked.method, asked.path) != ("POST", "/v1/embeddings"):
        return 404, {"message": "no Route matched with those values"}
    body = asked.body
    if "embed" not in body["model"]:
        return 400, _of_mistral("Invalid model", "invalid_model", "1500")
    if body.get("output_dimension", 1) > 3072:
        problem = {"type": "less_than_equal", "loc": ["body", "output_dimension"], "msg": "too large"}
        return 422, {"detail": [problem]}
    if any(TOO_LONG in text for text in body["input"]):
        return 400, _of_mistral("Too many tokens overall", "invalid_request_prompt", "3210")
    if len(body["input"]) > 256:
        return 400, _of_mistral("Too many inputs in request", "invalid_request_prompt", "3210")
    own = 1536 if "codestral" in body["model"] else 1024
    listed = _listed(body["input"], body.get("output_dimension", own))
    listed["usage"] |= {"prompt_tokens": listed["usage"]["total_tokens"], "completion_tokens": 0}
    return 200, {"id": "1", "model": body["model"], **listed}


def _of_mistral(message: str, kind: str, code: str) -> Json:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


def _cohere(asked: Asked) -> tuple[int, Any]:
    """https://docs.cohere.com/reference/embed, /check-api-key, /list-models"""
    if asked.bearer != KEY:
        return 401, {"message": "invalid api token"}
    match asked.method, asked.path:
        case "POST", "/v1/check-api-key":
            return 200, {"valid": True, "organization_id": "o", "owner_id": "w"}
        case "GET", "/v1/models":
            assert asked.query["endpoint"] == "embed"
            if "page_token" not in asked.query:
                return 200, {"models": [{"name": "embed-v4.0"}], "next_page_token": "more"}
            return 200, {"models": [{"name": "embed-english-v3.0"}]}
        case "POST", "/v2/embed":
            body = asked.body
            if len(body["texts"]) > 96:
                return 400, {"message": "invalid request: at most 96 texts per call", "id": "1"}
            if any(TOO_LONG in text for text in body["texts"]) and body.get("truncate", "END") == "NONE":
                return 400, {
                    "message": "invalid request: total number of tokens exceeds the limit",
                    "id": "1",
                }
            dimensions = body.get("output_dimension", 1536 if "v4" in body["model"] else 1024)
            return 200, {
                "id": "id-of-the-fake",
                "embeddings": {"float": [vector_of(text, dimensions).tolist() for text in body["texts"]]},
                "texts": body["texts"],
                "meta": {
                    "api_version": {"version": "2"},
                    "billed_units": {"input_tokens": float(sum(map(words, body["texts"])))},
                },
                "response_type": "embeddings_by_type",
            }
    return 404, {"message": "not found"}


def of_google(code: int, status: str, *details: Json) -> Json:
    """https://google.aip.dev/193"""
    return {"error": {"code": code, "message": "of the fake", "status": status, "details": list(details)}}


BAD_KEY = of_google(
    400,
    "INVALID_ARGUMENT",
    {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
    },
)


def _gemini(asked: Asked) -> tuple[int, Any]:
    """https://ai.google.dev/api/embeddings and /models; what is too long is cut in silence."""
    if asked.headers.get("x-goog-api-key") != KEY:
        return 400, BAD_KEY
    if (asked.method, asked.path) == ("GET", "/v1beta/models"):
        if asked.query.get("pageToken") == "more":
            return 200, {"models": [_google_model("gemini-embedding-001", "embedContent")]}
        models = [
            _google_model("gemini-embedding-2", "embedContent", "asyncBatchEmbedContent"),
            _google_model("gemini-3-flash", "generateContent"),
        ]
        return 200, {"models": models, "nextPageToken": "more"}
    model = asked.path.removeprefix("/v1beta/models/").removesuffix(":batchEmbedContents")
    if not model.startswith("gemini-embedding"):
        return 404, of_google(404, "NOT_FOUND")
    requests = asked.body["requests"]
    if len(requests) > 100:
        return 400, of_google(400, "INVALID_ARGUMENT")
    assert all(request["model"] == f"models/{model}" for request in requests)
    texts = [request["content"]["parts"][0]["text"] for request in requests]
    vectors = [
        3 * vector_of(text, request.get("outputDimensionality", 3072))  # cut short, their length is not 1
        for text, request in zip(texts, requests, strict=True)
    ]
    return 200, {
        "embeddings": [{"values": vector.tolist()} for vector in vectors],
        "usageMetadata": {"promptTokenCount": sum(map(words, texts))},
    }


def _google_model(name: str, *methods: str) -> Json:
    return {"name": f"models/{name}", "inputTokenLimit": 2048, "supportedGenerationMethods": list(methods)}


VERTEX_PATH = "/v1/projects/mill/locations/europe-west4"


def _vertex(asked: Asked) -> tuple[int, Any]:
    """https://docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/text-embeddings-api"""
    if asked.bearer != KEY:
        return 401, of_google(401, "UNAUTHENTICATED")
    if asked.method == "GET":
        name = asked.path.removeprefix("/v1/publishers/google/models/")
        if "embedding" not in name:
            return 404, of_google(404, "NOT_FOUND")
        return 200, {"name": f"publishers/google/models/{name}", "launchStage": "GA"}
    model, _, method = asked.path.removeprefix(f"{VERTEX_PATH}/publishers/google/models/").partition(":")
    if model == "gemini-embedding-2" and method == "embedContent":
        text = asked.body["content"]["parts"][0]["text"]
        vector = vector_of(text, asked.body["embedContentConfig"].get("outputDimensionality", 3072))
        return 200, {
            "embedding": {"values": vector.tolist()},
            "usageMetadata": {"promptTokenCount": words(text)},
            "truncated": TOO_LONG in text,
        }
    if method != "predict":
        return 404, of_google(404, "NOT_FOUND")
    instances, parameters = asked.body["instances"], asked.body["parameters"]
    texts = [instance["content"] for instance in instances]
    if len(texts) > (250 if model.startswith("text-") else 1):
        return 400, of_google(400, "INVALID_ARGUMENT")
    if any(TOO_LONG in text for text in texts) and not parameters.get("autoTruncate", True):
        return 400, of_google(400, "INVALID_ARGUMENT")
    dimensions = parameters.get("outputDimensionality", 768)
    return 200, {
        "predictions": [
            {
                "embeddings": {
                    "values": vector_of(text, dimensions).tolist(),
                    "statistics": {"token_count": words(text), "truncated": False},
                }
            }
            for text in texts
        ]
    }


FLAG = "FLAG-THIS"
"""A text with it is flagged by moderation."""


def _moderation(asked: Asked) -> tuple[int, Any]:
    """https://platform.openai.com/docs/api-reference/moderations/object"""
    if asked.bearer != KEY:
        return 401, {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}}
    if (asked.method, asked.path) != ("POST", "/v1/moderations"):
        return 404, {"error": {"message": "Not found."}}
    if any(TOO_LONG in text for text in asked.body["input"]):
        return 400, {"error": {"message": "Too long.", "type": "invalid_request_error", "code": None}}
    results = [
        {
            "flagged": FLAG in text,
            "categories": {"harassment": FLAG in text, "violence/graphic": FLAG in text, "sexual": False},
            "category_scores": {"harassment": 0.9, "violence/graphic": 0.8, "sexual": 0.1},
            "category_applied_input_types": {
                "harassment": ["text"],
                "violence/graphic": ["text"],
                "sexual": [],
            },
        }
        for text in asked.body["input"]
    ]
    return 200, {"id": "modr-1", "model": asked.body["model"], "results": results}


fake_voyage = application(_voyage)
fake_mistral = application(_mistral)
fake_cohere = application(_cohere)
fake_gemini = application(_gemini)
fake_vertex = application(_vertex)
fake_moderation = application(_moderation)

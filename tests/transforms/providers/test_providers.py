"""What holds for every provider that is asked by plain HTTP, and how each is asked."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from schemas.errors import (
    AccessRefused,
    BadAnswer,
    BadConfig,
    DimensionMismatch,
    InputRefused,
    NotAllowed,
    PipelineError,
    ProviderTimeout,
    ProviderUnavailable,
    QueryRefused,
    RateLimited,
    UnknownName,
    WrongAddress,
)
from tests.fakes.embedding_provider import vector_of, words
from tests.fakes.other_providers import BAD_KEY, KEY, TOO_LONG, of_google
from tests.fakes.serving import Faults, Stage, answer, slow
from tests.transforms.providers.kinds import COHERE, GEMINI, KINDS, MISTRAL, VERTEX, VOYAGE, Kind
from transforms.providers.base import Provider, Purpose

TEXTS = ["the gate jams in frost", "a sluice", "water, über alles"]


class Place:
    """A provider of some kind that asks its fake, and what can go wrong between them."""

    def __init__(self, kind: Kind, stage: Stage, url: str) -> None:
        self.kind = kind
        self.faults = Faults(kind.fake)
        self._url = url
        stage.app = self.faults

    def provider(self, dimensions: int | None = None, **changes: Any) -> Provider:
        integration = self.kind.integration(self._url, **changes)
        return self.kind.make(integration, dimensions or self.kind.dimensions)

    def bodies(self) -> list[Any]:
        return [orjson.loads(bytes(seen.body)) for seen in self.faults.requests]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.provider)
def place(request: pytest.FixtureRequest, stage: tuple[Stage, str]) -> Place:
    return Place(request.param, *stage)


@pytest.fixture
def provider(place: Place) -> Iterator[Provider]:
    with closing(place.provider()) as provider:
        yield provider


def test_vectors_come_in_the_order_asked_and_tokens_as_billed(place: Place, provider: Provider) -> None:
    reply = provider.embed(TEXTS, "document")
    assert reply.vectors.dtype == np.float32
    assert reply.vectors.shape == (3, place.kind.dimensions)
    for text, vector in zip(TEXTS, reply.vectors, strict=True):
        wanted = vector_of(text, place.kind.dimensions)
        assert float(vector @ wanted) / float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-6)
    assert reply.tokens_reported == sum(map(words, TEXTS))
    assert len(place.faults.requests) == 1


@pytest.mark.parametrize(
    ("kind", "purpose", "path", "body"),
    [
        (
            VOYAGE,
            "document",
            "/v1/embeddings",
            {
                "model": "voyage-4",
                "input": ["a", "b"],
                "input_type": "document",
                "truncation": False,
                "output_dimension": 512,
            },
        ),
        (
            VOYAGE,
            "query",
            "/v1/embeddings",
            {
                "model": "voyage-4",
                "input": ["a", "b"],
                "input_type": "query",
                "truncation": False,
                "output_dimension": 512,
            },
        ),
        (
            MISTRAL,
            "query",
            "/v1/embeddings",
            {"model": "codestral-embed", "input": ["a", "b"], "output_dimension": 768},
        ),
        (
            COHERE,
            "document",
            "/v2/embed",
            {
                "model": "embed-v4.0",
                "texts": ["a", "b"],
                "input_type": "search_document",
                "embedding_types": ["float"],
                "truncate": "NONE",
                "output_dimension": 256,
            },
        ),
        (
            COHERE,
            "query",
            "/v2/embed",
            {
                "model": "embed-v4.0",
                "texts": ["a", "b"],
                "input_type": "search_query",
                "embedding_types": ["float"],
                "truncate": "NONE",
                "output_dimension": 256,
            },
        ),
        (
            GEMINI,
            "document",
            "/v1beta/models/gemini-embedding-001:batchEmbedContents",
            {
                "requests": [
                    {
                        "model": "models/gemini-embedding-001",
                        "content": {"parts": [{"text": text}]},
                        "taskType": "RETRIEVAL_DOCUMENT",
                        "outputDimensionality": 768,
                    }
                    for text in "ab"
                ]
            },
        ),
        (
            VERTEX,
            "query",
            "/v1/projects/mill/locations/europe-west4/publishers/google/models/text-embedding-005:predict",
            {
                "instances": [{"content": text, "task_type": "RETRIEVAL_QUERY"} for text in "ab"],
                "parameters": {"autoTruncate": False, "outputDimensionality": 256},
            },
        ),
    ],
    ids=lambda value: value.provider if isinstance(value, Kind) else None,
)
def test_each_is_asked_in_its_own_words(
    stage: tuple[Stage, str], kind: Kind, purpose: Purpose, path: str, body: Any
) -> None:
    place = Place(kind, *stage)
    with closing(place.provider()) as provider:
        provider.embed(["a", "b"], purpose)
    assert place.faults.paths() == [path]
    assert place.bodies() == [body]


@pytest.mark.parametrize(
    ("purpose", "text"), [("document", "title: none | text: a"), ("query", "task: search result | query: a")]
)
@pytest.mark.parametrize("kind", [GEMINI, VERTEX], ids=lambda kind: kind.provider)
def test_gemini_embedding_2_is_told_by_words_what_a_text_is_for(
    stage: tuple[Stage, str], kind: Kind, purpose: Purpose, text: str
) -> None:
    place = Place(kind, *stage)
    with closing(place.provider(768, model="gemini-embedding-2")) as provider:
        reply = provider.embed(["a"], purpose)
    (body,) = place.bodies()
    request = body["requests"][0] if kind is GEMINI else body
    assert request["content"] == {"parts": [{"text": text}]}
    assert "taskType" not in request
    assert reply.vectors.shape == (1, 768)
    assert reply.tokens_reported == words(text)


def test_a_model_whose_dimensions_cannot_be_chosen_is_not_asked_to(stage: tuple[Stage, str]) -> None:
    place = Place(MISTRAL, *stage)
    with closing(place.provider(1024, model="mistral-embed")) as provider:
        assert provider.embed(["a"], "document").vectors.shape == (1, 1024)
    assert place.bodies() == [{"model": "mistral-embed", "input": ["a"]}]


def test_a_model_that_came_out_since_is_asked_for_its_own_dimensions(place: Place) -> None:
    with closing(place.provider(dimensions=1234, model="gemini-embedding-9-embed")) as provider:
        assert not provider.info.dimensions_settable
        assert provider.info.limits.max_inputs >= 1


def test_dimensions_that_a_model_has_not_are_refused_at_once(place: Place) -> None:
    with pytest.raises(DimensionMismatch, match=r"model\.dimensions says 9999"):
        place.provider(dimensions=9999)
    assert place.faults.requests == []


def test_limits_of_the_configuration_stand_before_those_known(place: Place) -> None:
    with closing(place.provider(limits={"max_inputs": 7, "max_input_tokens": 99})) as provider:
        own = provider.info.limits.max_request_tokens
        assert (provider.info.limits.max_inputs, provider.info.limits.max_input_tokens) == (7, 99)
        assert own > 99


@pytest.mark.parametrize(("model", "takes"), [("gemini-embedding-001", 2048), ("gemini-embedding-2", 8192)])
def test_the_gemini_api_which_cuts_in_silence_is_given_less_than_it_takes(
    stage: tuple[Stage, str], model: str, takes: int
) -> None:
    """It counts with a tokenizer of its own."""
    with closing(Place(GEMINI, *stage).provider(model=model)) as provider:
        assert takes / 2 < provider.info.limits.max_input_tokens <= 0.8 * takes


@pytest.mark.parametrize("kind", [VOYAGE, MISTRAL, COHERE, VERTEX], ids=lambda kind: kind.provider)
def test_a_text_that_is_too_long_is_refused_and_not_cut(stage: tuple[Stage, str], kind: Kind) -> None:
    place = Place(kind, *stage)
    with closing(place.provider()) as provider, pytest.raises(InputRefused):
        provider.embed(["short", TOO_LONG], "document")


def test_a_text_that_vertex_cut_all_the_same_is_refused(stage: tuple[Stage, str]) -> None:
    place = Place(VERTEX, *stage)
    with (
        closing(place.provider(3072, model="gemini-embedding-2")) as provider,
        pytest.raises(InputRefused, match="cut a text"),
    ):
        provider.embed([TOO_LONG], "document")


@pytest.mark.parametrize("spoil", ["fewer", "more", "shorter", "a string", "null", "huge"])
def test_an_answer_that_cannot_be_right_is_no_vector(place: Place, provider: Provider, spoil: str) -> None:
    """The fake's own answer, with one of its vectors spoilt."""
    good = orjson.dumps(_answer_of(place))
    vector = orjson.dumps(vector_of(TEXTS[1], place.kind.dimensions).tolist())
    if place.kind is GEMINI:
        vector = orjson.dumps((3 * vector_of(TEXTS[1], place.kind.dimensions)).tolist())
    assert good.count(vector) == 1
    numbers = orjson.loads(vector)
    spoilt = {
        "shorter": numbers[1:],
        "a string": ["x", *numbers[1:]],
        "null": [None, *numbers[1:]],
        "huge": [1e300, *numbers[1:]],
    }
    texts = {"fewer": [*TEXTS, "another"], "more": TEXTS[:2]}.get(spoil, TEXTS)
    place.faults.next(answer(200, body=good.replace(vector, orjson.dumps(spoilt.get(spoil, numbers)))))
    with pytest.raises(BadAnswer) as raised:
        provider.embed(texts, "document")
    assert raised.value.tokens_reported == sum(map(words, TEXTS))


def _answer_of(place: Place) -> Any:
    """What the fake says to `TEXTS`."""
    with closing(place.provider()) as provider:
        provider.embed(TEXTS, "document")
    seen = place.faults.requests[-1]
    base = place.kind.integration(place._url).url or ""
    host = "/".join(base.split("/")[:3])
    response = httpx.post(host + seen.path, content=bytes(seen.body), headers=_asked_with(seen.headers))
    return response.json()


def _asked_with(headers: dict[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in ("authorization", "x-goog-api-key") if name in headers}


@pytest.mark.parametrize("index", [[0, 0, 1], [1, 2, 3], [True, 0, 2], [None, 0, 1]])
def test_vectors_that_are_numbered_wrongly_are_refused(stage: tuple[Stage, str], index: list[Any]) -> None:
    place = Place(VOYAGE, *stage)
    data = [{"index": n, "embedding": [0.5] * 512} for n in index]
    place.faults.next(answer(200, body={"data": data, "usage": {"total_tokens": 3}}))
    with closing(place.provider()) as provider, pytest.raises(BadAnswer, match="numbered"):
        provider.embed(TEXTS, "document")


def test_a_wrong_key_is_said_to_be_one_and_never_shown(
    place: Place, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_KEY", "sk-very-secret")
    for ask in (provider.validate_credentials, lambda: provider.embed(TEXTS, "query")):
        with pytest.raises(AccessRefused, match=r'integration "main".*check api_key') as raised:
            ask()
        assert (
            "very-secret" not in f"{raised.value!r} {raised.value.__context__!r} {raised.value.__cause__!r}"
        )
        assert TEXTS[0] not in str(raised.value)


@pytest.mark.parametrize("key", ["", "two\nlines", "ключ"])
def test_a_key_that_cannot_be_sent_is_not(place: Place, provider: Provider, tmp_path: Path, key: str) -> None:
    path = tmp_path / "key"
    path.write_text(key, encoding="utf-8")
    with (
        closing(place.provider(api_key=f"file:{path}")) as other,
        pytest.raises(AccessRefused, match="cannot be sent") as raised,
    ):
        other.embed(["a"], "query")
    assert not key or key not in repr(raised.value)
    assert place.faults.requests == []


def test_a_key_that_is_nowhere_names_the_reference(place: Place) -> None:
    with (
        closing(place.provider(api_key="env:NO_SUCH_VARIABLE")) as provider,
        pytest.raises(BadConfig, match=r'integration "main".*NO_SUCH_VARIABLE'),
    ):
        provider.validate_credentials()


def test_a_key_is_read_again_for_each_request(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old", encoding="utf-8")
    with closing(place.provider(api_key=f"file:{path}")) as provider:
        with pytest.raises(AccessRefused):
            provider.embed(["a"], "query")
        path.write_text(f"{KEY}\n", encoding="utf-8")
        provider.embed(["a"], "query")


def test_a_good_key_passes_and_models_are_listed(place: Place, provider: Provider) -> None:
    provider.validate_credentials()
    listed = provider.available_models()
    assert place.kind.model in listed
    assert list(listed) == sorted(set(listed))
    assert not {"mistral-large-latest", "gemini-3-flash"} & set(listed)


def test_credentials_cost_nothing_to_check(place: Place, provider: Provider) -> None:
    provider.validate_credentials()
    asked = [seen for seen in place.faults.requests if seen.path.endswith(("embeddings", "embed", "predict"))]
    assert all(orjson.loads(bytes(seen.body))["input"] == [] for seen in asked)


def test_lists_that_have_no_end_are_given_up(stage: tuple[Stage, str]) -> None:
    for kind, page in (
        (COHERE, {"models": [], "next_page_token": "more"}),
        (GEMINI, {"models": [], "nextPageToken": "more"}),
    ):
        place = Place(kind, *stage)
        place.faults.next(answer(200, body=page), times=1000)
        with closing(place.provider()) as provider, pytest.raises(BadAnswer, match="without an end"):
            provider.available_models()
        assert len(place.faults.requests) == 20


def test_what_is_known_of_a_model_has_a_dated_price(place: Place, provider: Provider) -> None:
    assert provider.model_info(place.kind.model) == provider.info
    assert provider.info.dimensions == place.kind.dimensions
    assert provider.info.dimensions_settable
    if place.kind is VERTEX:
        assert provider.info.price is None  # billed by characters
    else:
        assert provider.info.price is not None
        assert provider.info.price.source.startswith("https://")
    with pytest.raises(UnknownName, match="nothing is known of a-model"):
        provider.model_info("a-model")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (402, "OutOfCredit"),
        (403, "NotAllowed"),
        (404, "WrongAddress"),
        (413, "InputRefused"),
        (302, "WrongAddress"),
        (500, "ProviderUnavailable"),
        (503, "ProviderUnavailable"),
        (418, "QueryRefused"),
    ],
)
def test_a_status_is_one_of_our_errors(place: Place, provider: Provider, status: int, error: str) -> None:
    place.faults.next(answer(status, body={"message": f"about {TEXTS[0]}"}))
    with pytest.raises(PipelineError, match=f"HTTP {status}") as raised:
        provider.embed(TEXTS, "document")
    assert type(raised.value).__name__ == error
    assert "gate" not in str(raised.value)
    assert len(place.faults.requests) == 1


@pytest.mark.parametrize(
    ("headers", "body", "kind", "wait_s"),
    [
        ({"retry-after": "7"}, {}, None, 7),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, {}, None, 0),
        ({}, {}, None, None),
        ({"retry-after": "soon"}, {}, None, None),
        ({}, of_google(429, "RESOURCE_EXHAUSTED", {"retryDelay": "34.5s"}), GEMINI, 34.5),
        ({}, of_google(429, "RESOURCE_EXHAUSTED", {"retryDelay": "nans"}), VERTEX, None),
        ({"retry-after": "7"}, of_google(429, "RESOURCE_EXHAUSTED", {"retryDelay": "34s"}), VERTEX, 7),
    ],
)
def test_a_limit_says_how_long_to_wait(
    stage: tuple[Stage, str], headers: dict[str, str], body: Any, kind: Kind | None, wait_s: float | None
) -> None:
    for one in KINDS if kind is None else (kind,):
        place = Place(one, *stage)
        place.faults.next(answer(429, headers, body))
        with closing(place.provider()) as provider, pytest.raises(RateLimited) as raised:
            provider.embed(TEXTS, "document")
        assert raised.value.retry_after_s == wait_s


@pytest.mark.parametrize(
    ("kind", "status", "body", "error"),
    [
        (GEMINI, 400, BAD_KEY, AccessRefused),
        (GEMINI, 400, of_google(400, "FAILED_PRECONDITION"), NotAllowed),
        (GEMINI, 400, of_google(400, "INVALID_ARGUMENT"), InputRefused),
        (GEMINI, 400, {"error": "?"}, InputRefused),
        (MISTRAL, 400, {"type": "invalid_model", "code": "1500"}, WrongAddress),
        (MISTRAL, 400, {"type": "invalid_request_prompt", "code": "3210"}, InputRefused),
        (MISTRAL, 422, {"detail": [{"loc": ["body", "output_dimension"]}]}, QueryRefused),
        (MISTRAL, 422, {"detail": [{"loc": ["body", "input", 3]}]}, InputRefused),
        (COHERE, 498, {"message": "?"}, InputRefused),
        (COHERE, 499, {"message": "?"}, ProviderUnavailable),
    ],
)
def test_some_refusals_mean_something_else_than_their_status(
    stage: tuple[Stage, str], kind: Kind, status: int, body: Any, error: type[PipelineError]
) -> None:
    place = Place(kind, *stage)
    place.faults.next(answer(status, body=body))
    with closing(place.provider()) as provider, pytest.raises(PipelineError) as raised:
        provider.embed(TEXTS, "document")
    assert type(raised.value) is error


def test_an_answer_that_comes_too_late_is_not_waited_for(place: Place) -> None:
    place.faults.next(slow(5))
    with (
        closing(place.provider(performance={"timeout_s": 0.1})) as provider,
        pytest.raises(ProviderTimeout, match=r"performance\.timeout_s"),
    ):
        provider.embed(TEXTS, "document")


def test_several_threads_may_ask_at_once(place: Place, provider: Provider) -> None:
    def ask(number: int) -> bool:
        reply = provider.embed([f"text {number}"], "document")
        wanted = vector_of(f"text {number}", place.kind.dimensions)
        return bool(np.allclose(reply.vectors[0] / np.linalg.norm(reply.vectors[0]), wanted, atol=1e-5))

    for _ in range(4):
        place.faults.next(slow(0.05))
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(40)))

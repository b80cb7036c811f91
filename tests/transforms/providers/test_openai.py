"""OpenAI, Azure and gateways: one request each, read in order, believed in nothing, and keys kept to themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from schemas.errors import (
    AccessRefused,
    BadAnswer,
    BadConfig,
    DimensionMismatch,
    InputRefused,
    MissingTool,
    OutOfCredit,
    PipelineError,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    UnknownName,
    WrongAddress,
)
from schemas.integrations import Integration
from tests.fakes import embedding_provider as fakes
from tests.fakes.embedding_provider import MARK, MODEL, FakeProvider, always, vector_of
from tests.fakes.other_providers import KEY
from tests.fakes.serving import Fault, Stage, answer, dripping, gzip_bomb, web_page
from transforms.providers.base import Provider
from transforms.providers.gateway import Gateway, KeyInfo
from transforms.providers.opening import open_provider

TEXTS = ["the gate is stuck", "frost", "the gate is stuck at the weir"]
PRICED = {"price_usd_per_million_tokens": Decimal("0.02"), "price_as_of": date(2026, 11, 21)}
Stages = tuple[Stage, str]


_opened: list[Provider] = []


def opened(integration: Integration, dimensions: int) -> Provider:
    """As `open_provider`; closed at the end of the test."""
    provider = open_provider(integration, dimensions)
    _opened.append(provider)
    return provider


@pytest.fixture(autouse=True)
def _closing() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


@pytest.fixture
def fake(stage: Stages) -> FakeProvider:
    fake = FakeProvider(key=KEY)
    stage[0].app = fake
    return fake


@pytest.fixture(params=["openai", "azure", "gateway"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def integration(kind: str, url: str, **changes: Any) -> Integration:
    given = {"name": "main", "provider": kind, "model": MODEL, "api_key": "env:FAKE_KEY", **PRICED}
    place = url if kind == "azure" else f"{url}/v1"
    return Integration.model_validate({**given, "url": place, **changes})


@pytest.fixture
def provider(kind: str, stage: Stages, fake: FakeProvider) -> Provider:
    return opened(integration(kind, stage[1]), fakes.DIMENSIONS)


def embedded(provider: Provider, texts: list[str] = TEXTS) -> Any:
    reply = provider.embed(texts, "document")
    np.testing.assert_allclose(reply.vectors, [vector_of(text) for text in texts], atol=1e-6)
    return reply


def test_vectors_come_in_the_order_asked_and_tokens_as_billed(provider: Provider, fake: FakeProvider) -> None:
    reply = embedded(provider)
    assert (reply.vectors.dtype, reply.tokens_reported) == (np.float32, 12)
    assert reply.request_id == "req_of_the_fake"
    fake.plan = always(fakes.shuffled())
    embedded(provider)
    assert (fake.requests, fake.tokens_billed) == (2, 24)


FAILURES: dict[str, tuple[Fault, type[PipelineError]]] = {
    "429": (fakes.rate_limited(), RateLimited),
    "500": (fakes.broken(), ProviderUnavailable),
    "529": (fakes.broken(529), ProviderUnavailable),
    "408": (fakes.broken(408), ProviderUnavailable),
    "half an answer": (fakes.half(), ProviderUnavailable),
    "dropped": (fakes.dropped(), ProviderUnavailable),
    "dropped after computing": (fakes.dropped(True), ProviderUnavailable),
    "one vector too few": (fakes.fewer(), BadAnswer),
    "numbered wrongly": (fakes.misnumbered(), BadAnswer),
    "another dimension": (fakes.wrong_dimension(), BadAnswer),
    "not a number": (fakes.not_a_number(), BadAnswer),
    "a web page": (web_page(), BadAnswer),
    "an array": (answer(200, {}, [1]), BadAnswer),
    "no data": (answer(200, {}, {"data": None}), BadAnswer),
    "vectors of words": (answer(200, {}, {"data": [{"index": 0, "embedding": "frost!"}] * 3}), BadAnswer),
    "no credit": (fakes.out_of_credit(), OutOfCredit),
    "401": (answer(401), AccessRefused),
    "403": (answer(403), AccessRefused),
    "404": (answer(404), WrongAddress),
    "a redirect": (answer(307, {"location": "https://elsewhere.invalid/"}), WrongAddress),
    "413": (answer(413), InputRefused),
    "422": (answer(422), InputRefused),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_one_of_ours_and_nothing_is_asked_twice(
    provider: Provider, fake: FakeProvider, name: str
) -> None:
    fault, error = FAILURES[name]
    fake.plan = always(fault)
    with pytest.raises(error) as raised:
        provider.embed(TEXTS, "document")
    assert fake.requests == 1
    said = f"{raised.value!r} {raised.value.__cause__!r} {raised.value.__context__!r}"
    assert KEY not in said
    assert "gate is stuck" not in said


def test_a_wait_is_said_and_a_bad_answer_says_what_it_cost(provider: Provider, fake: FakeProvider) -> None:
    fake.plan = always(fakes.rate_limited(17))
    with pytest.raises(RateLimited) as limited:
        provider.embed(TEXTS, "document")
    assert limited.value.retry_after_s == 17
    fake.plan = always(fakes.fewer())
    with pytest.raises(BadAnswer) as bad:
        provider.embed(TEXTS, "document")
    assert bad.value.tokens_reported == 12


def test_what_may_have_been_billed_is_told_from_what_was_not(provider: Provider, fake: FakeProvider) -> None:
    def billed(fault: Fault) -> bool:
        fake.plan = always(fault)
        with pytest.raises(ProviderUnavailable) as raised:
            provider.embed(TEXTS, "document")
        return raised.value.may_be_billed

    assert [billed(fault) for fault in (fakes.half(), fakes.dropped(), fakes.broken())] == [True, True, False]


def test_where_nobody_listens_nothing_was_billed(kind: str) -> None:
    with pytest.raises(ProviderUnavailable) as raised:
        opened(integration(kind, "http://127.0.0.1:9"), fakes.DIMENSIONS).embed(TEXTS, "document")
    assert not raised.value.may_be_billed


def test_a_text_that_is_not_taken_is_its_own_error(provider: Provider) -> None:
    with pytest.raises(InputRefused):
        provider.embed([*TEXTS, f"please {MARK}"], "document")


@pytest.mark.alone
@pytest.mark.parametrize("fault", [fakes.late(30), dripping(0.05)], ids=["late", "dripping"])
def test_a_request_ends_in_time_however_it_is_drawn_out(
    kind: str, stage: Stages, fake: FakeProvider, fault: Fault
) -> None:
    bounded = opened(integration(kind, stage[1], performance={"timeout_s": 0.3}), fakes.DIMENSIONS)
    fake.plan = always(fault)
    began = time.monotonic()
    with pytest.raises(ProviderTimeout):
        bounded.embed(TEXTS, "document")
    assert time.monotonic() - began < 3


def test_an_answer_that_unpacks_to_any_size_is_not_read(provider: Provider, fake: FakeProvider) -> None:
    fake.plan = always(gzip_bomb(200))
    with pytest.raises((BadAnswer, ProviderUnavailable)):
        provider.embed(TEXTS, "document")


def test_several_threads_may_ask_at_once(provider: Provider) -> None:
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(embedded, provider, [f"text {n}", f"more {n}"]) for n in range(40)]:
            done.result()


def test_a_wrong_key_is_said_to_be_one(
    kind: str, stage: Stages, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_KEY", "sk-somebody-elses")
    provider = opened(integration(kind, stage[1]), fakes.DIMENSIONS)
    with pytest.raises(AccessRefused, match="api_key") as raised:
        provider.validate_credentials()
    assert "sk-somebody-elses" not in str(raised.value)


def test_credentials_and_models_cost_nothing_to_look_at(
    provider: Provider, fake: FakeProvider, kind: str
) -> None:
    provider.validate_credentials()
    expected = ("fake-chat", MODEL) if kind == "gateway" else (MODEL,)
    assert provider.available_models() == expected
    assert (fake.requests, fake.tokens_billed) == (0, 0)


def test_variables_of_the_official_client_lead_nowhere(
    kind: str, stage: Stages, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere.invalid/v1")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://elsewhere.invalid")
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "of-somebody-else")
    embedded(opened(integration(kind, stage[1]), fakes.DIMENSIONS))


def test_azure_is_asked_for_its_deployment(stage: Stages, fake: FakeProvider) -> None:
    of_azure = integration("azure", stage[1], weights="text-embedding-3-small", dimensions=fakes.DIMENSIONS)
    provider = opened(of_azure, fakes.DIMENSIONS)
    embedded(provider)
    assert fake.asked[f"/openai/deployments/{MODEL}/embeddings"] == 1
    assert provider.info.dimensions_settable
    assert provider.info.limits.max_request_tokens == 300_000


@pytest.mark.parametrize("provider_name", ["openai", "gateway"])
def test_fewer_dimensions_are_asked_for_where_they_are_configured(
    stage: Stages, fake: FakeProvider, provider_name: str
) -> None:
    shorter = opened(integration(provider_name, stage[1], dimensions=8), 8)
    reply = shorter.embed(TEXTS, "query")
    np.testing.assert_allclose(reply.vectors, [vector_of(text, 8) for text in TEXTS], atol=1e-6)


def test_dimensions_that_a_model_has_not_are_refused_before_anything_is_asked(stage: Stages) -> None:
    small = integration("openai", stage[1], model="text-embedding-3-small")
    assert opened(small, 512).info.dimensions_settable
    with pytest.raises(DimensionMismatch, match="1536"):
        opened(small, 4096)


def test_what_is_known_of_openais_models_comes_with_a_dated_price(stage: Stages) -> None:
    given = integration("openai", stage[1], model="text-embedding-3-large")
    unpriced = {"price_usd_per_million_tokens": None, "price_as_of": None}
    provider = opened(given.model_copy(update=unpriced), 3072)
    assert provider.info.price is not None
    assert provider.info.price.usd_per_million_tokens == Decimal("0.13")
    assert provider.model_info("text-embedding-3-small").dimensions == 1536
    with pytest.raises(UnknownName):
        provider.model_info("gpt-7")


@pytest.mark.parametrize(
    ("kind", "model", "weights"),
    [
        ("openai", "text-embedding-3-small", "what-the-space-is-called"),
        ("azure", "deployment-7", "text-embedding-3-small"),
        ("azure", "text-embedding-3-small", None),
    ],
)
def test_a_models_price_and_limits_are_found_whatever_its_deployment_or_its_weights_are_called(
    stage: Stages, kind: str, model: str, weights: str | None
) -> None:
    """Without its price all of its requests would be free, and no budget ever used up."""
    given = integration(kind, stage[1], model=model, weights=weights)
    unpriced = {"price_usd_per_million_tokens": None, "price_as_of": None}
    info = opened(given.model_copy(update=unpriced), 512).info
    assert info.price is not None
    assert (info.model, info.price.usd_per_million_tokens) == (model, Decimal("0.02"))
    assert info.dimensions_settable
    with pytest.raises(DimensionMismatch):
        opened(given, 4096)


def test_what_nobody_has_priced_is_not_asked(kind: str, stage: Stages) -> None:
    unpriced = {"price_usd_per_million_tokens": None, "price_as_of": None}
    with pytest.raises(BadConfig, match="price_as_of"):
        opened(integration(kind, stage[1]).model_copy(update=unpriced), fakes.DIMENSIONS)


def test_without_the_client_library_it_says_what_to_install(
    stage: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    monkeypatch.delitem(__import__("sys").modules, "transforms.providers.openai", raising=False)
    with pytest.raises(MissingTool, match=r"headrace\[openai\]"):
        opened(integration("openai", stage[1]), fakes.DIMENSIONS)


@pytest.fixture
def litellm(stage: Stages, fake: FakeProvider) -> Gateway:
    gateway = opened(integration("gateway", stage[1]), fakes.DIMENSIONS)
    assert isinstance(gateway, Gateway)
    return gateway


def test_a_gateway_says_what_its_key_has_spent(litellm: Gateway, fake: FakeProvider) -> None:
    litellm.embed(TEXTS, "document")
    assert litellm.key_info() == KeyInfo(Decimal("2.4E-7"), Decimal("25.0"))
    assert litellm.calculate_spend(TEXTS[0]) == Decimal("8E-8")
    assert fake.requests == 1


@pytest.mark.parametrize(
    ("path", "ask"),
    [("/key/info", Gateway.key_info), ("/spend/calculate", lambda gateway: gateway.calculate_spend("x"))],
)
def test_a_gateway_that_counts_nothing_is_told_from_one_that_counts_wrongly(
    litellm: Gateway, stage: Stages, path: str, ask: Callable[[Gateway], object]
) -> None:
    for content in ({}, {"info": {"spend": "much"}, "cost": "much"}, {"info": {"spend": -1}, "cost": True}):
        stage[0].app = _answering(content)
        with pytest.raises(BadAnswer, match="did not say"):
            ask(litellm)
    stage[0].app = _answering({}, 404)
    with pytest.raises(WrongAddress):
        ask(litellm)


def _answering(content: Any, status: int = 200) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(status, {}, content)(app, scope, receive, send)

    return app


def test_a_gateways_own_refusals_are_understood(litellm: Gateway, stage: Stages) -> None:
    stage[0].app = _answering({"error": {"message": "spent", "type": "budget_exceeded", "code": "400"}}, 400)
    with pytest.raises(OutOfCredit):
        litellm.embed(TEXTS, "document")
    stage[0].app = _answering({"error": "inference failed", "error_type": "backend"}, 424)
    with pytest.raises(ProviderUnavailable):
        litellm.embed(TEXTS, "document")


def test_a_gateway_may_need_no_key(stage: Stages, fake: FakeProvider) -> None:
    fake.key = ""
    embedded(opened(integration("gateway", stage[1], api_key=None), fakes.DIMENSIONS))

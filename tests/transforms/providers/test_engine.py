"""Requests are packed to what endpoints take, vectors have length 1, and nobody waits for what nobody wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import date
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import EngineFailed, InputRefused, Parked
from schemas.spaces import EmbeddingSpace
from schemas.usage import Price
from tests.fakes.embedding_provider import MARK, vector_of
from transforms.background import Discarded
from transforms.embedders.base import Engine, Vectors
from transforms.embedders.batching import embed_all
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits
from transforms.providers.engine import HEADROOM, REQUEST_TOKENS, RemoteEngine, unit
from transforms.providers.inputs import TextInput

SPACE = EmbeddingSpace("fake-embed", "0" * 64, "exact", "remote", True, 16, 64)
LIMITS = RequestLimits(8, 100, 64)
PRICE = Price(Decimal("0.02"), date(2026, 11, 21), "a test")


class StubRouter:
    """Answers at once; keeps what it was asked for."""

    def __init__(self, limits: RequestLimits = LIMITS) -> None:
        self.limits = limits
        self.info = ModelInfo("openai", "fake-embed", 16, False, limits, PRICE)
        self.streams = 3
        self.asked: list[tuple[list[str], Purpose, int]] = []
        self.wait_s = 0.0

    def embed(
        self, texts: Sequence[str], purpose: Purpose, tokens: int, pause: Callable[[float], None]
    ) -> Reply:
        self.asked.append((list(texts), purpose, tokens))
        pause(self.wait_s)
        if any(MARK in text for text in texts):
            raise InputRefused("a text is refused")
        if any("PARK" in text for text in texts):
            raise Parked("nobody can be asked", 60)
        return Reply(np.float32(3) * np.stack([vector_of(text) for text in texts]), tokens, None)

    def check(self, purpose: Purpose, pause: Callable[[float], None]) -> None:
        return None


def inputs(*texts: str, tokens: int = 1) -> list[TextInput]:
    return [TextInput(text, tokens) for text in texts]


@given(st.lists(st.integers(1, 64), max_size=60))
def test_every_request_keeps_to_the_limits_and_every_text_is_asked_for_once(lengths: list[int]) -> None:
    router = StubRouter()
    engine: Engine = RemoteEngine(SPACE, router, "document")
    texts = [TextInput(f"text {number}", tokens) for number, tokens in enumerate(lengths)]
    result = embed_all(engine, texts)
    assert result.failed == {}
    assert sorted(text for asked, _, _ in router.asked for text in asked) == sorted(one.text for one in texts)
    for asked, purpose, tokens in router.asked:
        assert purpose == "document"
        assert len(asked) <= router.limits.max_inputs
        assert tokens == sum(lengths[int(text.split()[1])] for text in asked)
        assert tokens <= HEADROOM * router.limits.max_request_tokens or len(asked) == 1
    for row, one in enumerate(texts):
        np.testing.assert_allclose(result.vectors[row], vector_of(one.text), atol=1e-6)


def test_a_large_limit_is_not_used_up_by_one_request() -> None:
    router = StubRouter(RequestLimits(2048, 300_000, 8192))
    assert RemoteEngine(SPACE, router, "document").facts.max_batch_tokens == REQUEST_TOKENS
    assert RemoteEngine(SPACE, router, "document", max_batch_tokens=500).facts.max_batch_tokens == 500


def test_a_refused_text_is_found_and_the_others_are_embedded() -> None:
    texts = inputs(*(f"text {n}" for n in range(7)), f"bad {MARK}", *(f"more {n}" for n in range(8)))
    result = embed_all(RemoteEngine(SPACE, StubRouter(), "document"), texts)
    assert {row: type(error) for row, error in result.failed.items()} == {7: InputRefused}
    np.testing.assert_allclose(result.vectors[6], vector_of("text 6"), atol=1e-6)
    np.testing.assert_allclose(result.vectors[8], vector_of("more 0"), atol=1e-6)


def test_a_text_longer_than_the_endpoint_takes_is_refused_here_and_the_others_are_embedded() -> None:
    """Left to the endpoint it might be cut, and nobody told."""
    router = StubRouter(RequestLimits(8, 1000, 64))
    texts = [*inputs("a", "b"), *inputs("just fits", tokens=64), *inputs("too long", tokens=65), *inputs("c")]
    result = embed_all(RemoteEngine(SPACE, router, "document"), texts)
    assert {row: type(error) for row, error in result.failed.items()} == {3: InputRefused}
    assert "64 tokens at most" in str(result.failed[3])
    assert sorted(text for asked, _, _ in router.asked for text in asked) == ["a", "b", "c", "just fits"]


def test_parked_texts_are_not_asked_for_one_by_one() -> None:
    router = StubRouter()
    result = embed_all(RemoteEngine(SPACE, router, "document"), inputs("PARK 1", "2", "3", "4"))
    assert {type(error) for error in result.failed.values()} == {Parked}
    assert len(router.asked) == 1


finite = st.floats(-(2.0**99), 2.0**99, width=32)


@given(st.lists(st.lists(finite, min_size=4, max_size=4), min_size=1, max_size=9))
def test_vectors_have_length_1_and_keep_their_direction(rows: list[list[float]]) -> None:
    given_vectors: Vectors = np.array(rows, np.float32)
    norms = np.linalg.norm(given_vectors.astype(np.float64), axis=1)
    if not norms.all():
        with pytest.raises(EngineFailed):
            unit(given_vectors)
        return
    units = unit(given_vectors)
    assert units.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(units, given_vectors / norms[:, None], atol=1e-6)


@pytest.mark.alone
def test_a_wait_ends_when_its_buffer_is_no_longer_wanted() -> None:
    router, stop = StubRouter(), threading.Event()
    router.wait_s = 60
    engine = RemoteEngine(SPACE, router, "document").stopped_by(stop)
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Discarded):
        embed_all(engine, inputs("a", "b"))
    assert time.monotonic() - began < 5
    with pytest.raises(Discarded):
        engine.run(inputs("c"))
    assert all("c" not in asked for asked, _, _ in router.asked), "nothing more is asked for"

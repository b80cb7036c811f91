"""The engine gives the vectors of its space, and refuses what it cannot run."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import EngineFailed
from transforms.embedders.base import Engine, TokenIds, Tokenizer
from transforms.embedders.canary import cosine, read_canaries
from transforms.embedders.tokenizer import cut


def ids_of(tokenizer: Tokenizer, *texts: str) -> list[TokenIds]:
    return [cut(ids, 256) for ids in tokenizer.encode(texts)]


def test_each_known_sentence_gets_its_known_vector(engine: Engine, tokenizer: Tokenizer) -> None:
    known = read_canaries(engine.space.model)
    vectors = engine.run(ids_of(tokenizer, *known.texts))
    assert cosine(vectors, known.vectors).min() > 0.999999
    assert np.abs(vectors - known.vectors).max() < 1e-5


def test_vectors_are_float32_of_length_one(engine: Engine, tokenizer: Tokenizer) -> None:
    vectors = engine.run(ids_of(tokenizer, "", "one", "a longer sentence about pumps"))
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-6)


def test_padding_does_not_change_a_vector(engine: Engine, tokenizer: Tokenizer) -> None:
    short, long = ids_of(tokenizer, "short", "word " * 400)
    alone, together = engine.run([short])[0], engine.run([long, short])[1]
    assert together == pytest.approx(alone, abs=1e-6)


def test_no_inputs_give_no_vectors(engine: Engine) -> None:
    assert engine.run([]).shape == (0, 384)


@pytest.mark.parametrize("length", [0, 257])
def test_an_input_outside_the_limit_of_the_space_is_refused(engine: Engine, length: int) -> None:
    with pytest.raises(EngineFailed, match="expected 1 to 256"):
        engine.run([np.full(length, 7592, dtype=np.int32)])


@pytest.mark.parametrize("token", [-1, 30_522])
def test_a_token_the_model_does_not_have_fails_the_call(engine: Engine, token: int) -> None:
    with pytest.raises(EngineFailed, match="refused a batch of 1"):
        engine.run([np.array([101, token, 102], dtype=np.int32)])


def test_the_facts_name_the_runtime_and_its_threads(engine: Engine) -> None:
    assert (engine.facts.provider, engine.facts.engine, engine.facts.threads) == ("local", "onnx", 2)
    assert engine.facts.version

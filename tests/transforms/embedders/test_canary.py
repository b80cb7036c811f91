"""An engine that lost its way is not let in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from schemas.config import Model
from schemas.errors import CanaryMismatch, EngineFailed
from tests.transforms.embedders.tiny_models import write_model
from transforms.embedders.base import Engine, TokenIds, Tokenizer, Vectors
from transforms.embedders.canary import check_canary, cosine, read_canaries
from transforms.embedders.loading import load_engine, load_tokenizer
from transforms.embedders.registry import REGISTRY


class Altered:
    """A real engine whose vectors are turned a little, or which fails."""

    def __init__(self, engine: Engine, by: float | None) -> None:
        self.space, self.facts, self._engine, self._by = engine.space, engine.facts, engine, by

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        if self._by is None:
            raise EngineFailed("this engine is broken")
        vectors = self._engine.run(batch)
        vectors[:, 0] += self._by
        return vectors


def test_the_real_engine_passes_with_room_to_spare(engine: Engine, tokenizer: Tokenizer) -> None:
    assert check_canary(engine, tokenizer) > 0.999999


@pytest.mark.parametrize("by", [0.05, float("nan"), float("inf")])
def test_altered_vectors_are_a_mismatch(engine: Engine, tokenizer: Tokenizer, by: float) -> None:
    with pytest.raises(CanaryMismatch):
        check_canary(Altered(engine, by), tokenizer)


def test_an_engine_that_fails_is_a_mismatch_with_its_reason(engine: Engine, tokenizer: Tokenizer) -> None:
    with pytest.raises(CanaryMismatch, match="this engine is broken"):
        check_canary(Altered(engine, None), tokenizer)


@pytest.mark.parametrize("model", REGISTRY)
def test_every_model_has_canaries_of_its_own_dimensions(model: str, tokenizer: Tokenizer) -> None:
    known = read_canaries(model)
    spec = REGISTRY[model]
    assert known.vectors.shape == (len(known.texts), spec.dimensions)
    assert np.linalg.norm(known.vectors, axis=1) == pytest.approx(np.ones(len(known.texts)), abs=1e-5)
    assert max(tokenizer.count(known.texts)) > spec.max_tokens, "one canary must be longer than the limit"


@pytest.mark.parametrize(
    "changes", [{"dimensions": 64}, {"max_tokens": 64}, {"max_tokens": 512}, {"max_tokens": 16}]
)
def test_other_dimensions_and_limits_of_a_pinned_model_are_compared_as_far_as_they_go(
    model_folder: Path, changes: dict[str, int]
) -> None:
    model = Model.model_validate({"folder": model_folder, "threads": 2, "engine": "onnx"} | changes)
    assert check_canary(load_engine(model), load_tokenizer(model)) > 0.999999


def test_a_model_without_canaries_passes_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(name="tiny/model", folder=write_model(tmp_path), engine="onnx", threads=1)
    with caplog.at_level(logging.DEBUG, logger="transforms.embedders.canary"):
        load_engine(model)
    assert "no known vectors of tiny/model" in caplog.text


def test_cosine_with_a_zero_vector_is_zero() -> None:
    zero, one = np.zeros((1, 3), dtype=np.float32), np.ones((1, 3), dtype=np.float32)
    assert cosine(zero, one).tolist() == [0]
    assert cosine(one, one) == pytest.approx([1])

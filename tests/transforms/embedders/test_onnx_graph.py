"""The graph gives what the encoder's paper says, for every family, padded or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.config import Model
from schemas.spaces import Pooling
from tests.transforms.embedders import reference_encoder
from tests.transforms.embedders.tiny_models import FAMILIES, Family, settings, tensors, write_model
from transforms.embedders.base import TokenIds, Vectors
from transforms.embedders.loading import load_engine

TOLERANCE = 1e-5


def inputs(seed: int = 1) -> list[TokenIds]:
    random = np.random.default_rng(seed)
    return [random.integers(5, 80, length).astype(np.int32) for length in (1, 2, 9, 31, 40)]


def expected(family: Family, pooling: Pooling, batch: list[TokenIds]) -> Vectors:
    config = settings(family)
    rows = [reference_encoder.embed(config, tensors(config), ids.tolist(), pooling) for ids in batch]
    return np.stack(rows).astype(np.float32)


def unit(vectors: Vectors) -> Vectors:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_is_what_plain_numpy_gives(tmp_path: Path, family: Family, pooling: Pooling) -> None:
    folder = write_model(tmp_path, family, pooling=pooling, normalize=False)
    engine = load_engine(Model(name=f"tiny/{family}", folder=folder, engine="onnx", max_tokens=40, threads=1))
    vectors = engine.run(inputs())
    assert np.abs(vectors - expected(family, pooling, inputs())).max() < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_dimensions_are_the_first_ones_normalised_again(tmp_path: Path, family: Family) -> None:
    model = Model(
        name=f"tiny/{family}",
        folder=write_model(tmp_path, family),
        engine="onnx",
        max_tokens=40,
        dimensions=8,
        threads=1,
    )
    vectors = load_engine(model).run(inputs())
    assert vectors.shape == (5, 8)
    assert np.abs(vectors - unit(expected(family, "mean", inputs())[:, :8])).max() < TOLERANCE


def test_the_relative_bias_of_mpnet_counts(tmp_path: Path) -> None:
    config = settings("mpnet")
    flat = tensors(config)
    flat["encoder.relative_attention_bias.weight"] = np.zeros_like(
        flat["encoder.relative_attention_bias.weight"]
    )
    (ids,) = inputs()[3:4]
    without = reference_encoder.embed(config, flat, ids.tolist(), "mean")
    assert np.abs(without - expected("mpnet", "mean", [ids])[0]).max() > 100 * TOLERANCE

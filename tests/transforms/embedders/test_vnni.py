"""The kernels give the encoder's vectors as closely as each precision promises, whatever the batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import erf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from safetensors.numpy import save_file

from schemas.config import Model
from schemas.errors import BadConfig, EngineFailed
from schemas.spaces import EmbeddingSpace, Pooling, Precision
from tests.transforms.embedders import reference_encoder, tiny_models
from transforms.embedders.base import Engine, TokenIds, Tokenizer, Vectors
from transforms.embedders.canary import cosine, read_canaries
from transforms.embedders.encoder import read_encoder
from transforms.embedders.loading import load_engine
from transforms.embedders.processor import this_processor
from transforms.embedders.tokenizer import cut
from transforms.embedders.vnni import VnniEngine
from transforms.embedders.vnni_weights import ACTIVATION_LIMIT, Bits, gelu_pieces, pack_rows, quantise_rows

# Where the processor has the instructions, kernels that were not built are a failure.
kernels_run = pytest.mark.skipif(
    not this_processor().avx512_vnni, reason="this processor has no AVX-512 VNNI"
)
MAX_TOKENS = 150


def tiny_engine(
    folder: Path,
    bits: Bits,
    family: str = "bert",
    pooling: Pooling = "mean",
    normalize: bool = True,
    **shape: Any,
) -> tuple[VnniEngine, dict[str, Any], tiny_models.Tensors]:
    """An engine of random weights, and what they are."""
    first = 0 if family == "bert" else 2
    config = tiny_models.settings(
        family,
        **{
            "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128, "layer_norm_eps": 1e-5,
            "max_position_embeddings": MAX_TOKENS + first,
        }
        | shape,
    )  # fmt: skip
    weights = tiny_models.tensors(config)
    (folder / "config.json").write_bytes(tiny_models.orjson.dumps(config))
    save_file(weights, folder / "model.safetensors")
    encoder = read_encoder(folder / "model.safetensors", folder / "config.json")
    space = EmbeddingSpace(
        "tiny", "0" * 64, "exact", pooling, normalize, encoder.shape.hidden, max_tokens=MAX_TOKENS
    )
    return VnniEngine(encoder, space, bits, threads=2), config, weights


def inputs(*lengths: int, seed: int = 1) -> list[TokenIds]:
    random = np.random.default_rng(seed)
    return [random.integers(5, 60, length).astype(np.int32) for length in lengths]


def by_numpy(
    config: dict[str, Any], weights: tiny_models.Tensors, batch: list[TokenIds], pooling: str
) -> Vectors:
    rows = [reference_encoder.embed(config, weights, ids.tolist(), pooling) for ids in batch]
    return np.stack(rows).astype(np.float32)


@kernels_run
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_sixteen_bits_agree_with_plain_numpy_for_every_family_length_and_head_size(
    tmp_path: Path, family: str, pooling: Pooling, heads: int
) -> None:
    engine, config, weights = tiny_engine(
        tmp_path, 16, family, pooling, normalize=False, num_attention_heads=heads
    )
    batch = inputs(1, 2, 5, 6, 7, 16, 31, 32, 33, 64, 65, 149, 150)
    vectors, expected = engine.run(batch), by_numpy(config, weights, batch, pooling)
    assert cosine(vectors, expected).min() > 0.9999
    assert np.abs(vectors - expected).max() < 0.02 * np.abs(expected).max()


@kernels_run
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("family", ["bert", "mpnet"])
def test_eight_bits_stay_close_at_every_length_and_head_size(tmp_path: Path, family: str, heads: int) -> None:
    engine, config, weights = tiny_engine(tmp_path, 8, family, num_attention_heads=heads)
    batch = inputs(1, 2, 6, 12, 13, 31, 32, 33, 63, 64, 65, 97, 150)
    assert cosine(engine.run(batch), by_numpy(config, weights, batch, "mean")).min() > 0.99


@kernels_run
@pytest.mark.parametrize("sharper", [1, 10, 40, 100, 400])
def test_eight_bits_attend_to_the_right_tokens_however_far_apart_scores_are(
    tmp_path: Path, sharper: float
) -> None:
    engine, config, weights = tiny_engine(tmp_path, 8, num_hidden_layers=1)
    for name, tensor in weights.items():
        if ".query." in name or ".key." in name:
            weights[name] = tensor * np.float32(sharper)
    save_file(weights, tmp_path / "model.safetensors")
    encoder = read_encoder(tmp_path / "model.safetensors", tmp_path / "config.json")
    engine = VnniEngine(encoder, engine.space, 8, threads=1)
    batch = inputs(40, 150)
    assert cosine(engine.run(batch), by_numpy(config, weights, batch, "mean")).min() > 0.97


@kernels_run
@pytest.mark.parametrize(("precision", "lowest"), [("exact", 0.9999), ("fast", 0.99)])
def test_each_known_sentence_gets_its_known_vector(
    model_folder: Path, tokenizer: Tokenizer, precision: Precision, lowest: float
) -> None:
    engine = load_engine(Model(folder=model_folder, precision=precision, engine="vnni", threads=2))
    known = read_canaries(engine.space.model)
    vectors = engine.run([cut(ids, 256) for ids in tokenizer.encode(known.texts)])
    assert cosine(vectors, known.vectors).min() > lowest


@kernels_run
@pytest.mark.parametrize("bits", [8, 16])
@settings(deadline=None, max_examples=30)
@given(lengths=strategies.lists(strategies.integers(1, MAX_TOKENS), min_size=1, max_size=12))
def test_a_vector_does_not_depend_on_its_batch_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, bits: Bits, lengths: list[int]
) -> None:
    engine, _, _ = tiny_engine(tmp_path_factory.mktemp("tiny"), bits)
    batch = inputs(*lengths)
    together = engine.run(batch)
    assert all(np.array_equal(engine.run([ids])[0], row) for ids, row in zip(batch, together, strict=True))


@kernels_run
def test_calls_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    engine, _, _ = tiny_engine(tmp_path, 16)
    batches = [inputs(*range(1, 60, 1 + seed % 7), seed=seed) for seed in range(40)]
    alone = [engine.run(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(engine.run, batches))
    assert all(np.array_equal(left, right) for left, right in zip(alone, together, strict=True))


@kernels_run
@pytest.mark.parametrize("scale", [1e-6, 0.01, 1.0])
def test_sums_do_not_overflow_when_every_weight_is_as_large_as_any(tmp_path: Path, scale: float) -> None:
    engine, config, weights = tiny_engine(tmp_path, 16, num_hidden_layers=1)
    for name, tensor in weights.items():
        if name.endswith(".weight") and "encoder" in name and "LayerNorm" not in name:
            weights[name] = np.full_like(tensor, scale) * np.sign(tensor[:1])
    save_file(weights, tmp_path / "model.safetensors")
    encoder = read_encoder(tmp_path / "model.safetensors", tmp_path / "config.json")
    engine = VnniEngine(encoder, engine.space, 16, threads=1)
    batch = inputs(3, 100)
    assert cosine(engine.run(batch), by_numpy(config, weights, batch, "mean")).min() > 0.9999


@kernels_run
@pytest.mark.parametrize("token", [-1, 64_000])
def test_a_token_the_model_does_not_have_fails_the_call(tmp_path: Path, token: int) -> None:
    engine, _, _ = tiny_engine(tmp_path, 8)
    with pytest.raises(EngineFailed, match=f"token {token} in a batch of 1"):
        engine.run([np.array([1, token, 2], dtype=np.int32)])


@kernels_run
@pytest.mark.parametrize("length", [0, MAX_TOKENS + 1])
def test_an_input_outside_the_limit_of_the_space_is_refused(tmp_path: Path, length: int) -> None:
    engine, _, _ = tiny_engine(tmp_path, 8)
    with pytest.raises(EngineFailed, match=f"expected 1 to {MAX_TOKENS}"):
        engine.run([np.full(length, 5, dtype=np.int32)])


@kernels_run
def test_an_encoder_of_another_shape_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r'hidden size 48.*set model\.engine = "onnx"'):
        tiny_engine(tmp_path, 8, hidden_size=48)


@kernels_run
def test_no_inputs_give_no_vectors(tmp_path: Path) -> None:
    engine, _, _ = tiny_engine(tmp_path, 8)
    assert engine.run([]).shape == (0, 64)


@kernels_run
def test_fewer_dimensions_are_the_first_ones_normalised_again(model_folder: Path, engine: Engine) -> None:
    short = load_engine(Model(folder=model_folder, dimensions=96, engine="vnni", threads=2))
    batch = inputs(5, 20)
    whole = engine.run(batch)[:, :96]
    vectors = short.run(batch)
    assert vectors.shape == (2, 96)
    assert cosine(vectors, whole).min() > 0.9999
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)


def test_the_parabolas_follow_the_normal_distribution() -> None:
    c0, c1, c2 = gelu_pieces().astype(np.float64)
    x = np.linspace(-3.87, 3.87, 10_001)
    piece = np.rint(x * 4).astype(int) % 32
    found = c0[piece] + c1[piece] * x + c2[piece] * x * x
    assert np.abs(found - [0.5 * (1 + erf(value / 2**0.5)) for value in x]).max() < 4e-5


@settings(deadline=None)
@given(
    strategies.integers(0, 2**32 - 1),
    strategies.sampled_from([1e-20, 1e-3, 1.0, 1e5]),
    strategies.integers(1, 3),
)
def test_no_row_of_sixteen_bit_weights_can_overflow_a_sum(seed: int, scale: float, spread: int) -> None:
    random = np.random.default_rng(seed)
    weight = (random.standard_normal((64, 512)) ** (2 * spread - 1) * scale).astype(np.float32)
    whole, row_scale = quantise_rows(weight, 16)
    assert np.abs(whole.astype(np.int64)).sum(axis=1).max() * ACTIVATION_LIMIT < 2**31
    assert np.abs(whole * row_scale[:, None].astype(np.float64) - weight).max() <= row_scale.max()


def test_packing_keeps_four_bytes_of_an_output_together() -> None:
    whole = np.arange(128 * 8, dtype=np.int16).reshape(128, 8)
    packed = pack_rows(whole)
    assert packed.shape == (2, 4, 64, 2)
    assert packed[1, 3, 5].tolist() == whole[64 + 5, 6:8].tolist()

"""Only encoders that the graphs reproduce are accepted, and a file that does not fit is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import orjson
import pytest
from safetensors.numpy import save_file

from schemas.errors import BadConfig
from tests.transforms.embedders.tiny_models import settings, tensors, write_json
from transforms.embedders.encoder import Encoder, EncoderShape, read_encoder, read_shape

TINY = {
    "model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "hidden_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 16,
    "layer_norm_eps": 1e-12,
}  # fmt: skip


def write_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_bytes(orjson.dumps(TINY | changes))
    return path


def test_the_shape_is_read_from_the_configuration(tmp_path: Path) -> None:
    assert read_shape(write_config(tmp_path)) == EncoderShape(
        family="bert",
        hidden=8,
        layers=1,
        heads=2,
        intermediate=16,
        max_positions=16,
        first_position=0,
        epsilon=1e-12,
        relative_buckets=0,
    )


def test_positions_of_roberta_are_counted_from_behind_the_padding_token(tmp_path: Path) -> None:
    shape = read_shape(write_config(tmp_path, model_type="xlm-roberta", pad_token_id=1))
    assert (shape.first_position, shape.max_positions) == (2, 14)


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", "modernbert"), ("hidden_act", "relu"), ("position_embedding_type", "relative_key")],
)
def test_another_architecture_is_refused_by_name(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(BadConfig, match=f"found {key} '{value}'.*model.engine = \"torch\""):
        read_shape(write_config(tmp_path, **{key: value}))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"model_type": "bert"}', b"null"])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BadConfig, match=r"config\.json"):
        read_shape(path)


def test_heads_that_do_not_divide_the_dimensions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="hidden_size 8, 1 layers, 3 heads"):
        read_shape(write_config(tmp_path, num_attention_heads=3))


def test_an_old_configuration_may_leave_out_what_it_takes_for_granted(tmp_path: Path) -> None:
    settings = {key: value for key, value in TINY.items() if key != "position_embedding_type"}
    path = tmp_path / "config.json"
    path.write_bytes(orjson.dumps(settings))
    assert read_shape(path).layers == 1


def refusal(folder: Path, tensors: dict[str, np.ndarray]) -> str:
    path = folder / "model.safetensors"
    save_file(tensors, path)
    with pytest.raises(BadConfig) as caught:
        read_encoder(path, write_config(folder))
    return str(caught.value)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    assert "no tensor embeddings.position_embeddings.weight" in refusal(tmp_path, {"x": np.zeros(1)})


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    said = refusal(tmp_path, {"embeddings.position_embeddings.weight": np.zeros((4, 8), np.float32)})
    assert "(4, 8), expected floats of shape (16, 8)" in said


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(BadConfig, match=r"model\.safetensors"):
        read_encoder(path, write_config(tmp_path))


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_weights_in_half_precision_are_widened(tmp_path: Path, kind: type) -> None:
    config = settings()
    narrow = {name: value.astype(kind) for name, value in tensors(config).items()}
    write_json(tmp_path / "config.json", config)
    save_file(narrow, tmp_path / "model.safetensors")
    words = read_encoder(tmp_path / "model.safetensors", tmp_path / "config.json").words
    assert words.dtype == np.float32
    assert np.array_equal(words, narrow["embeddings.word_embeddings.weight"].astype(np.float32))


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    said = refusal(tmp_path, {"embeddings.position_embeddings.weight": np.zeros((16, 8), np.int64)})
    assert "is int64 of shape (16, 8), expected floats" in said


DISTILBERT = {
    "encoder.layer.": "transformer.layer.", ".attention.self.query.": ".attention.q_lin.",
    ".attention.self.key.": ".attention.k_lin.", ".attention.self.value.": ".attention.v_lin.",
    ".attention.output.dense.": ".attention.out_lin.", ".attention.output.LayerNorm.": ".sa_layer_norm.",
    ".intermediate.dense.": ".ffn.lin1.", ".output.dense.": ".ffn.lin2.", ".output.LayerNorm.": ".output_layer_norm.",
}  # fmt: skip


def renamed(name: str) -> str:
    for bert, distilbert in DISTILBERT.items():
        name = name.replace(bert, distilbert)
    return name


def test_distilbert_is_a_bert_without_types_under_other_names(tmp_path: Path) -> None:
    config = settings("bert", layer_norm_eps=1e-12)
    weights = tensors(config)
    weights["embeddings.token_type_embeddings.weight"] *= 0
    write_json(tmp_path / "bert.json", config)
    save_file(weights, tmp_path / "bert.safetensors")
    del weights["embeddings.token_type_embeddings.weight"]
    save_file(
        {f"distilbert.{renamed(name)}": value for name, value in weights.items()}, tmp_path / "d.safetensors"
    )
    names = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads"}
    names |= {"intermediate_size": "hidden_dim", "hidden_act": "activation"}
    its = {names.get(key, key): value for key, value in config.items() if key != "layer_norm_eps"}
    write_json(tmp_path / "d.json", its | {"model_type": "distilbert"})

    bert = read_encoder(tmp_path / "bert.safetensors", tmp_path / "bert.json")
    distilbert = read_encoder(tmp_path / "d.safetensors", tmp_path / "d.json")
    assert distilbert.shape == dataclasses.replace(bert.shape, family="distilbert")
    for mine, its_own in zip(arrays(bert), arrays(distilbert), strict=True):
        assert np.array_equal(mine, its_own)


def arrays(encoder: Encoder) -> list[np.ndarray]:
    linears = [
        linear
        for layer in encoder.layers
        for linear in (layer.qkv, layer.attention_output, layer.up, layer.down)
    ]
    norms = [norm for layer in encoder.layers for norm in (layer.attention_norm, layer.output_norm)]
    return [
        encoder.words,
        encoder.positions,
        *(part for linear in linears for part in (linear.weight, linear.bias)),
        *(part for norm in [encoder.embedding_norm, *norms] for part in (norm.scale, norm.shift)),
    ]

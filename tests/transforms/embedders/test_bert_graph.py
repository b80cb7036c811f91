"""Only the encoder this graph reproduces is accepted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from schemas.config import Model
from schemas.errors import BadConfig
from transforms.embedders.bert_graph import BertShape, build_graph, read_shape, read_weights
from transforms.embedders.models import space_of
from transforms.embedders.onnx import OnnxEngine

TINY = {
    "model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "hidden_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16, "layer_norm_eps": 1e-12,
}  # fmt: skip


def write_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_bytes(orjson.dumps(TINY | changes))
    return path


def test_the_shape_is_read_from_the_configuration(tmp_path: Path) -> None:
    assert read_shape(write_config(tmp_path)) == BertShape(
        hidden=8, layers=1, heads=2, max_positions=16, epsilon=1e-12
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", "mpnet"), ("hidden_act", "relu"), ("position_embedding_type", "relative_key")],
)
def test_another_architecture_is_refused_by_name(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(BadConfig, match=f"found {key} '{value}'"):
        read_shape(write_config(tmp_path, **{key: value}))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"model_type": "bert"}', b"null"])
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(BadConfig, match=r"config\.json"):
        read_shape(path)


def test_an_old_configuration_may_leave_out_what_it_takes_for_granted(tmp_path: Path) -> None:
    settings = {key: value for key, value in TINY.items() if key != "position_embedding_type"}
    path = tmp_path / "config.json"
    path.write_bytes(orjson.dumps(settings))
    assert read_shape(path).layers == 1


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"no tensor embeddings\.word_embeddings\.weight"):
        build_graph(read_shape(write_config(tmp_path)), {})


def test_a_tensor_of_another_precision_is_refused(tmp_path: Path) -> None:
    weights = {"embeddings.word_embeddings.weight": np.zeros((4, 8), dtype=np.float16)}
    with pytest.raises(BadConfig, match="is float16, expected float32"):
        build_graph(read_shape(write_config(tmp_path)), weights)  # type: ignore[arg-type]


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(BadConfig, match=r"model\.safetensors"):
        read_weights(path)


def test_a_model_of_other_dimensions_than_its_space_is_refused(tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(BadConfig, match="8 dimensions and 16 positions"):
        OnnxEngine(model_folder / "model.safetensors", write_config(tmp_path), space_of(Model()), threads=1)

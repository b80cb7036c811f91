"""Only encoders that the graphs reproduce are accepted, and a file that does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from safetensors.numpy import save_file

from schemas.errors import BadConfig
from transforms.embedders.encoder import EncoderShape, read_encoder, read_shape

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

"""A ready ONNX file gives the vectors that its space promises, whatever its inputs and outputs are called."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from schemas.config import Model
from schemas.errors import BadConfig, EngineFailed, ModelNotFound
from tests.transforms.embedders.tiny_models import WORDS, write_json, write_model
from transforms.embedders.base import TokenIds, Vectors
from transforms.embedders.loading import load_engine, load_fp32_engine
from transforms.embedders.models import space_of

TABLE = np.random.default_rng(3).standard_normal((len(WORDS), 24)).astype(np.float32)
BATCH: list[TokenIds] = [np.array(ids, np.int32) for ids in ([2, 50, 3], [2, 50, 51, 52, 3], [7])]


def write_graph(
    path: Path,
    *,
    output: str = "last_hidden_state",
    integers: int = TensorProto.INT64,
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids"),
    external: bool = False,
    width: int = 24,
) -> None:
    """An "encoder" that looks each token up in a table; `sentence_embedding` is the sum over tokens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows"])]
    nodes += [
        helper.make_node("Unsqueeze", ["attention_mask", "last"], ["column"]),
        helper.make_node("Cast", ["column"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["rows", "mask"], ["kept"]),
    ]
    pooled = output == "sentence_embedding"
    nodes.append(
        helper.make_node("ReduceSum", ["kept", "tokens"], [output], keepdims=0)
        if pooled
        else helper.make_node("Identity", ["rows"], [output])
    )
    shape = ["batch", width] if pooled else ["batch", "seq", width]
    constants = [np.array([-1]), np.array([1])]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, integers, ["batch", "seq"]) for name in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(TABLE[:, :width], "table"),
            *(
                numpy_helper.from_array(value, name)
                for value, name in zip(constants, ("last", "tokens"), strict=True)
            ),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save_model(
        model, path, save_as_external_data=external, location=f"{path.name}_data", size_threshold=1024
    )


def folder_with(
    tmp_path: Path, place: str = "onnx/model.onnx", pooling: str = "mean", **graph: object
) -> Path:
    folder = write_model(tmp_path, pooling=pooling)
    (folder / "model.safetensors").unlink()
    write_graph(folder / place, **graph)  # type: ignore[arg-type]
    return folder


def model_in(folder: Path, **changes: object) -> Model:
    return Model.model_validate({"name": "tiny/graph", "folder": folder, "threads": 1} | changes)


def unit(rows: list[Vectors]) -> Vectors:
    vectors = np.stack(rows)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("place", ["onnx/model.onnx", "model.onnx"])
@pytest.mark.parametrize("output", ["last_hidden_state", "token_embeddings"])
@pytest.mark.parametrize("integers", [TensorProto.INT64, TensorProto.INT32])
def test_token_vectors_are_pooled_over_the_tokens_alone(
    tmp_path: Path, place: str, output: str, integers: int
) -> None:
    folder = folder_with(tmp_path, place, output=output, integers=integers)
    engine = load_engine(model_in(folder))
    assert np.abs(engine.run(BATCH) - unit([TABLE[ids].mean(axis=0) for ids in BATCH])).max() < 1e-6
    assert (engine.facts.engine, engine.facts.arithmetic) == ("onnx", "fp32")


def test_the_first_token_where_the_pooling_says_so_and_no_token_types_where_there_are_none(
    tmp_path: Path,
) -> None:
    folder = folder_with(tmp_path, pooling="cls", inputs=("input_ids", "attention_mask"))
    vectors = load_engine(model_in(folder)).run(BATCH)
    assert np.abs(vectors - unit([TABLE[ids[0]] for ids in BATCH])).max() < 1e-6


def test_vectors_already_pooled_are_taken_and_brought_to_length_one(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, output="sentence_embedding")
    vectors = load_engine(model_in(folder, dimensions=10)).run(BATCH)
    assert np.abs(vectors - unit([TABLE[ids].sum(axis=0)[:10] for ids in BATCH])).max() < 1e-6


def test_it_is_its_own_fp32_engine_and_runs_on_nothing_else(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    assert load_fp32_engine(model_in(folder)).run(BATCH).shape == (3, 24)
    with pytest.raises(
        BadConfig, match=r"vnni reads safetensors, tiny/graph comes as onnx/model\.onnx alone"
    ):
        load_engine(model_in(folder, engine="vnni"))


def test_the_digest_covers_tensors_kept_beside_the_graph(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, external=True)
    graph, data = folder / "onnx/model.onnx", folder / "onnx/model.onnx_data"
    before = space_of(model_in(folder)).weights_sha256
    assert before != hashlib.sha256(graph.read_bytes()).hexdigest()
    assert load_engine(model_in(folder)).run(BATCH).shape == (3, 24)
    data.write_bytes(data.read_bytes() + b"\0")
    assert space_of(model_in(folder)).weights_sha256 != before
    data.unlink()
    with pytest.raises(
        ModelNotFound, match=r"lacks onnx/model\.onnx_data, which onnx/model\.onnx keeps tensors in"
    ):
        space_of(model_in(folder))


def test_the_digest_of_a_graph_in_one_file_is_that_files(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    expected = hashlib.sha256((folder / "onnx/model.onnx").read_bytes()).hexdigest()
    assert space_of(model_in(folder)).weights_sha256 == expected


def test_safetensors_come_first(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    write_graph(folder / "onnx/model.onnx")
    expected = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert space_of(model_in(folder)).weights_sha256 == expected


def test_an_architecture_unknown_to_the_graph_builder_runs_as_a_file(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    write_json(
        folder / "config.json", {"model_type": "modernbert", "hidden_size": 24, "max_position_embeddings": 64}
    )
    assert load_engine(model_in(folder)).run(BATCH).shape == (3, 24)


def refusal(folder: Path) -> str:
    with pytest.raises(BadConfig) as caught:
        load_engine(model_in(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_inputs_and_outputs_that_are_not_an_encoders_are_named(tmp_path: Path) -> None:
    strange = folder_with(tmp_path / "a", inputs=("input_ids", "attention_mask", "past"))
    assert "inputs are input_ids tensor(int64), attention_mask tensor(int64), past" in refusal(strange)
    strange = folder_with(tmp_path / "b", output="logits")
    assert "outputs are logits, expected one of last_hidden_state" in refusal(strange)
    narrow = folder_with(tmp_path / "c", width=12)
    assert "has 12 dimensions, the model's other files promise 24" in refusal(narrow)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    (folder / "onnx/model.onnx").write_bytes(b"not a graph")
    assert "model.onnx: not a readable ONNX file" in refusal(folder)


def test_inputs_outside_the_limit_or_the_vocabulary_fail_alone(tmp_path: Path) -> None:
    engine = load_engine(model_in(folder_with(tmp_path)))
    with pytest.raises(EngineFailed, match="expected 1 to 32"):
        engine.run([np.zeros(33, np.int32)])
    with pytest.raises(EngineFailed, match="refused a batch of 1"):
        engine.run([np.array([len(WORDS)], np.int32)])
    assert engine.run([]).shape == (0, 24)

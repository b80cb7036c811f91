"""A BERT encoder as an ONNX graph of ONNX Runtime's fused operators, written straight from safetensors.

The graph holds no weights: they are handed to the session beside it, so nothing but the pinned file is trusted,
nothing is converted to disk, and the 90 MB are not serialised on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import orjson
from onnx import TensorProto, helper
from safetensors import SafetensorError
from safetensors.numpy import load_file

from schemas.errors import BadConfig

Weights = Mapping[str, npt.NDArray[np.float32]]

_FUSED = "com.microsoft"
_OPSET = 17
_IR_VERSION = 9


@dataclass(frozen=True, slots=True)
class BertShape:
    """What `config.json` says of the encoder."""

    hidden: int
    layers: int
    heads: int
    max_positions: int
    epsilon: float


@dataclass(frozen=True, slots=True)
class EncoderGraph:
    """A graph and the tensors it names.

    Inputs `input_ids` and `attention_mask`, int32 (batch, seq), padded on the right; output `embedding`,
    float32 (batch, hidden), mean-pooled over the mask and of length 1.
    """

    model: bytes
    initializers: dict[str, npt.NDArray[np.float32]]


def read_shape(config: Path) -> BertShape:
    """Shape of the encoder in `config.json`.

    Raises:
        BadConfig: it is not the configuration of a BERT encoder this graph reproduces.
    """
    try:
        settings = orjson.loads(config.read_bytes())
        found = {key: settings.get(key, default) for key, default in _EXPECTED.items()}
        wrong = [f"{key} {found[key]!r}" for key, expected in _EXPECTED.items() if found[key] != expected]
        if wrong:
            expected = ", ".join(f"{key} {value!r}" for key, value in _EXPECTED.items())
            raise BadConfig(
                f"{config}: found {', '.join(wrong)}, only {expected} can be run: choose another model"
            )
        return BertShape(
            hidden=int(settings["hidden_size"]),
            layers=int(settings["num_hidden_layers"]),
            heads=int(settings["num_attention_heads"]),
            max_positions=int(settings["max_position_embeddings"]),
            epsilon=float(settings["layer_norm_eps"]),
        )
    except (OSError, orjson.JSONDecodeError) as error:
        raise BadConfig(f"{config}: cannot be read: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadConfig(f"{config}: not the configuration of a BERT encoder: {error!r}") from None


_EXPECTED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}


def read_weights(path: Path) -> Weights:
    """Tensors of a safetensors file by their BERT names, without the `bert.` some files put before them.

    Raises:
        BadConfig: the file cannot be read.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadConfig(f"{path}: not a readable safetensors file: {error}") from None
    return {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}


def build_graph(shape: BertShape, weights: Weights) -> EncoderGraph:
    """The encoder with pooling and normalisation inside.

    Raises:
        BadConfig: a tensor is missing or not float32.
    """
    graph = _GraphWriter(weights)
    hidden = _embed(graph, shape)
    for layer in range(shape.layers):
        hidden = _layer(graph, shape, hidden, layer)
    _pool(graph, hidden)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "bert",
            [helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "seq"]) for name in _INPUTS],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", shape.hidden])],
            graph.declared,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_FUSED, 1)],
        ir_version=_IR_VERSION,
    )
    return EncoderGraph(model.SerializeToString(), graph.initializers)


_INPUTS = ("input_ids", "attention_mask")


class _GraphWriter:
    """Nodes and weights so far."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.declared: list[onnx.TensorProto] = []
        self.initializers: dict[str, npt.NDArray[np.float32]] = {}

    def weight(self, name: str) -> npt.NDArray[np.float32]:
        try:
            tensor = self._weights[name]
        except KeyError:
            raise BadConfig(
                f"the weights have no tensor {name}: they are not those of this configuration"
            ) from None
        if tensor.dtype != np.float32:
            raise BadConfig(f"tensor {name} is {tensor.dtype}, expected float32")
        return tensor

    def tensor(self, name: str, values: npt.NDArray[np.float32]) -> str:
        """Name `values` in the graph, to be handed over beside it."""
        values = np.ascontiguousarray(values)
        declared = onnx.TensorProto(
            name=name, data_type=TensorProto.FLOAT, dims=values.shape, data_location=TensorProto.EXTERNAL
        )
        # A location is required by the format; the session replaces it before anything is read.
        for key, value in (("location", "beside"), ("offset", "0"), ("length", str(values.nbytes))):
            declared.external_data.add(key=key, value=value)
        self.declared.append(declared)
        self.initializers[name] = values
        return name

    def take(self, name: str) -> str:
        """A tensor as the weights file has it."""
        return self.tensor(name, self.weight(name))

    def take_transposed(self, name: str) -> str:
        """A linear layer's weights as (in, out), the way MatMul wants them."""
        return self.tensor(name, self.weight(name).T)

    def axes(self, name: str, axis: int) -> str:
        self.declared.append(helper.make_tensor(name, TensorProto.INT64, [1], [axis]))
        return name

    def node(self, op: str, inputs: list[str], outputs: list[str], domain: str, **attributes: float) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]


def _embed(graph: _GraphWriter, shape: BertShape) -> str:
    inputs = [
        "input_ids",
        "",  # token types: all zero for a single input
        graph.take("embeddings.word_embeddings.weight"),
        graph.take("embeddings.position_embeddings.weight"),
        graph.take("embeddings.token_type_embeddings.weight"),
        graph.take("embeddings.LayerNorm.weight"),
        graph.take("embeddings.LayerNorm.bias"),
        "attention_mask",
    ]
    outputs = ["hidden.0", "lengths"]
    return graph.node("EmbedLayerNormalization", inputs, outputs, _FUSED, epsilon=shape.epsilon)


def _layer(graph: _GraphWriter, shape: BertShape, hidden: str, number: int) -> str:
    name = f"encoder.layer.{number}."
    attended = _attention(graph, shape, hidden, name)
    projected = _matmul(graph, attended, f"{name}attention.output.dense")
    middle = _add_and_normalise(graph, shape, projected, hidden, f"{name}attention.output")
    widened = _matmul(graph, middle, f"{name}intermediate.dense")
    bias = graph.take(f"{name}intermediate.dense.bias")
    activated = graph.node("BiasGelu", [widened, bias], [f"{name}gelu"], _FUSED)
    narrowed = _matmul(graph, activated, f"{name}output.dense")
    return _add_and_normalise(graph, shape, narrowed, middle, f"{name}output")


def _attention(graph: _GraphWriter, shape: BertShape, hidden: str, name: str) -> str:
    parts = [f"{name}attention.self.{part}" for part in ("query", "key", "value")]
    weights = np.concatenate([graph.weight(f"{part}.weight").T for part in parts], axis=1)
    biases = np.concatenate([graph.weight(f"{part}.bias") for part in parts])
    inputs = [
        hidden,
        graph.tensor(f"{name}attention.weight", weights),
        graph.tensor(f"{name}attention.bias", biases),
        "lengths",
    ]
    return graph.node("Attention", inputs, [f"{name}attention"], _FUSED, num_heads=shape.heads)


def _matmul(graph: _GraphWriter, value: str, name: str) -> str:
    return graph.node("MatMul", [value, graph.take_transposed(f"{name}.weight")], [name], "")


def _add_and_normalise(graph: _GraphWriter, shape: BertShape, value: str, skip: str, name: str) -> str:
    inputs = [
        value,
        skip,
        graph.take(f"{name}.LayerNorm.weight"),
        graph.take(f"{name}.LayerNorm.bias"),
        graph.take(f"{name}.dense.bias"),
    ]
    return graph.node("SkipLayerNormalization", inputs, [f"{name}.normal"], _FUSED, epsilon=shape.epsilon)


def _pool(graph: _GraphWriter, hidden: str) -> None:
    """Sum over the mask, then length 1: dividing by the count first would not change the direction."""
    graph.node("Cast", ["attention_mask"], ["mask"], "", to=TensorProto.FLOAT)
    graph.node("Unsqueeze", ["mask", graph.axes("last_axis", 2)], ["mask_column"], "")
    graph.node("Mul", [hidden, "mask_column"], ["masked"], "")
    graph.node("ReduceSum", ["masked", graph.axes("token_axis", 1)], ["summed"], "", keepdims=0)
    graph.node("LpNormalization", ["summed"], ["embedding"], "", axis=1, p=2)

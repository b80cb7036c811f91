"""An encoder as an ONNX graph of ONNX Runtime's fused operators, in fp32.

The graph holds no weights: they are handed to the session beside it, so nothing but the model's own file is trusted,
nothing is converted to disk, and the weights are not serialised on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from schemas.spaces import Pooling
from transforms.embedders.encoder import Encoder, EncoderLayer, Floats, LayerNorm, Linear

_FUSED = "com.microsoft"
_OPSET = 17
_IR_VERSION = 9
_INPUTS = ("input_ids", "attention_mask")


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """A graph and the tensors it names.

    Inputs `input_ids` and `attention_mask`, int32 (batch, seq), padded on the right; output `embedding`, float32
    (batch, dimensions), pooled over the mask, of length 1 if asked.
    """

    model: bytes
    initializers: dict[str, Floats]


def build_graph(
    encoder: Encoder, pooling: Pooling, normalize: bool, dimensions: int | None = None
) -> OnnxGraph:
    """The encoder with pooling and normalisation inside.

    Args:
        dimensions: kept of each vector, before it is normalised; None keeps all.
    """
    graph = _GraphWriter()
    shape = encoder.shape
    hidden = _embed(graph, encoder)
    bias = _relative_bias(graph, encoder.relative_bias) if encoder.relative_bias is not None else ""
    for number, layer in enumerate(encoder.layers):
        hidden = _layer(graph, encoder, layer, f"layer.{number}", hidden, bias)
    width = dimensions or shape.hidden
    _pool(graph, hidden, pooling, normalize, width if width < shape.hidden else None)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            shape.family,
            [helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "seq"]) for name in _INPUTS],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", width])],
            graph.declared,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_FUSED, 1)],
        ir_version=_IR_VERSION,
    )
    return OnnxGraph(model.SerializeToString(), graph.initializers)


class _GraphWriter:
    """Nodes and weights so far."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.declared: list[onnx.TensorProto] = []
        self.initializers: dict[str, Floats] = {}

    def tensor(self, name: str, values: Floats) -> str:
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

    def integers(self, name: str, *values: int) -> str:
        self.declared.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name

    def node(
        self, op: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: float
    ) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, domain=domain, **attributes))
        return outputs[0]

    def matmul(self, value: str, linear: Linear, name: str) -> str:
        """Without the bias, which the operator after it adds."""
        return self.node("MatMul", [value, self.tensor(f"{name}.weight", linear.weight.T)], [name])


def _embed(graph: _GraphWriter, encoder: Encoder) -> str:
    inputs = [
        "input_ids",
        "",  # token types: all zero for a single input
        graph.tensor("words", encoder.words),
        graph.tensor("positions", encoder.positions),
        "",
        graph.tensor("embedding_norm.scale", encoder.embedding_norm.scale),
        graph.tensor("embedding_norm.shift", encoder.embedding_norm.shift),
        "attention_mask",
    ]
    outputs = ["hidden", "lengths"]
    return graph.node("EmbedLayerNormalization", inputs, outputs, _FUSED, epsilon=encoder.shape.epsilon)


def _relative_bias(graph: _GraphWriter, bias: Floats) -> str:
    """The corner of the table that this batch's length needs, (1, heads, seq, seq)."""
    graph.node("Shape", ["input_ids"], ["seq"], start=1)
    graph.node("Concat", ["seq", "seq"], ["corner"], axis=0)
    table = graph.tensor("relative_bias.table", bias[None])
    starts, axes = graph.integers("corner_start", 0, 0), graph.integers("corner_axes", 2, 3)
    return graph.node("Slice", [table, starts, "corner", axes], ["relative_bias"])


def _layer(
    graph: _GraphWriter, encoder: Encoder, layer: EncoderLayer, name: str, hidden: str, bias: str
) -> str:
    epsilon = encoder.shape.epsilon
    inputs = [
        hidden,
        graph.tensor(f"{name}.qkv.weight", layer.qkv.weight.T),
        graph.tensor(f"{name}.qkv.bias", layer.qkv.bias),
        "lengths",
        "",  # no earlier keys and values
        bias,
    ]
    attended = graph.node("Attention", inputs, [f"{name}.attention"], _FUSED, num_heads=encoder.shape.heads)
    projected = graph.matmul(attended, layer.attention_output, f"{name}.attention_output")
    middle = _add_and_normalise(
        graph, projected, hidden, layer.attention_output, layer.attention_norm, epsilon
    )
    widened = graph.matmul(middle, layer.up, f"{name}.up")
    activated = graph.node(
        "BiasGelu", [widened, graph.tensor(f"{name}.up.bias", layer.up.bias)], [f"{name}.gelu"], _FUSED
    )
    narrowed = graph.matmul(activated, layer.down, f"{name}.down")
    return _add_and_normalise(graph, narrowed, middle, layer.down, layer.output_norm, epsilon)


def _add_and_normalise(
    graph: _GraphWriter, value: str, skip: str, linear: Linear, norm: LayerNorm, epsilon: float
) -> str:
    """LayerNorm(value + bias of `linear` + skip)."""
    inputs = [
        value,
        skip,
        graph.tensor(f"{value}.norm.scale", norm.scale),
        graph.tensor(f"{value}.norm.shift", norm.shift),
        graph.tensor(f"{value}.bias", linear.bias),
    ]
    return graph.node("SkipLayerNormalization", inputs, [f"{value}.normal"], _FUSED, epsilon=epsilon)


def _pool(
    graph: _GraphWriter, hidden: str, pooling: Pooling, normalize: bool, dimensions: int | None
) -> None:
    steps = ["pooled"] + ["short"] * (dimensions is not None) + ["unit"] * normalize
    names = dict(zip(steps, [*steps[:-1], "embedding"], strict=True))
    pooled = names["pooled"]
    if pooling == "cls":
        graph.declared.append(helper.make_tensor("first", TensorProto.INT64, [], [0]))
        graph.node("Gather", [hidden, "first"], [pooled], axis=1)
    else:
        graph.node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT)
        token_axis = graph.integers("token_axis", 1)
        graph.node("Unsqueeze", ["mask", graph.integers("last_axis", 2)], ["mask_column"])
        graph.node("Mul", [hidden, "mask_column"], ["masked"])
        graph.node("ReduceSum", ["masked", token_axis], ["summed"], keepdims=0)
        graph.node("ReduceSum", ["mask", token_axis], ["tokens"], keepdims=1)
        graph.node("Div", ["summed", "tokens"], [pooled])
    if dimensions is not None:
        ends = [
            graph.integers("kept_from", 0),
            graph.integers("kept_to", dimensions),
            graph.integers("kept_axis", 1),
        ]
        pooled = graph.node("Slice", [pooled, *ends], [names["short"]])
    if normalize:
        graph.node("LpNormalization", [pooled], ["embedding"], axis=1, p=2)

"""A BERT-family encoder as arrays: what `config.json` and `model.safetensors` hold, whatever they call it.

BERT (Devlin et al. 2019; MiniLM, bge, e5 and gte are of its shape), DistilBERT (Sanh et al. 2019: without types, by
other names), RoBERTa, XLM-RoBERTa and CamemBERT (positions counted from behind the padding token) and MPNet (Song et
al. 2020: an attention bias by relative position, shared by all layers).
The graph builders read this and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
from safetensors import SafetensorError
from safetensors.numpy import load_file

from schemas.errors import BadConfig

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """What `config.json` says.

    Args:
        family: `bert`, `distilbert`, `roberta`, `xlm-roberta`, `camembert` or `mpnet`.
        max_positions: tokens one input may have, special tokens included.
        first_position: row of the position table that the first token takes.
        relative_buckets: of the attention bias by relative position; 0 without one.
    """

    family: str
    hidden: int
    layers: int
    heads: int
    intermediate: int
    max_positions: int
    first_position: int
    epsilon: float
    relative_buckets: int


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weight.T + bias`; weight (out, in), bias (out,)."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Scale and shift after normalisation, (hidden,) each."""

    scale: Floats
    shift: Floats


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """Attention and feed-forward, each added to its input and normalised (post-norm).

    Args:
        qkv: query, key and value stacked in this order: weight (3 hidden, hidden).
    """

    qkv: Linear
    attention_output: Linear
    attention_norm: LayerNorm
    up: Linear
    down: Linear
    output_norm: LayerNorm


@dataclass(frozen=True, slots=True)
class Encoder:
    """The whole encoder.

    Args:
        words: (vocabulary, hidden).
        positions: (max_positions, hidden), from the first token's on, the type of a single input added.
        relative_bias: added to attention scores, (heads, max_positions, max_positions) by query and key; None
            where the family has none.
    """

    shape: EncoderShape
    words: Floats
    positions: Floats
    embedding_norm: LayerNorm
    layers: tuple[EncoderLayer, ...]
    relative_bias: Floats | None


def read_shape(config: Path) -> EncoderShape:
    """Shape of the encoder in `config.json`.

    Raises:
        BadConfig: it cannot be read, or is not the configuration of an encoder these graphs reproduce.
    """
    try:
        settings = orjson.loads(config.read_bytes())
        family = settings.get("model_type")
        if family == "distilbert":
            settings = {"layer_norm_eps": 1e-12} | {
                _DISTILBERT_KEYS.get(key, key): settings[key] for key in settings
            }
        found = {"model_type": family} if family not in _FAMILIES else _unlike(settings)
        if found:
            raise BadConfig(
                f"{config}: found {', '.join(f'{key} {value!r}' for key, value in found.items())}, only encoders of "
                f"type {', '.join(_FAMILIES)} with absolute positions and gelu can be run without torch: "
                'choose another model, or set model.engine = "torch"'
            )
        first = int(settings.get("pad_token_id", 1)) + 1 if family not in _COUNTED_FROM_ZERO else 0
        shape = EncoderShape(
            family=family,
            hidden=int(settings["hidden_size"]),
            layers=int(settings["num_hidden_layers"]),
            heads=int(settings["num_attention_heads"]),
            intermediate=int(settings["intermediate_size"]),
            max_positions=int(settings["max_position_embeddings"]) - first,
            first_position=first,
            epsilon=float(settings["layer_norm_eps"]),
            relative_buckets=int(settings["relative_attention_num_buckets"]) if family == "mpnet" else 0,
        )
    except (OSError, orjson.JSONDecodeError) as error:
        raise BadConfig(f"{config}: cannot be read: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadConfig(f"{config}: not the configuration of a BERT-like encoder: {error!r}") from None
    if min(shape.hidden, shape.layers, shape.heads, shape.max_positions) < 1 or shape.hidden % shape.heads:
        raise BadConfig(
            f"{config}: hidden_size {shape.hidden}, {shape.layers} layers, {shape.heads} heads and "
            f"{shape.max_positions} positions do not make an encoder"
        )
    return shape


_FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "mpnet")
_COUNTED_FROM_ZERO = ("bert", "distilbert")
_WITHOUT_TYPES = ("distilbert", "mpnet")
_PREFIXES = ("bert.", "distilbert.", "roberta.", "mpnet.", "model.")
"""Before every name where the file holds a head as well."""

_DISTILBERT_KEYS = {
    "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size", "activation": "hidden_act",
}  # fmt: skip
_DISTILBERT_NAMES = {
    "transformer.layer.": "encoder.layer.", ".attention.q_lin.": ".attention.self.query.",
    ".attention.k_lin.": ".attention.self.key.", ".attention.v_lin.": ".attention.self.value.",
    ".attention.out_lin.": ".attention.output.dense.", ".sa_layer_norm.": ".attention.output.LayerNorm.",
    ".ffn.lin1.": ".intermediate.dense.", ".ffn.lin2.": ".output.dense.",
    ".output_layer_norm.": ".output.LayerNorm.",
}  # fmt: skip


def _unlike(settings: Mapping[str, Any]) -> dict[str, Any]:
    expected = {"hidden_act": "gelu", "position_embedding_type": "absolute"}
    found = {key: settings.get(key, value) for key, value in expected.items()}
    # None stands for the default in files that transformers 5 wrote.
    return {key: value for key, value in found.items() if value not in (expected[key], None)}


def read_encoder(weights: Path, config: Path) -> Encoder:
    """The encoder of a model folder; half-precision weights are widened.

    Raises:
        BadConfig: a file cannot be read, a tensor is missing, or one has another shape than the configuration says.
    """
    shape = read_shape(config)
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError, TypeError) as error:
        raise BadConfig(f"{weights}: not a readable safetensors file: {error}") from None
    named = {_common(name): tensor for name, tensor in tensors.items()}

    def take(name: str, *dims: int) -> Floats:
        tensor = named.get(name)
        if tensor is None:
            raise BadConfig(f"{weights}: no tensor {name}: these are not the weights of {config}")
        # numpy has no bfloat16 of its own, and what stands in for it is no floating type to it.
        is_floats = np.issubdtype(tensor.dtype, np.floating) or tensor.dtype.name == "bfloat16"
        if not is_floats or (dims and tensor.shape != dims):
            raise BadConfig(
                f"{weights}: tensor {name} is {tensor.dtype} of shape {tensor.shape}, expected floats"
                f"{f' of shape {dims}' if dims else ''}: these are not the weights of {config}"
            )
        return np.ascontiguousarray(tensor, dtype=np.float32)

    hidden = shape.hidden
    end = shape.first_position + shape.max_positions
    positions = take("embeddings.position_embeddings.weight", end, hidden)[shape.first_position :]

    def table(name: str) -> Floats:
        """With as many rows as the file has."""
        rows = take(name)
        if rows.ndim != 2 or rows.shape[1] != hidden or len(rows) < 1:
            raise BadConfig(
                f"{weights}: tensor {name} is of shape {rows.shape}, expected rows of {hidden}: these are not the "
                f"weights of {config}"
            )
        return rows

    if shape.family not in _WITHOUT_TYPES:
        positions = positions + table("embeddings.token_type_embeddings.weight")[0]
    words = table("embeddings.word_embeddings.weight")
    return Encoder(
        shape=shape,
        words=words,
        positions=positions,
        embedding_norm=_norm(take, "embeddings.LayerNorm", hidden),
        layers=tuple(_layer(take, shape, number) for number in range(shape.layers)),
        relative_bias=_relative_bias(take, shape) if shape.relative_buckets else None,
    )


Take = Callable[..., Floats]


def _common(name: str) -> str:
    """A tensor's name as BERT has it, without what stands before all names."""
    name = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
    if name.startswith("transformer."):
        for its, common in _DISTILBERT_NAMES.items():
            name = name.replace(its, common)
    return name


def _norm(take: Take, name: str, hidden: int) -> LayerNorm:
    return LayerNorm(take(f"{name}.weight", hidden), take(f"{name}.bias", hidden))


def _linear(take: Take, name: str, outputs: int, inputs: int) -> Linear:
    return Linear(take(f"{name}.weight", outputs, inputs), take(f"{name}.bias", outputs))


def _layer(take: Take, shape: EncoderShape, number: int) -> EncoderLayer:
    name = f"encoder.layer.{number}"
    hidden, intermediate = shape.hidden, shape.intermediate
    if shape.family == "mpnet":
        parts = [f"{name}.attention.attn.{part}" for part in ("q", "k", "v")]
        output, norm = f"{name}.attention.attn.o", f"{name}.attention.LayerNorm"
    else:
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        output, norm = f"{name}.attention.output.dense", f"{name}.attention.output.LayerNorm"
    split = [_linear(take, part, hidden, hidden) for part in parts]
    return EncoderLayer(
        qkv=Linear(
            np.concatenate([part.weight for part in split]), np.concatenate([part.bias for part in split])
        ),
        attention_output=_linear(take, output, hidden, hidden),
        attention_norm=_norm(take, norm, hidden),
        up=_linear(take, f"{name}.intermediate.dense", intermediate, hidden),
        down=_linear(take, f"{name}.output.dense", hidden, intermediate),
        output_norm=_norm(take, f"{name}.output.LayerNorm", hidden),
    )


_FARTHEST = 128
"""Distance from which all keys share a bucket; fixed in MPNet's code, not in its configuration."""


def _relative_bias(take: Take, shape: EncoderShape) -> Floats:
    table = take("encoder.relative_attention_bias.weight", shape.relative_buckets, shape.heads)
    places = np.arange(shape.max_positions)
    buckets = relative_bucket(places[None, :] - places[:, None], shape.relative_buckets)
    return np.ascontiguousarray(table[buckets].transpose(2, 0, 1))


def relative_bucket(distance: npt.NDArray[np.int64], buckets: int) -> npt.NDArray[np.int64]:
    """Bucket of `key - query`: half of them after the query, near ones alone, far ones by logarithm (T5, MPNet)."""
    half = buckets // 2
    exact = half // 2
    away = np.abs(distance)
    far = np.log(np.maximum(away, 1).astype(np.float32) / exact) / np.float32(np.log(_FARTHEST / exact))
    by_logarithm = np.minimum(exact + (far * np.float32(half - exact)).astype(np.int64), half - 1)
    return np.where(distance > 0, half, 0) + np.where(away < exact, away, by_logarithm)

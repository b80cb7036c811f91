"""An encoder's weights as whole numbers, laid out the way the kernels read them (`kernels/encoder.c`).

A row of weights (one output) has one scale. With 8 bits it spans -127..127. With 16 bits it is as fine as int32
sums provably allow: activations stay within `ACTIVATION_LIMIT`, so the sum of a row's absolute weights times that
limit must stay below 2^31.
"""

from __future__ import annotations

import ctypes
from math import erf
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from schemas.spaces import Pooling
from transforms.embedders.encoder import Encoder, LayerNorm, Linear

Bits = Literal[8, 16]

PANEL = 64
ACTIVATION_LIMIT = 4095
GELU_PIECES = 32
GELU_PIECES_PER_UNIT = 4
_SUM_LIMIT = 2.1e9
_ALIGNMENT = 64


class CLinear(ctypes.Structure):
    """`Linear` of the kernels."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("weight", "scale", "sum", "bias")]


class CLayerNorm(ctypes.Structure):
    """`LayerNorm` of the kernels."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("scale", "shift")]


class CLayer(ctypes.Structure):
    """`Layer` of the kernels."""

    _fields_ = [
        *((name, CLinear) for name in ("qkv", "attention_output", "up", "down")),
        *((name, CLayerNorm) for name in ("attention_norm", "output_norm")),
    ]


class CEncoder(ctypes.Structure):
    """`Encoder` of the kernels."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                "bits", "hidden", "heads", "intermediate", "layers", "max_positions", "first_token_pooling",
                "normalize",
            )
        ),
        ("epsilon", ctypes.c_float),
        ("words", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("embedding_norm", CLayerNorm),
        ("layer_of", ctypes.POINTER(CLayer)),
        ("relative_bias", ctypes.c_void_p),
        ("gelu", ctypes.c_void_p),
    ]  # fmt: skip


def quantise_rows(
    weight: npt.NDArray[np.float32], bits: Bits
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """Whole numbers (outputs, inputs), int8 or int16, and the scale of each row, float32 (outputs,)."""
    magnitude = np.abs(weight.astype(np.float64))
    if bits == 8:
        scale = magnitude.max(axis=1) / 127
    else:
        by_sum = magnitude.sum(axis=1) * ACTIVATION_LIMIT / _SUM_LIMIT
        scale = np.maximum(magnitude.max(axis=1) / 32767, by_sum)
    scale = np.maximum(scale, 1e-30)
    whole = np.rint(weight / scale[:, None]).astype(np.int8 if bits == 8 else np.int16)
    return whole, scale.astype(np.float32)


def pack_rows(whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Panels of 64 outputs, each (inputs / step, 64, step), a step being four bytes of one output's inputs."""
    outputs, inputs = whole.shape
    step = 4 // whole.itemsize
    return whole.reshape(outputs // PANEL, PANEL, inputs // step, step).transpose(0, 2, 1, 3)


def gelu_pieces() -> npt.NDArray[np.float32]:
    """The normal distribution function as a parabola c0 + c1 x + c2 x^2 around each quarter of [-4, 4): (3, 32).

    Interpolated at Chebyshev nodes, off by less than 4e-5. The kernels find a piece by the lowest five bits of x in
    quarters, so those of negative x come last.
    """
    nodes = np.cos(np.pi * (np.arange(3) + 0.5) / 3) / (2 * GELU_PIECES_PER_UNIT)
    quarters = np.arange(-GELU_PIECES // 2, GELU_PIECES // 2)
    pieces = np.empty((3, GELU_PIECES))
    for quarter in quarters:
        x = quarter / GELU_PIECES_PER_UNIT + nodes
        y = [0.5 * (1 + erf(at / 2**0.5)) for at in x]
        pieces[:, quarter % GELU_PIECES] = np.polynomial.polynomial.polyfit(x, y, 2)
    return pieces.astype(np.float32)


class KernelWeights:
    """An encoder in the kernels' memory layout. `struct` points into arrays that live as long as this object."""

    def __init__(self, encoder: Encoder, bits: Bits, pooling: Pooling, normalize: bool) -> None:
        shape = encoder.shape
        self._kept: list[npt.NDArray[Any]] = []
        layers = (CLayer * shape.layers)(
            *(
                CLayer(
                    self._linear(layer.qkv, bits),
                    self._linear(layer.attention_output, bits),
                    self._linear(layer.up, bits),
                    self._linear(layer.down, bits),
                    self._norm(layer.attention_norm),
                    self._norm(layer.output_norm),
                )
                for layer in encoder.layers
            )
        )
        self.struct = CEncoder(
            bits=bits,
            hidden=shape.hidden,
            heads=shape.heads,
            intermediate=shape.intermediate,
            layers=shape.layers,
            max_positions=shape.max_positions,
            first_token_pooling=pooling == "cls",
            normalize=normalize,
            epsilon=shape.epsilon,
            words=self._keep(encoder.words),
            positions=self._keep(encoder.positions),
            embedding_norm=self._norm(encoder.embedding_norm),
            layer_of=layers,
            relative_bias=None if encoder.relative_bias is None else self._keep(encoder.relative_bias),
            gelu=self._keep(gelu_pieces()),
        )

    def _keep(self, values: npt.NDArray[Any]) -> int:
        """Address of a copy that starts on a cache line."""
        room = np.empty(values.nbytes + _ALIGNMENT, dtype=np.uint8)
        start = -room.ctypes.data % _ALIGNMENT
        copy = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
        copy[...] = values
        self._kept.append(room)
        return copy.ctypes.data

    def _linear(self, linear: Linear, bits: Bits) -> CLinear:
        whole, scale = quantise_rows(linear.weight, bits)
        sums = (whole.sum(axis=1, dtype=np.int64) * scale).astype(np.float32)
        return CLinear(
            self._keep(pack_rows(whole)), self._keep(scale), self._keep(sums), self._keep(linear.bias)
        )

    def _norm(self, norm: LayerNorm) -> CLayerNorm:
        return CLayerNorm(self._keep(norm.scale), self._keep(norm.shift))

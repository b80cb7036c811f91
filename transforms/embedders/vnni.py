"""The fast engine on the CPU: headrace's own kernels on AVX-512 VNNI, in whole numbers of 16 or 8 bits.

No padding: tokens lie one after the other. No calibration: each token's activations are scaled by themselves (dynamic
quantisation per token, token-wise in ZeroQuant, Yao et al. 2022). 16 bits keep the `exact` promise at twice
the rate of fp32 arithmetic, 8 bits the `fast` one at four times.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.errors import BadConfig, EngineFailed
from schemas.spaces import EmbeddingSpace
from schemas.usage import LOCAL
from transforms.embedders.base import EngineFacts, TokenIds, Vectors
from transforms.embedders.encoder import Encoder, EncoderShape
from transforms.embedders.padding import check_lengths
from transforms.embedders.pooling import known_pooling, shorten
from transforms.embedders.vnni_weights import PANEL, Bits, KernelWeights

MAX_BATCH_TOKENS = 512
"""Tokens of a call: weights are read once for all, and what is computed mostly stays in the second-level cache."""

LIBRARY = "kernels/encoder.so"
HEAD_DEPTHS = (32, 64)


class VnniEngine:
    """Implements `base.Engine`. A call computes on the thread that makes it, as many at once as there are threads.

    Args:
        encoder: read, not kept.
        space: the vectors belong to; its limit is enforced.
        bits: 16 or 8.
        threads: calls at once.

    Raises:
        BadConfig: the kernels are not there, or the encoder or the pooling is not one of theirs.
    """

    def __init__(self, encoder: Encoder, space: EmbeddingSpace, bits: Bits, threads: int) -> None:
        reason = reason_against(encoder.shape)
        if reason is not None:
            raise BadConfig(f'{space.model}: {reason}: set model.engine = "onnx"')
        self._library = _library()
        self._weights = KernelWeights(encoder, bits, known_pooling(space.pooling), space.normalize)
        self._vocabulary, self._hidden = encoder.words.shape
        self._workspaces: deque[npt.NDArray[np.uint8]] = deque()
        self.space = space
        self.facts = EngineFacts(
            provider="local",
            engine="vnni",
            version="3",
            arithmetic=f"int{bits}",
            threads=threads,
            streams=threads,
            max_batch_tokens=MAX_BATCH_TOKENS,
            price=LOCAL,
            pads=False,
        )

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        """Vectors of one batch: float32, (len(batch), dimensions), in the order given.

        Raises:
            EngineFailed: an input is empty or longer than the space allows, or holds a token the model lacks.
        """
        if not batch:
            return np.empty((0, self.space.dimensions), dtype=np.float32)
        lengths = np.array(check_lengths(batch, self.space.max_tokens), dtype=np.int32)
        tokens = np.ascontiguousarray(np.concatenate(batch), dtype=np.int32)
        # The kernels look words up by number and check nothing.
        if tokens.min() < 0 or tokens.max() >= self._vocabulary:
            raise EngineFailed(
                f"token {tokens.max() if tokens.min() >= 0 else tokens.min()} in a batch of {len(batch)}, the model "
                f"has tokens 0 to {self._vocabulary - 1}: it was tokenized for another model"
            )
        vectors = np.empty((len(batch), self._hidden), dtype=np.float32)
        workspace = self._workspace(len(tokens), int(lengths.max()))
        self._library.headrace_encode(
            ctypes.byref(self._weights.struct),
            tokens.ctypes.data,
            lengths.ctypes.data,
            len(batch),
            vectors.ctypes.data,
            workspace.ctypes.data,
        )
        self._workspaces.append(workspace)
        return shorten(vectors, self.space.dimensions, self.space.normalize)

    def _workspace(self, tokens: int, longest: int) -> npt.NDArray[np.uint8]:
        """Memory for one call, kept for the next: as many as there were calls at once."""
        needed = self._library.headrace_workspace_bytes(ctypes.byref(self._weights.struct), tokens, longest)
        try:
            workspace = self._workspaces.popleft()
        except IndexError:
            workspace = _aligned(needed)
        return workspace if workspace.nbytes >= needed else _aligned(needed)


def reason_against(shape: EncoderShape | None) -> str | None:
    """Why the kernels cannot run an encoder (any that fits them, if None), None when they can."""
    if not is_built():
        return "the kernels were not built on this system"
    if shape is None:
        return None
    depth = shape.hidden // shape.heads
    if shape.hidden % PANEL or shape.intermediate % PANEL or depth not in HEAD_DEPTHS:
        return (
            f"hidden size {shape.hidden}, intermediate size {shape.intermediate} and head size {depth} are not "
            f"multiples of {PANEL} with heads of {' or '.join(map(str, HEAD_DEPTHS))}, which the kernels are made for"
        )
    return None


def is_built() -> bool:
    """Whether the kernels were compiled at installation."""
    return (resources.files("transforms.embedders") / LIBRARY).is_file()


@cache
def _library() -> Any:
    library = ctypes.CDLL(str(resources.files("transforms.embedders") / LIBRARY))
    pointer, whole = ctypes.c_void_p, ctypes.c_int32
    library.headrace_workspace_bytes.argtypes = [pointer, whole, whole]
    library.headrace_workspace_bytes.restype = ctypes.c_size_t
    library.headrace_encode.argtypes = [pointer, pointer, pointer, whole, pointer, pointer]
    library.headrace_encode.restype = None
    return library


def _aligned(size_bytes: int) -> npt.NDArray[np.uint8]:
    """Memory that starts on a cache line."""
    room = np.empty(size_bytes + 64, dtype=np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size_bytes]

"""Where torch computes, in what numbers, and how many calls at once."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from schemas.errors import BadConfig
from schemas.spaces import Precision
from transforms.embedders.choice import Arithmetic

CPU_BATCH_TOKENS = 2048
CUDA_BATCH_TOKENS = 65_536
CUDA_STREAMS = 2
"""Batches under way at once: while the card computes one, the host packs another."""

_BYTES_PER_TOKEN_AND_DIMENSION = 64
"""Of activations alive at once: 13 times hidden in a half precision, 4 in fp32, and as much to spare."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where and in what numbers torch computes.

    Args:
        device: `cpu`, `cuda`, or `cuda:1` and so on.
        arithmetic: `fp32`, `bf16` or `fp16`.
    """

    device: str
    arithmetic: Arithmetic

    @property
    def is_cuda(self) -> bool:
        """Whether `device` is a card."""
        return self.device.startswith("cuda")

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return _DTYPES[self.arithmetic]


_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_target(
    precision: Precision, device: str | None = None, arithmetic: Arithmetic | None = None
) -> Target:
    """A card where there is one, and the fastest arithmetic on it that keeps the precision's promise.

    fp16 has three bits more than bf16 at the same speed, so `exact` takes it; what is too large for it comes out
    as infinity and is computed again in fp32. The CPU computes in fp32 unless another arithmetic is asked for.

    Raises:
        BadConfig: a card is asked for where torch finds none, or an arithmetic that torch does not compute in.
    """
    has_card = torch.cuda.is_available()
    if device is not None and device.startswith("cuda") and not has_card:
        raise BadConfig(
            f"device {device!r}: torch {torch.__version__} finds no CUDA card: check the driver, or use the CPU"
        )
    device = device or ("cuda" if has_card else "cpu")
    if arithmetic is None:
        arithmetic = _card_arithmetic(precision) if device.startswith("cuda") else "fp32"
    if arithmetic not in _DTYPES:
        raise BadConfig(f"arithmetic {arithmetic!r}: torch computes here in {', '.join(_DTYPES)}")
    return Target(device, arithmetic)


def _card_arithmetic(precision: Precision) -> Arithmetic:
    return "bf16" if precision == "fast" and torch.cuda.is_bf16_supported(False) else "fp16"


class Lanes:
    """Streams of the card, lent one to a call: memory freed on one is not used again on another, so they stay few."""

    def __init__(self, target: Target) -> None:
        self._free: queue.LifoQueue[torch.cuda.Stream | None] = queue.LifoQueue()
        if target.is_cuda:
            # cuDNN plans its attention anew for each shape, and here hardly two batches have the same.
            torch.backends.cuda.enable_cudnn_sdp(False)
            torch.cuda.synchronize(target.device)  # the weights have arrived
        for _ in range(CUDA_STREAMS if target.is_cuda else 0):
            self._free.put(torch.cuda.Stream(target.device))
        self._is_cuda = target.is_cuda

    @contextmanager
    def one(self) -> Iterator[torch.cuda.Stream | None]:
        """A stream made current for this thread; None on the CPU, whose calls need not wait for each other."""
        if not self._is_cuda:
            yield None
            return
        stream = self._free.get()
        try:
            with torch.cuda.stream(stream):
                yield stream
        finally:
            self._free.put(stream)


def batch_tokens(target: Target, dimensions: int) -> int:
    """A quarter of the card's free memory over all streams, as a power of two, at most `CUDA_BATCH_TOKENS`."""
    if not target.is_cuda:
        return CPU_BATCH_TOKENS
    free_bytes, _ = torch.cuda.mem_get_info(target.device)
    return batch_tokens_for(free_bytes, dimensions)


def batch_tokens_for(free_bytes: int, dimensions: int) -> int:
    """Padded tokens of a call on a card with `free_bytes` left, for a model of `dimensions`."""
    fitting = free_bytes // 4 // CUDA_STREAMS // (_BYTES_PER_TOKEN_AND_DIMENSION * dimensions)
    return min(CUDA_BATCH_TOKENS, max(CPU_BATCH_TOKENS, 1 << max(0, fitting.bit_length() - 1)))

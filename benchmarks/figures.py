"""What is computed from a measured time: rates, shares, ratios, money. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from transforms.embedders.encoder import EncoderShape

Floats = npt.NDArray[np.float32]

USD_PER_HOUR = 0.09
"""An assumption: about what a public cloud asks for two recent virtual processors and 4 GiB, on demand."""


def encoder_flops(shape: EncoderShape, lengths: Sequence[int]) -> float:
    """Operations of the matrix products that embed inputs of these lengths, padding not counted.

    Each layer: projections of query, key, value and output (4 h^2) and the feed-forward (2 h f) for every token;
    scores and their weighted sum (2 h n) for every token of an input of n. A multiplication and an addition are two.
    """
    tokens = np.asarray(lengths, dtype=np.float64)
    linear = 4 * shape.hidden**2 + 2 * shape.hidden * shape.intermediate
    attention = 2 * shape.hidden * tokens
    return float(2 * shape.layers * (tokens * (linear + attention)).sum())


def share_of_ceiling(flops: float, seconds: float, ceiling_gflops: float) -> float:
    """Of what the machine can compute in that arithmetic, 0 to 1."""
    return flops / seconds / (ceiling_gflops * 1e9)


def ceiling_texts_per_s(flops: float, texts: int, ceiling_gflops: float) -> float:
    """Texts/s if nothing but the matrix products took time."""
    return texts * ceiling_gflops * 1e9 / flops


def usd_per_million_tokens(tokens_per_s: float, usd_per_hour: float) -> float:
    """Price of the machine for the time that a million tokens take."""
    return usd_per_hour / 3600 / tokens_per_s * 1e6


def cosines(vectors: Floats, reference: Floats) -> Floats:
    """Of each row with the same row of the reference, (rows,); both may have any length but zero."""
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
    found: Floats = (vectors * reference).sum(axis=1) / lengths
    return found


def median_ratio(seconds: Mapping[int, float], reference: Mapping[int, float]) -> float | None:
    """Median over rounds of how many times faster than the reference in the same round; None without a common one.

    A machine that slows down for a while slows both down: the ratio stays.
    """
    both = seconds.keys() & reference.keys()
    return median(reference[number] / seconds[number] for number in both) if both else None


def relative_difference(value: float, reference: float) -> float:
    """0.01 is one per cent above the reference."""
    return (value - reference) / reference


def best_by(rows: Sequence[dict[str, Any]], key: str) -> dict[str, Any] | None:
    """The row with the highest value; None without one."""
    return max((row for row in rows if row.get(key) is not None), key=lambda row: row[key], default=None)

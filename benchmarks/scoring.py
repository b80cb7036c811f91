"""Scores of rankings and of similarities, as the field defines them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt


def ndcg(ranking: Sequence[str], judged: Mapping[str, int], k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first `k` (Järvelin & Kekäläinen 2002), gains as judged.

    Args:
        judged: document -> relevance above 0; all other documents have none.
    """
    ideal = _dcg(sorted(judged.values(), reverse=True)[:k])
    return _dcg([judged.get(document, 0) for document in ranking[:k]]) / ideal if ideal else 0.0


def recall(ranking: Sequence[str], judged: Mapping[str, int], k: int = 10) -> float:
    """Share of the relevant documents that are among the first `k`."""
    relevant = {document for document, gain in judged.items() if gain > 0}
    return len(relevant & set(ranking[:k])) / len(relevant) if relevant else 0.0


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Rank correlation; equal values share the mean of their ranks. NaN if one side never varies."""
    ranks_a, ranks_b = _ranks(np.asarray(a, np.float64)), _ranks(np.asarray(b, np.float64))
    centred_a, centred_b = ranks_a - ranks_a.mean(), ranks_b - ranks_b.mean()
    scale = math.sqrt(float(centred_a @ centred_a) * float(centred_b @ centred_b))
    return float(centred_a @ centred_b) / scale if scale else math.nan


def _dcg(gains: Sequence[int]) -> float:
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, start=1))


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[places]

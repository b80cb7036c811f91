"""From the vectors of tokens to the vector of an input, in numpy, for engines that do not do it themselves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from schemas.errors import BadConfig
from schemas.spaces import Pooling
from transforms.embedders.base import Vectors


def known_pooling(name: str) -> Pooling:
    """A pooling that can be done without torch.

    Raises:
        BadConfig: `name` is another.
    """
    if name == "mean":
        return "mean"
    if name == "cls":
        return "cls"
    raise BadConfig(
        f'pooling {name}: only mean and cls can be done without torch: set model.engine = "torch", or choose '
        "another model"
    )


def pool(hidden: Vectors, mask: npt.NDArray[np.integer], pooling: Pooling) -> Vectors:
    """One vector for each input.

    Args:
        hidden: last layer, float32, (batch, tokens, hidden).
        mask: 1 for a token, 0 for padding, (batch, tokens); the first of a row is a token.
    Returns:
        float32, (batch, hidden), not normalised.
    """
    if pooling == "cls":
        first: Vectors = np.ascontiguousarray(hidden[:, 0])
        return first
    weights = mask.astype(np.float32)
    summed: Vectors = np.einsum("bth,bt->bh", hidden, weights)
    summed /= weights.sum(axis=1, keepdims=True)
    return summed


def shorten(vectors: Vectors, dimensions: int, normalize: bool) -> Vectors:
    """The first `dimensions` of each vector (Kusupati et al. 2022, Matryoshka), of length 1 if asked.

    Args:
        vectors: float32, (batch, at least `dimensions`).
    Returns:
        float32, (batch, dimensions). A vector of zeros stays one.
    """
    kept = np.ascontiguousarray(vectors[:, :dimensions], dtype=np.float32)
    if not normalize:
        return kept
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    scaled: Vectors = np.divide(kept, lengths, out=np.zeros_like(kept), where=lengths != 0)
    return scaled

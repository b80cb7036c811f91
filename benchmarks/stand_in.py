"""An engine that costs nothing, for measuring and testing everything around the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np

from schemas.config import Model
from schemas.spaces import EmbeddingSpace
from schemas.usage import LOCAL
from transforms.embedders import loading
from transforms.embedders.base import EngineFacts, TokenIds, Vectors
from transforms.embedders.choice import EngineChoice


class StandIn:
    """Implements `base.Engine`: unit vectors that depend on the tokens."""

    def __init__(self, space: EmbeddingSpace) -> None:
        self.space = space
        self.facts = EngineFacts("local", "stand-in", "1", "fp32", 1, 1, 512, LOCAL)

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        """Vectors of one batch, float32, (len(batch), dimensions)."""
        vectors = np.zeros((len(batch), self.space.dimensions), np.float32)
        for row, ids in enumerate(batch):
            places = ids % self.space.dimensions
            np.add.at(vectors[row], places, 1.0 + np.arange(len(ids), dtype=np.float32) / 64)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def _stand_in(model: Model, folder: Path, space: EmbeddingSpace, choice: EngineChoice) -> StandIn:
    return StandIn(space)


@contextmanager
def no_model() -> Iterator[None]:
    """Inside the block every engine is the stand-in."""
    with patch.object(loading, "_build", _stand_in), patch.object(loading, "check_canary", lambda *_: 1.0):
        loading._engines.clear()
        yield
    loading._engines.clear()

"""Known vectors of known sentences: an engine that does not give them is not the engine of its space."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt
import orjson

from schemas.errors import CanaryMismatch
from schemas.spaces import Precision
from transforms.embedders.base import Engine, Tokenizer, Vectors
from transforms.embedders.batching import embed_all
from transforms.embedders.tokenizer import cut

LOWEST_COSINE: dict[Precision, float] = {"exact": 0.999, "fast": 0.95}


@dataclass(frozen=True, slots=True)
class Canaries:
    """Sentences of a model and their vectors.

    Args:
        reference: library and version that made the vectors.
        texts: some longer than the model's limit, to be cut to it.
        vectors: float32, (texts, dimensions).
    """

    reference: str
    texts: tuple[str, ...]
    vectors: Vectors


def read_canaries(model: str) -> Canaries:
    """The canaries that ship for a model of the registry."""
    name = f"{model.replace('/', '--')}.json"
    saved = orjson.loads((resources.files("transforms.embedders") / "canaries" / name).read_bytes())
    return Canaries(
        saved["reference"],
        tuple(item["text"] for item in saved["sentences"]),
        np.stack(
            [np.frombuffer(base64.b64decode(item["vector"]), dtype="<f4") for item in saved["sentences"]]
        ),
    )


def check_canary(engine: Engine, tokenizer: Tokenizer) -> float:
    """Embed the canaries and compare.

    Returns:
        The lowest cosine to the known vectors.

    Raises:
        CanaryMismatch: it is lower than the precision of the engine's space allows, or the engine failed.
    """
    space = engine.space
    known = read_canaries(space.model)
    inputs = [cut(ids, space.max_tokens) for ids in tokenizer.encode(known.texts)]
    result = embed_all(engine, inputs)
    if result.failed:
        raise CanaryMismatch(
            f"{space.model} on {engine.facts.engine} {engine.facts.version} cannot embed its canaries: "
            f"{next(iter(result.failed.values()))}"
        )
    cosines = cosine(result.vectors, known.vectors)
    lowest = float(cosines.min())
    if not lowest >= LOWEST_COSINE[space.precision]:
        raise CanaryMismatch(
            f"{space.model} on {engine.facts.engine} {engine.facts.version}: canary {int(cosines.argmin())} has "
            f"cosine {lowest:.6f} to its known vector, expected at least {LOWEST_COSINE[space.precision]}: "
            "its vectors would not belong to the space; install another version of the engine"
        )
    return lowest


def cosine(left: Vectors, right: Vectors) -> npt.NDArray[np.float64]:
    """Cosine of each row of `left` with the same row of `right`; 0 where one of them is zero."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products = np.einsum("ij,ij->i", a, b)
    cosines: npt.NDArray[np.float64] = np.zeros_like(products)
    np.divide(products, lengths, out=cosines, where=lengths > 0)
    return cosines

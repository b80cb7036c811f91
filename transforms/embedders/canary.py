"""Known vectors of known sentences: an engine that does not give them is not the engine of its space."""

from __future__ import annotations

import base64
import logging
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt
import orjson

from schemas.errors import CanaryMismatch
from schemas.spaces import Precision
from transforms.embedders.base import Engine, Tokenizer, Vectors
from transforms.embedders.batching import embed_all
from transforms.embedders.registry import REGISTRY
from transforms.embedders.tokenizer import cut

log = logging.getLogger(__name__)

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
    """The canaries that ship for a model of the registry; those of no other do."""
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
    """Embed the canaries of a pinned model and compare; where none ship there is nothing to compare with.

    Vectors cut to fewer dimensions are compared with known ones cut alike. Known vectors are of inputs cut to the
    model's own limit; where the space's is lower, those that it would cut further say nothing.

    Returns:
        The lowest cosine to the known vectors, 1 without any.

    Raises:
        CanaryMismatch: it is lower than the precision of the engine's space allows, or the engine failed.
    """
    space = engine.space
    if space.model not in REGISTRY:
        log.debug("no known vectors of %s: what the engine gives is taken as it is", space.model)
        return 1.0
    known, limit = read_canaries(space.model), REGISTRY[space.model].max_tokens
    whole = [cut(ids, limit) for ids in tokenizer.encode(known.texts)]
    rows = [row for row, ids in enumerate(whole) if len(ids) <= space.max_tokens]
    if not rows:
        log.debug("no canary of %s fits into %d tokens", space.model, space.max_tokens)
        return 1.0
    inputs, expected = [whole[row] for row in rows], known.vectors[rows, : space.dimensions]
    result = embed_all(engine, inputs)
    if result.failed:
        raise CanaryMismatch(
            f"{space.model} on {engine.facts.engine} {engine.facts.version} cannot embed its canaries: "
            f"{next(iter(result.failed.values()))}"
        )
    cosines = cosine(result.vectors, expected)
    lowest, worst = float(cosines.min()), rows[int(cosines.argmin())]
    if not lowest >= LOWEST_COSINE[space.precision]:
        raise CanaryMismatch(
            f"{space.model} on {engine.facts.engine} {engine.facts.version}: canary {worst} has cosine "
            f"{lowest:.6f} to its known vector, expected at least {LOWEST_COSINE[space.precision]}: "
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

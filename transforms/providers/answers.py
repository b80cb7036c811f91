"""From what a provider answers to vectors, believing nothing: number, order, dimensions and values. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from schemas.errors import BadAnswer
from transforms.embedders.base import Vectors
from transforms.providers.base import Reply
from transforms.providers.exchange import Answer


def to_vectors(
    place: str, indexed: Iterable[tuple[Any, Any]], count: int, dimensions: int, tokens_reported: int | None
) -> Vectors:
    """Vectors in the order asked.

    Args:
        place: whose answer it is, for messages.
        indexed: for each vector the position of its text in the request, and its numbers, in a list or an array.
        count: of texts asked for.
        tokens_reported: billed for the answer, for the error.
    Returns:
        float32, (count, dimensions), finite.
    Raises:
        BadAnswer: vectors are missing, too many, of another length, or no numbers.
    """
    pairs = list(indexed)
    positions = {index for index, _ in pairs if isinstance(index, int) and not isinstance(index, bool)}
    if len(pairs) != count or positions != set(range(count)):
        raise BadAnswer(
            f"{place} gave {len(pairs)} vectors for {count} texts, or numbered them wrongly", tokens_reported
        )
    pairs.sort(key=lambda pair: pair[0])
    lengths = {len(values) if isinstance(values, list | np.ndarray) else 0 for _, values in pairs}
    if lengths - {dimensions}:
        raise BadAnswer(
            f"{place} gave vectors of {', '.join(map(str, sorted(lengths)))} dimensions, {dimensions} were asked for",
            tokens_reported,
        )
    try:
        with np.errstate(over="ignore"):
            vectors = np.array([values for _, values in pairs], np.float32).reshape(count, dimensions)
    except (ValueError, TypeError, OverflowError):
        vectors = np.full((1, 1), np.nan, np.float32)
    if not np.isfinite(vectors).all():
        raise BadAnswer(f"{place} gave vectors with values that are no finite numbers", tokens_reported)
    return vectors


def whole_number(value: Any) -> int | None:
    """A count as an answer says it, 12 or 12.0; None where it says none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if math.isfinite(value) and value >= 0 and value == int(value) else None


def listed_reply(place: str, answer: Answer, count: int, dimensions: int) -> Reply:
    """A reply from an answer as OpenAI shapes it: `data` with `index` and `embedding`, `usage` with `total_tokens`.

    Raises:
        BadAnswer: as `to_vectors`.
    """
    usage = members(answer.body, "usage")
    tokens = whole_number(usage.get("total_tokens"))
    items = [item for item in listed(answer.body, "data") if isinstance(item, dict)]
    indexed = [(item.get("index"), item.get("embedding")) for item in items]
    vectors = to_vectors(place, indexed, count, dimensions, tokens)
    return Reply(vectors, tokens, answer.headers.get("x-request-id"))


def listed(body: Mapping[str, Any], name: str) -> list[Any]:
    """The array of that name; empty where there is none."""
    found = body.get(name)
    return found if isinstance(found, list) else []


def members(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object of that name; empty where there is none."""
    found = body.get(name)
    return found if isinstance(found, dict) else {}


def names(body: Mapping[str, Any], array: str, key: str) -> list[str]:
    """The strings under `key` in the objects of an array."""
    values = [item.get(key) for item in listed(body, array) if isinstance(item, dict)]
    return [value for value in values if isinstance(value, str)]

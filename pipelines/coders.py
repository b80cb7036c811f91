"""How what flows between steps is written, said outright: a job's new version reads what the old one wrote.

Left to itself, Beam takes a coder of its own that pickles each element it looks at to learn its size, which was a
seventh of the time of a load; and it may infer another one in its next release.
"""

from __future__ import annotations

import pickle
from typing import Any

import apache_beam as beam
from apache_beam.coders import Coder, registry

from extractors.base import Page
from schemas.documents import (
    ChunkedDocument,
    DeadLetter,
    Document,
    EmbeddedBatch,
    SourceRecord,
    Tombstone,
)
from schemas.quality import BatchReport
from schemas.usage import UsageEvent

PROTOCOL = 5
"""Of pickle; Python reads older ones for ever."""
SMALL_BYTES = 512
"""Of an element without text."""


class Records:
    """Stands for `tuple[SourceRecord, ...]`, for which Beam has no coder by elements."""


class PickledCoder(Coder):  # type: ignore[misc]
    """Our own classes, by pickle; sizes are estimated from what is large in them."""

    def encode(self, value: Any) -> bytes:
        """As bytes."""
        return pickle.dumps(value, PROTOCOL)

    def decode(self, encoded: bytes) -> Any:
        """As it was."""
        return pickle.loads(encoded)  # noqa: S301 - written by the same job

    def estimate_size(self, value: Any) -> int:
        """Bytes, about; for Beam's counters."""
        return estimated_bytes(value)

    def is_deterministic(self) -> bool:
        """Whether equal values have equal bytes; no."""
        return False

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


def estimated_bytes(value: Any) -> int:
    """Size of an element, from its payloads, texts and vectors."""
    match value:
        case Page():
            return estimated_bytes(value.records)
        case tuple():
            return sum(map(estimated_bytes, value), SMALL_BYTES)
        case SourceRecord():
            return SMALL_BYTES + len(value.payload)
        case Document():
            return estimated_bytes(value.record) + len(value.text)
        case ChunkedDocument():
            return estimated_bytes(value.document) + len(value.document.text) + 4 * value.tokens_embedded
        case EmbeddedBatch():
            return sum(map(estimated_bytes, value.documents)) + int(value.chunks.nbytes)
        case DeadLetter():
            return estimated_bytes(value.record)
        case _:
            return SMALL_BYTES


for _kind in (
    Page,
    Records,
    SourceRecord,
    Tombstone,
    Document,
    ChunkedDocument,
    EmbeddedBatch,
    DeadLetter,
    UsageEvent,
    BatchReport,
):
    registry.register_coder(_kind, PickledCoder)


def coded(kind: type, *collections: beam.PCollection) -> None:
    """Let the collections have the coder of `kind`."""
    for collection in collections:
        collection.element_type = kind

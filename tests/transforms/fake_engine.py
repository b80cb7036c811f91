"""An engine and documents whose vectors are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from schemas.documents import Chunk, ChunkedDocument, Document, Format, Kind, SourceRecord
from schemas.errors import EngineFailed
from schemas.ids import text_hash
from schemas.spaces import EmbeddingSpace
from schemas.usage import LOCAL
from transforms.embedders.base import EngineFacts, TokenIds, Vectors

SPACE = EmbeddingSpace("fake", "0" * 64, "exact", "mean", True, dimensions=3, max_tokens=64)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
POISON = 666


def vector_of(ids: TokenIds) -> np.ndarray:
    """A vector that depends on the text alone, so that swapped rows are seen."""
    raw = np.array([len(ids), ids.sum() % 97, ids[0] % 31], np.float32) + 1
    return raw / np.linalg.norm(raw)


@dataclass
class FakeEngine:
    """Fails on a batch with `POISON` in it."""

    space: EmbeddingSpace = SPACE
    facts: EngineFacts = field(
        default_factory=lambda: EngineFacts("local", "fake", "1", "fp32", 2, 1, 512, LOCAL)
    )
    seen: list[int] = field(default_factory=list)

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        self.seen.append(len(batch))
        if any(POISON in ids for ids in batch):
            raise EngineFailed("it broke")
        return np.stack([vector_of(ids) for ids in batch])


def chunked(native_id: str, texts: Sequence[Sequence[int]]) -> ChunkedDocument:
    record = SourceRecord("acme", "jira", Format.JIRA_ISSUE, Kind.ISSUE, native_id, b"{}", NOW)
    chunks = tuple(
        Chunk(n, str(ids), text_hash(str(ids)), 0, 1, np.array(ids, np.int32)) for n, ids in enumerate(texts)
    )
    return ChunkedDocument(Document(record, native_id, "ABC", "", "text"), chunks, 1, 0)

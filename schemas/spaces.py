"""Embedding spaces: which vectors may be compared with which."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from schemas.ids import settings_digest

Precision = Literal["exact", "fast"]
"""What an engine promises about its vectors, however it computes them.

`exact`: mean cosine to fp32 at least 0.9999, lowest at least 0.999. `fast`: nDCG@10 of retrieval within 1 % of
fp32's, Spearman on STS-B within half a point. An engine may always be better than it must.
"""

Pooling = Literal["mean", "cls"]
"""How the vectors of an input's tokens become one: their mean, or the first token's."""


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """Everything that decides where a text lands; two texts are comparable only if all of it is equal.

    Args:
        model: public name, such as `sentence-transformers/all-MiniLM-L6-v2`.
        weights_sha256: hex digest of the weights file; for a remote model of its name, which is all that is known.
        precision: class of the vectors.
        pooling: `mean`, `cls`, another name of sentence-transformers that only the torch engine knows, or `remote`.
        normalize: vectors have length 1.
        dimensions: of a vector.
        max_tokens: of one input, special tokens included.
        query_prefix: put before a query.
        document_prefix: put before a document's chunk.
    """

    model: str
    weights_sha256: str
    precision: Precision
    pooling: str
    normalize: bool
    dimensions: int
    max_tokens: int
    query_prefix: str = ""
    document_prefix: str = ""

    @property
    def space_id(self) -> str:
        """16 hex digits; part of table names, so always `[0-9a-f]`."""
        return settings_digest(dataclasses.asdict(self)).hex()[:16]


def chunk_schema(dimensions: int) -> pa.Schema:
    """Arrow schema of an embedded batch: a row a chunk, document by document, ordinals ascending.

    `document_id` is the 16 bytes of the UUID.
    """
    return pa.schema(
        [
            pa.field("document_id", pa.binary(16), nullable=False),
            pa.field("ordinal", pa.int32(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("text_hash", pa.binary(16), nullable=False),
            pa.field("start_char", pa.int32(), nullable=False),
            pa.field("end_char", pa.int32(), nullable=False),
            pa.field("tokens", pa.int32(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), dimensions), nullable=False),
        ]
    )

"""Vectors already stored for a document's unchanged chunks: an edited comment costs one chunk, not the ticket."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from schemas.documents import ChunkedDocument
from transforms.spaces import chunk_table

StoredVectors = dict[tuple[UUID, bytes], npt.NDArray[np.float32]]
"""(document id, text hash) -> vector."""


def stored_vectors(
    connection: psycopg.Connection, space_id: str, documents: Iterable[ChunkedDocument]
) -> StoredVectors:
    """Vectors that the space's table holds for the very texts these documents have now.

    A document finds its own vectors alone: one client's rows never serve another's.
    """
    wanted = [(doc.document.record.document_id, chunk.text_hash) for doc in documents for chunk in doc.chunks]
    if not wanted:
        return {}
    statement = sql.SQL(
        "SELECT DISTINCT ON (c.document_id, c.text_hash) c.document_id, c.text_hash, c.embedding::vector"
        " FROM unnest(%s::uuid[], %s::bytea[]) AS wanted (document_id, text_hash)"
        " JOIN {table} AS c USING (document_id, text_hash)"
    ).format(table=chunk_table(space_id))
    ids, hashes = zip(*wanted, strict=True)
    rows = connection.execute(statement, (list(ids), list(hashes)), binary=True)
    return {(document_id, bytes(text)): np.asarray(vector, np.float32) for document_id, text, vector in rows}

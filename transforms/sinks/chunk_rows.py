"""Rows of a chunk table: which are new, which stay, and how they get there fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa
from psycopg import sql

from schemas.documents import ChunkedDocument, EmbeddedBatch, Version
from transforms.spaces import VectorType, chunk_table

StoredChunk = tuple[bytes, int, int]
"""Text hash, start and end."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A document of a batch, with the rows of the batch that are its chunks."""

    chunked: ChunkedDocument
    document_id: UUID
    version: Version
    rows: range


@dataclass(frozen=True, slots=True)
class RowChanges:
    """How a space's chunk rows of some documents become those of a batch.

    Args:
        fresh: rows of the batch to be inserted.
        moved: rows of the batch whose text is stored already, at other offsets.
        gone: (document id, ordinal) of stored rows to be removed: replaced by fresh ones, or beyond the new end.
    """

    fresh: list[int]
    moved: list[int]
    gone: list[tuple[UUID, int]]


def replace_chunks(
    connection: psycopg.Connection, batch: EmbeddedBatch, written: Sequence[Incoming], vector_type: VectorType
) -> None:
    """Make the space's rows of the documents in `written` those of `batch`; their documents must be locked."""
    table = chunk_table(batch.space_id)
    stored = {
        (document_id, ordinal): (bytes(text_hash), start, end)
        for document_id, ordinal, text_hash, start, end in connection.execute(
            sql.SQL(
                "SELECT document_id, ordinal, text_hash, start_char, end_char FROM {} WHERE document_id = ANY(%s)"
            ).format(table),
            [[item.document_id for item in written]],
        )
    }
    changes = plan_rows(written, stored)
    if changes.gone:
        ids, ordinals = zip(*changes.gone, strict=True)
        connection.execute(
            sql.SQL(
                "DELETE FROM {} AS c USING unnest(%s::uuid[], %s::int[]) AS gone (document_id, ordinal)"
                " WHERE (c.document_id, c.ordinal) = (gone.document_id, gone.ordinal)"
            ).format(table),
            [list(ids), list(ordinals)],
        )
    if changes.moved:
        moved = batch.chunks.take(pa.array(changes.moved))
        connection.execute(
            sql.SQL(
                "UPDATE {} AS c SET start_char = moved.start_char, end_char = moved.end_char"
                " FROM unnest(%s::uuid[], %s::int[], %s::int[], %s::int[])"
                " AS moved (document_id, ordinal, start_char, end_char)"
                " WHERE (c.document_id, c.ordinal) = (moved.document_id, moved.ordinal)"
            ).format(table),
            [
                [UUID(bytes=raw) for raw in moved.column("document_id").to_pylist()],
                *(moved.column(name).to_pylist() for name in ("ordinal", "start_char", "end_char")),
            ],
        )
    if changes.fresh:
        client = {item.document_id.bytes: item.chunked.document.record.client for item in written}
        _copy_chunks(connection, table, batch.chunks.take(pa.array(changes.fresh)), client, vector_type)


def plan_rows(written: Sequence[Incoming], stored: Mapping[tuple[UUID, int], StoredChunk]) -> RowChanges:
    """Compare the chunks of some documents with those stored."""
    fresh: list[int] = []
    moved: list[int] = []
    kept: set[tuple[UUID, int]] = set()
    for item in written:
        for row, chunk in zip(item.rows, item.chunked.chunks, strict=True):
            key = (item.document_id, chunk.ordinal)
            text_hash, start, end = stored.get(key, (None, 0, 0))
            if text_hash != chunk.text_hash:
                fresh.append(row)
                continue
            kept.add(key)
            if (start, end) != (chunk.start_char, chunk.end_char):
                moved.append(row)
    return RowChanges(fresh, moved, [key for key in stored if key not in kept])


def binary_vectors(column: pa.FixedSizeListArray, vector_type: VectorType) -> npt.NDArray[np.uint8]:
    """Vectors as pgvector receives them: dimensions, a zero, then the values, all big-endian.

    Args:
        column: float32 lists of one size.
    Returns:
        uint8, (rows, bytes of one value).
    """
    dimensions = column.type.list_size
    values = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, dimensions)
    ordered = np.ascontiguousarray(values.astype(">f4" if vector_type == "vector" else ">f2"))
    header = np.broadcast_to(np.array([dimensions, 0], ">i2").view(np.uint8), (len(values), 4))
    return np.hstack([header, ordered.view(np.uint8)])


def _copy_chunks(
    connection: psycopg.Connection,
    table: sql.Identifier,
    chunks: pa.RecordBatch,
    client: dict[bytes, str],
    vector_type: VectorType,
) -> None:
    document_ids = chunks.column("document_id").to_pylist()
    texts = (text.replace(b"\0", b"") for text in chunks.column("text").cast(pa.binary()).to_pylist())
    vectors = binary_vectors(chunks.column("embedding"), vector_type)
    rows = zip(
        document_ids,
        chunks.column("ordinal").to_pylist(),
        (client[document_id] for document_id in document_ids),
        texts,
        *(chunks.column(name).to_pylist() for name in ("text_hash", "start_char", "end_char", "tokens")),
        (vector.tobytes() for vector in vectors),
        strict=True,
    )
    statement = sql.SQL(
        "COPY {} (document_id, ordinal, client, text, text_hash, start_char, end_char, tokens, embedding)"
        " FROM STDIN (FORMAT BINARY)"
    ).format(table)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(["bytea", "int4", "text", "bytea", "bytea", "int4", "int4", "int4", "bytea"])
        for row in rows:
            copy.write_row(row)

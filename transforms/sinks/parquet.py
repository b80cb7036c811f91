"""A client's documents, chunks and vectors as one Parquet file, for those who compute elsewhere."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql

from schemas.errors import MissingFile
from schemas.spaces import EmbeddingSpace
from transforms.spaces import chunk_table

ROWS_PER_GROUP = 4096
"""Rows in memory at a time, and in a row group of the file."""

_INSTANT = pa.timestamp("us", tz="UTC")


def export_schema(space: EmbeddingSpace, client: str) -> pa.Schema:
    """Columns of an export, a row a chunk; the file's metadata says which space the vectors are of."""
    fields = [
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("native_id", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("project", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("author", pa.string(), nullable=False),
        pa.field("created_at", _INSTANT),
        pa.field("updated_at", _INSTANT, nullable=False),
        pa.field("attributes", pa.string(), nullable=False),
        pa.field("ordinal", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("text_hash", pa.binary(16), nullable=False),
        pa.field("start_char", pa.int32(), nullable=False),
        pa.field("end_char", pa.int32(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32(), space.dimensions), nullable=False),
    ]
    metadata = {
        "headrace.client": client,
        "headrace.space_id": space.space_id,
        "headrace.model": space.model,
        "headrace.space": orjson.dumps(dataclasses.asdict(space), option=orjson.OPT_SORT_KEYS).decode(),
    }
    return pa.schema(fields, metadata=metadata)


def export_parquet(connection: psycopg.Connection, space: EmbeddingSpace, client: str, path: Path) -> int:
    """Write everything a client has in a space, as of one moment; returns the number of rows (chunks).

    The file appears under its name only when it is whole.

    Raises:
        MissingFile: the folder to write into does not exist.
    """
    if not path.parent.is_dir():
        raise MissingFile(f"{path}: there is no folder {path.parent}: make it, or choose another")
    query = sql.SQL(
        "SELECT d.document_id::text, d.source, d.kind, d.native_id, d.key, d.project, d.title, d.url, d.author,"
        " d.created_at, d.updated_at, d.attributes::text, c.ordinal, c.text, c.text_hash, c.start_char, c.end_char,"
        " c.tokens, c.embedding::vector FROM {} AS c JOIN documents AS d USING (document_id)"
        " WHERE c.client = %s ORDER BY c.document_id, c.ordinal"
    ).format(chunk_table(space.space_id))
    schema = export_schema(space, client)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    rows = 0
    try:
        with (
            pq.ParquetWriter(partial, schema, compression="zstd") as writer,
            connection.transaction(),
            connection.cursor("headrace_export", binary=True) as cursor,
        ):
            cursor.execute(query, (client,))
            while found := cursor.fetchmany(ROWS_PER_GROUP):
                writer.write_batch(_batch(found, schema, space.dimensions))
                rows += len(found)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return rows


def _batch(rows: Sequence[Sequence[Any]], schema: pa.Schema, dimensions: int) -> pa.RecordBatch:
    *columns, vectors = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=False)]
    values = pa.array(np.concatenate([np.asarray(vector, np.float32) for vector in vectors]))
    arrays.append(pa.FixedSizeListArray.from_arrays(values, dimensions))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)

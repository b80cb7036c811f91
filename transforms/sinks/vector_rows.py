"""Row ids and vectors out of a chunk table as numpy arrays: binary COPY, whose rows have a fixed width here."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from schemas.errors import DimensionMismatch
from transforms.spaces import chunk_table

_HEADER_BYTES = 19  # signature, flags, length of the (empty) extension
_TRAILER_BYTES = 2


def read_row_ids(connection: psycopg.Connection, space_id: str, client: str) -> npt.NDArray[np.int64]:
    """All row ids of a client's chunks, ascending, int64."""
    query = sql.SQL("SELECT row_id FROM {table} WHERE client = {client}").format(
        table=chunk_table(space_id), client=sql.Literal(client)
    )
    rows = _copied(connection, query, [("row_id_bytes", ">i4"), ("row_id", ">i8")])
    return np.sort(rows["row_id"].astype(np.int64))


def read_vectors(
    connection: psycopg.Connection, space_id: str, row_ids: npt.NDArray[np.int64], dimensions: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The vectors of those rows that still exist, in no particular order; all of them in memory at once.

    Returns:
        Row ids, int64, (found,), and vectors, float32, (found, dimensions).
    Raises:
        DimensionMismatch: the table's vectors have another number of dimensions.
    """
    query = sql.SQL("SELECT row_id, embedding::vector FROM {table} WHERE row_id = ANY({row_ids})").format(
        table=chunk_table(space_id), row_ids=sql.Literal(row_ids.tolist())
    )
    layout = [
        ("row_id_bytes", ">i4"),
        ("row_id", ">i8"),
        ("vector_bytes", ">i4"),
        ("dimensions", ">i2"),
        ("unused", ">i2"),
        ("vector", ">f4", (dimensions,)),
    ]
    rows = _copied(connection, query, layout)
    return rows["row_id"].astype(np.int64), rows["vector"].astype(np.float32)


def _copied(
    connection: psycopg.Connection, query: sql.Composed, columns: list[tuple[Any, ...]]
) -> npt.NDArray[np.void]:
    layout = np.dtype([("fields", ">i2"), *columns])
    statement = sql.SQL("COPY ({query}) TO STDOUT (FORMAT BINARY)").format(query=query)
    raw = bytearray()
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for data in copy:
            raw += data
    count, rest = divmod(len(raw) - _HEADER_BYTES - _TRAILER_BYTES, layout.itemsize)
    rows = np.frombuffer(raw, layout, count=count, offset=_HEADER_BYTES)
    if rest or (
        count and "dimensions" in (layout.names or ()) and (rows["dimensions"] != _width(layout)).any()
    ):
        raise DimensionMismatch(
            f"a chunk table's vectors are not of {_width(layout)} dimensions: it belongs to another space"
        )
    return rows


def _width(layout: np.dtype[np.void]) -> int:
    return int(layout["vector"].shape[0])

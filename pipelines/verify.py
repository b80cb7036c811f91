"""Is the index true? Postgres compared with itself and with the FAISS index."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import psycopg
from psycopg import sql

from pipelines.search import find_scope
from schemas.config import Config
from schemas.errors import SetupError
from transforms.postgres import open_store
from transforms.sinks.faiss_files import current_build, damaged_file, index_folder
from transforms.sinks.faiss_index import live_row_ids, open_index
from transforms.sinks.vector_rows import read_row_ids
from transforms.spaces import chunk_table

NORM_TOLERANCE = 0.01
"""How far the length of a normalised vector may be from 1: `halfvec` keeps 11 bits."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was looked at, then problems, each a count of rows; `ok` when there is none.

    Args:
        chunks: of the client in Postgres.
        documents: of the client that are indexed.
        faiss_vectors: live in the FAISS index.
        faiss_fault: why the FAISS index cannot be used, file damage included; empty if it can.
        missing_in_faiss: chunks in Postgres that FAISS does not have.
        orphans_in_faiss: vectors in FAISS whose chunk is gone from Postgres.
        chunks_of_deleted: chunks whose document is deleted, unknown, or another client's.
        wrong_chunk_count: indexed documents with another number of chunks than was recorded.
        not_indexed: live documents that the space knows nothing of, and that no open dead letter explains.
        bad_vectors: not of length 1 in a normalised space, or of no length at all (Postgres holds no NaN).
    """

    chunks: int
    documents: int
    faiss_vectors: int
    faiss_fault: str
    missing_in_faiss: int
    orphans_in_faiss: int
    chunks_of_deleted: int
    wrong_chunk_count: int
    not_indexed: int
    bad_vectors: int

    @property
    def ok(self) -> bool:
        looked_at = ("chunks", "documents", "faiss_vectors")
        return not any(
            getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in looked_at
        )


def verify(config: Config, client: str) -> VerifyReport:
    """Compare everything stored for a client; reads all of its row ids and vectors, changes nothing.

    Raises:
        UnknownName: nothing of that client is indexed.
    """
    with open_store(config).connect() as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        scope, space = find_scope(connection, client)
        stored = read_row_ids(connection, space.space_id, client)
        fault = ""
        indexed = np.empty(0, np.int64)
        try:
            opened = open_index(config.data_dir, space, client)
            build = current_build(index_folder(config.data_dir, space.space_id, client))
            damaged = damaged_file(build, rehash=True) if build else None
            fault = f"{damaged} is not the file that was published" if damaged else ""
            indexed = live_row_ids(opened)
        except SetupError as error:
            fault = str(error)
        return VerifyReport(
            chunks=len(stored),
            documents=_count(
                connection,
                "SELECT count(*) FROM indexed_documents JOIN documents USING (document_id)"
                " WHERE space_id = %(space)s AND client = %(client)s",
                scope.space_id,
                client,
            ),
            faiss_vectors=len(indexed),
            faiss_fault=fault,
            missing_in_faiss=len(np.setdiff1d(stored, indexed)),
            orphans_in_faiss=len(np.setdiff1d(indexed, stored)),
            chunks_of_deleted=_count(connection, _CHUNKS_OF_DELETED, scope.space_id, client),
            wrong_chunk_count=_count(connection, _WRONG_CHUNK_COUNT, scope.space_id, client),
            not_indexed=_count(connection, _NOT_INDEXED, scope.space_id, client),
            bad_vectors=_count(
                connection, _NOT_NORMALISED if space.normalize else _WITHOUT_LENGTH, scope.space_id, client
            ),
        )


_CHUNKS_OF_DELETED = """
    SELECT count(*) FROM {table} AS c LEFT JOIN documents AS d USING (document_id)
    WHERE c.client = %(client)s AND (d.client IS DISTINCT FROM c.client OR d.deleted_at IS NOT NULL)
"""
_WRONG_CHUNK_COUNT = """
    SELECT count(*) FROM documents AS d
    LEFT JOIN indexed_documents AS i ON i.document_id = d.document_id AND i.space_id = %(space)s
    LEFT JOIN (SELECT document_id, count(*) AS chunks FROM {table}
               WHERE client = %(client)s GROUP BY document_id) AS c
        ON c.document_id = d.document_id
    WHERE d.client = %(client)s AND coalesce(i.chunks, 0) <> coalesce(c.chunks, 0)
"""
_NOT_INDEXED = """
    SELECT count(*) FROM documents AS d
    WHERE d.client = %(client)s AND d.deleted_at IS NULL
    AND NOT EXISTS (SELECT FROM indexed_documents AS i
                    WHERE i.document_id = d.document_id AND i.space_id = %(space)s)
    AND NOT EXISTS (SELECT FROM dead_letters AS l WHERE l.document_id = d.document_id AND l.resolved_at IS NULL)
"""
_NOT_NORMALISED = """
    SELECT count(*) FROM {table} WHERE client = %(client)s AND abs(vector_norm(embedding::vector) - 1) > %(tolerance)s
"""
_WITHOUT_LENGTH = (
    "SELECT count(*) FROM {table} WHERE client = %(client)s AND vector_norm(embedding::vector) = 0"
)


def _count(connection: psycopg.Connection, query: str, space_id: str, client: str) -> int:
    statement = sql.SQL(query).format(table=chunk_table(space_id))
    parameters = {"client": client, "space": space_id, "tolerance": NORM_TOLERANCE}
    row = connection.execute(statement, parameters).fetchone()
    return int(row[0]) if row else 0

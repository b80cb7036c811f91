"""Embedding spaces in Postgres: the registry, a chunk table for each, and its vector index."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Callable, Mapping
from typing import Literal

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from schemas.errors import DimensionMismatch, UnknownName
from schemas.spaces import EmbeddingSpace
from transforms.row_security import SETUP_LOCK, protect_chunks, words_view

VectorType = Literal["vector", "halfvec"]
VALUE_BYTES = {"vector": 4, "halfvec": 2}

DEFAULT_ALIAS = "default"
HNSW_LINKS = 16
HNSW_CANDIDATES = 64
MAX_BUILD_MEMORY_MIB = 2048
"""Beyond it pgvector goes on building on disk, slower."""
MAX_INLINE_BYTES = 7168
"""A row's vector up to here stays in its page, with room for what else cannot be moved out of an 8 KiB page."""
POLL_S = 0.5

_SPACE_ID = re.compile(r"[0-9a-f]{16}")


def chunk_table(space_id: str) -> sql.Identifier:
    """The table of a space's chunks.

    Raises:
        UnknownName: `space_id` is not 16 hex digits.
    """
    return sql.Identifier(_chunk_table_name(space_id))


def _chunk_table_name(space_id: str) -> str:
    if not _SPACE_ID.fullmatch(space_id):
        raise UnknownName(f"embedding space {space_id!r}: expected 16 hex digits, as `headrace status` shows")
    return f"chunks_{space_id}"


def chunks_by_words(space_id: str, client: str) -> sql.Identifier:
    """The view by which readers of a client look up words in a space: see `row_security.words_view`.

    Raises:
        UnknownName: `space_id` is not 16 hex digits.
    """
    return sql.Identifier(words_view(_chunk_table_name(space_id), client))


def register_space(
    connection: psycopg.Connection, space: EmbeddingSpace, vector_type: VectorType, client: str
) -> None:
    """Make the space known, with its chunk table; a client without a default index gets this one.

    Raises:
        DimensionMismatch: the table is there and holds other vectors.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [SETUP_LOCK])
        _check_column(connection, space, vector_type)
        connection.execute(
            "INSERT INTO embedding_spaces (space_id, definition, dimensions, vector_type, status)"
            " VALUES (%s, %s, %s, %s, 'active') ON CONFLICT (space_id) DO NOTHING",
            [space.space_id, Jsonb(dataclasses.asdict(space)), space.dimensions, vector_type],
        )
        _create_chunk_table(connection, space, vector_type)
        connection.execute("INSERT INTO clients (client) VALUES (%s) ON CONFLICT DO NOTHING", [client])
        connection.execute(
            "INSERT INTO index_aliases (client, alias, space_id) VALUES (%s, %s, %s)"
            " ON CONFLICT (client, alias) DO NOTHING",
            [client, DEFAULT_ALIAS, space.space_id],
        )


def space_of_client(connection: psycopg.Connection, client: str) -> EmbeddingSpace:
    """The space that the client's searches follow.

    Raises:
        UnknownName: nothing was ever ingested for this client.
    """
    row = connection.execute(
        "SELECT definition FROM index_aliases JOIN embedding_spaces USING (space_id)"
        " WHERE client = %s AND alias = %s",
        [client, DEFAULT_ALIAS],
    ).fetchone()
    if row is None:
        raise UnknownName(f"client {client!r} has no index: run `headrace run` for it first")
    return EmbeddingSpace(**row[0])


def vector_type_of(connection: psycopg.Connection, space_id: str) -> VectorType:
    """Type of the space's vector column.

    Raises:
        UnknownName: no such space.
    """
    row = connection.execute(
        "SELECT vector_type FROM embedding_spaces WHERE space_id = %s", [space_id]
    ).fetchone()
    if row is None:
        raise UnknownName(f"embedding space {space_id!r} is not in this database: run `headrace run` first")
    return "halfvec" if row[0] == "halfvec" else "vector"


def _check_column(connection: psycopg.Connection, space: EmbeddingSpace, vector_type: VectorType) -> None:
    wanted = f"{vector_type}({space.dimensions})"
    name = _chunk_table_name(space.space_id)
    row = connection.execute(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = to_regclass(%s) AND attname = 'embedding' AND NOT attisdropped",
        [name],
    ).fetchone()
    if row is not None and row[0].rpartition(".")[2] != wanted:
        raise DimensionMismatch(
            f"model {space.model} with postgres.vector_type {vector_type!r} gives {wanted}, but table {name}"
            f" has {row[0]}: set model and postgres.vector_type to what the table has, or drop the table"
        )


def _create_chunk_table(
    connection: psycopg.Connection, space: EmbeddingSpace, vector_type: VectorType
) -> None:
    table = _chunk_table_name(space.space_id)
    names = {
        "table": sql.Identifier(table),
        "by_text": sql.Identifier(f"{table}_search"),
        "by_client": sql.Identifier(f"{table}_client"),
        "type": sql.SQL(vector_type),
        "dimensions": sql.Literal(space.dimensions),
    }
    if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() != (None,):
        return
    connection.execute(
        sql.SQL(
            """
            CREATE TABLE {table} (
                document_id  uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
                ordinal      integer NOT NULL,
                row_id       bigint NOT NULL DEFAULT nextval('chunk_row_ids') UNIQUE,
                client       text NOT NULL,
                text         text NOT NULL,
                text_hash    bytea NOT NULL,
                start_char   integer NOT NULL,
                end_char     integer NOT NULL,
                tokens       integer NOT NULL,
                search       tsvector GENERATED ALWAYS AS (to_tsvector('english', text)) STORED,
                embedding    {type}({dimensions}) NOT NULL,
                PRIMARY KEY (document_id, ordinal)
            )
            """
        ).format(**names)
    )
    if space.dimensions * VALUE_BYTES[vector_type] <= MAX_INLINE_BYTES:
        # Else most vectors land in the TOAST table; an exact search, which reads them all, takes five times as long.
        connection.execute(
            sql.SQL("ALTER TABLE {table} ALTER COLUMN embedding SET STORAGE PLAIN").format(**names)
        )
    connection.execute(sql.SQL("CREATE INDEX {by_text} ON {table} USING gin (search)").format(**names))
    connection.execute(sql.SQL("CREATE INDEX {by_client} ON {table} (client)").format(**names))
    protect_chunks(connection, table)


@dataclasses.dataclass(frozen=True, slots=True)
class StoredChunks:
    """What a space's table holds.

    Args:
        by_client: client -> chunks.
        row_bytes: of a chunk with its rows in all indexes but that of vectors; None where there are too few to say.
        has_vector_index: it is built; rows are added to it as they come.
    """

    by_client: Mapping[str, int]
    row_bytes: float | None
    has_vector_index: bool


ENOUGH_ROWS = 1000


def stored_chunks(connection: psycopg.Connection, space_id: str) -> StoredChunks:
    """What is stored of a space; nothing where it was never registered."""
    name = _chunk_table_name(space_id)
    if connection.execute("SELECT to_regclass(%s)", [name]).fetchone() == (None,):
        return StoredChunks({}, None, False)
    found = connection.execute(
        sql.SQL("SELECT client, count(*) FROM {} GROUP BY client ORDER BY client").format(
            sql.Identifier(name)
        )
    ).fetchall()
    rows = sum(count for _, count in found)
    sizes = connection.execute(
        "SELECT pg_total_relation_size(%s::regclass), coalesce(pg_relation_size(to_regclass(%s)), 0)",
        [name, f"{name}_hnsw"],
    ).fetchone() or (0, 0)
    row_bytes = (sizes[0] - sizes[1]) / rows if rows >= ENOUGH_ROWS else None
    return StoredChunks(dict(found), row_bytes, _index_is_valid(connection, f"{name}_hnsw"))


def build_vector_index(
    connection: psycopg.Connection,
    space_id: str,
    progress: Callable[[float], None] = lambda share: None,
    memory_mib: int | None = None,
    workers: int | None = None,
) -> bool:
    """Build the HNSW index of a space, once; later rows are added to it as they come.

    Built after the first load, it takes a fraction of what row by row would.

    Args:
        progress: called now and then with the share done, 0 to 1.
        memory_mib: that the graph may take; None takes twice what it needs, 2048 at the most.
        workers: processes beside the server's own that build it; None leaves that to the server.
    Returns:
        Whether an index was built now.
    Raises:
        UnknownName: no such space.
    """
    table = _chunk_table_name(space_id)
    vector_type = vector_type_of(connection, space_id)
    index = f"{table}_hnsw"
    if _index_is_valid(connection, index):
        return False
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [SETUP_LOCK])
        if _index_is_valid(connection, index):
            return False
        if memory_mib is None:
            memory_mib = _build_memory_mib(connection, space_id, vector_type)
        connection.execute("SELECT set_config('maintenance_work_mem', %s, true)", [f"{memory_mib}MB"])
        if workers is not None:
            connection.execute(
                "SELECT set_config('max_parallel_maintenance_workers', %s, true)", [str(workers)]
            )
        statement = sql.SQL(
            "CREATE INDEX {index} ON {table} USING hnsw (embedding {operators})"
            " WITH (m = {links}, ef_construction = {candidates})"
        ).format(
            index=sql.Identifier(index),
            table=sql.Identifier(table),
            operators=sql.SQL(f"{vector_type}_cosine_ops"),
            links=sql.Literal(HNSW_LINKS),
            candidates=sql.Literal(HNSW_CANDIDATES),
        )
        with _Watch(connection, progress):
            try:
                with connection.transaction():
                    connection.execute(statement)
            except psycopg.errors.DiskFull:
                # Parallel workers build in shared memory, of which a container may have little.
                connection.execute("SET LOCAL max_parallel_maintenance_workers = 0")
                connection.execute(statement)
    return True


def analyze(connection: psycopg.Connection, space_id: str) -> None:
    """Bring the planner's statistics up to date after a load; without them a first search scans."""
    for table in (sql.Identifier("documents"), sql.Identifier("indexed_documents"), chunk_table(space_id)):
        connection.execute(sql.SQL("ANALYZE {}").format(table))


def _index_is_valid(connection: psycopg.Connection, index: str) -> bool:
    row = connection.execute(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [index]
    ).fetchone()
    return row is not None and bool(row[0])


def _build_memory_mib(connection: psycopg.Connection, space_id: str, vector_type: VectorType) -> int:
    """Room for the whole graph: vectors and links with their overhead, doubled, between 64 MiB and the limit."""
    statement = sql.SQL(
        "SELECT (SELECT count(*) FROM {table}), dimensions FROM embedding_spaces WHERE space_id = %s"
    ).format(table=chunk_table(space_id))
    rows, dimensions = connection.execute(statement, [space_id]).fetchone() or (0, 0)
    element_bytes = int(dimensions) * VALUE_BYTES[vector_type] + HNSW_LINKS * 2 * 16 + 256
    return min(MAX_BUILD_MEMORY_MIB, max(64, 2 * int(rows) * element_bytes // 2**20))


class _Watch:
    """Reports the progress of `connection`'s index build from a second connection, until left."""

    def __init__(self, connection: psycopg.Connection, progress: Callable[[float], None]) -> None:
        self._pid = connection.info.backend_pid
        self._dsn = connection.info.dsn
        self._password = connection.info.password
        self._progress = progress
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="index-progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        if self._done.wait(POLL_S):  # short builds need no second connection
            return
        try:
            with psycopg.connect(self._dsn, password=self._password, autocommit=True) as connection:
                while not self._done.wait(POLL_S):
                    row = connection.execute(
                        # pgvector says of HNSW how many tuples are done, but not of how many.
                        "SELECT blocks_done::float8 / nullif(blocks_total, 0) FROM pg_stat_progress_create_index"
                        " WHERE pid = %s",
                        [self._pid],
                    ).fetchone()
                    if row is not None and row[0] is not None:
                        self._progress(min(1.0, row[0]))
        except psycopg.Error:
            return  # the display alone depends on it

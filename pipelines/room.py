"""Whether there is room for the indexes: asked before a load, since a refusal after it comes too late."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from pipelines.volume import SourceVolume
from schemas.config import Config
from schemas.errors import NoRoom, NotEnoughMemory
from schemas.spaces import EmbeddingSpace
from transforms.embedders.cores import available_cores
from transforms.embedders.models import space_of
from transforms.index_room import (
    ServerRoom,
    available_memory,
    hnsw_build_bytes,
    hnsw_disk_bytes,
    server_room,
)
from transforms.sinks.faiss_files import Shape
from transforms.sinks.faiss_index import choose_shape, disk_bytes, memory_bytes
from transforms.spaces import VALUE_BYTES, VectorType, build_vector_index, stored_chunks

MIB = 2**20
MEMORY_SHARE = 0.8
"""Of what is free on this machine; the rest is for what else runs, the engine among it."""
REMOTE_BUILD_MIB = 2048
"""Where the server's memory cannot be looked at."""
LEAST_BUILD_MIB = 64
SPARE = 1.05
"""Over what a graph was reckoned to take."""
CHARS_PER_TOKEN = 4
"""Of English text and code in word pieces."""
TEXT_BYTES_PER_CHAR = 2.2
"""Of a chunk's text with its words, their full text index among it."""
ROW_BYTES = 240
"""Of a chunk's row beside text and vector, its keys' indexes among it."""


@dataclass(frozen=True, slots=True)
class FaissNeeds:
    """A client's FAISS index once all is loaded."""

    client: str
    vectors: int
    kind: Shape
    memory_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class IndexNeeds:
    """What the indexes will take; counts are those of the upper ends of the estimates.

    Args:
        stored: chunks in the space now, of all clients.
        rows: chunks once all is loaded.
        hnsw_is_built: the index is there already, and grows row by row.
        hnsw_build_bytes: memory of the server while it builds the graph; 0 where it is there.
        hnsw_workers: processes that build it beside the server's own; None leaves that to a server elsewhere.
        memory_limit_bytes: that building in Postgres may take: as configured, or of what is free here.
        memory_free_bytes: on this machine.
        rows_disk_bytes: of the new rows, with all indexes but that of vectors.
        disk_free_bytes: in the data folder; None where Postgres runs elsewhere.
    """

    stored: int
    rows: int
    dimensions: int
    vector_type: VectorType
    hnsw_is_built: bool
    hnsw_build_bytes: int
    hnsw_disk_bytes: int
    hnsw_workers: int | None
    faiss: tuple[FaissNeeds, ...]
    memory_limit_bytes: int
    memory_free_bytes: int
    rows_disk_bytes: int
    disk_free_bytes: int | None

    @property
    def disk_bytes(self) -> int:
        """All that will be written here; FAISS writes a build beside the one before, from shards beside it."""
        in_postgres = self.rows_disk_bytes + self.hnsw_disk_bytes
        return in_postgres + 2 * sum(one.disk_bytes for one in self.faiss)


def index_needs(
    connection: psycopg.Connection, config: Config, space: EmbeddingSpace, sources: Sequence[SourceVolume]
) -> IndexNeeds:
    """What the indexes will take once these sources are loaded."""
    stored = stored_chunks(connection, space.space_id)
    new: Counter[str] = Counter()
    for one in sources:
        new[one.client] += one.chunks.high + one.reused.high
    after = Counter(stored.by_client) + new
    rows, dimensions, vector_type = after.total(), space.dimensions, config.postgres.vector_type
    to_build = 0 if stored.has_vector_index else hnsw_build_bytes(rows, dimensions, vector_type)
    added = new.total() if stored.has_vector_index else rows
    server = server_room(connection)
    tokens = sum(one.tokens.high for one in sources)
    row_bytes = stored.row_bytes or ROW_BYTES + 8 + dimensions * VALUE_BYTES[vector_type]
    text_bytes = 0 if stored.row_bytes else tokens * CHARS_PER_TOKEN * TEXT_BYTES_PER_CHAR
    free = available_memory()
    return IndexNeeds(
        stored=sum(stored.by_client.values()),
        rows=rows,
        dimensions=dimensions,
        vector_type=vector_type,
        hnsw_is_built=stored.has_vector_index,
        hnsw_build_bytes=to_build,
        hnsw_disk_bytes=hnsw_disk_bytes(added, dimensions, vector_type),
        hnsw_workers=build_workers(server, to_build),
        faiss=tuple(_faiss_needs(config, client, after[client], dimensions) for client in sorted(new)),
        memory_limit_bytes=memory_limit(config, server, free),
        memory_free_bytes=free,
        rows_disk_bytes=round(new.total() * row_bytes + text_bytes),
        disk_free_bytes=_disk_free(config) if server.is_here else None,
    )


def build_workers(server: ServerRoom, graph_bytes: int) -> int | None:
    """Processes beside the server's own; they share the graph in memory that a container may have little of."""
    if not server.is_here:
        return None
    if server.shared_bytes is not None and server.shared_bytes < graph_bytes * SPARE + 16 * MIB:
        return 0
    return available_cores() - 1


def memory_limit(config: Config, server: ServerRoom, free_bytes: int) -> int:
    """Bytes that an index build in Postgres may take."""
    if config.backfill.max_index_memory_mib is not None:
        return config.backfill.max_index_memory_mib * MIB
    return round(free_bytes * MEMORY_SHARE) if server.is_here else REMOTE_BUILD_MIB * MIB


def refuse_what_does_not_fit(needs: IndexNeeds) -> None:
    """Said before a load.

    Raises:
        NotEnoughMemory: an index could not be built in the memory there is.
        NoRoom: the disk would fill up.
    """
    size = f"{needs.rows:,} vectors of {needs.dimensions} dimensions"
    wanted, limit = math.ceil(needs.hnsw_build_bytes * SPARE), needs.memory_limit_bytes
    if wanted > limit:
        halve = ', set postgres.vector_type = "halfvec"' if needs.vector_type == "vector" else ""
        raise NotEnoughMemory(
            f"the index of {size} takes {_mib(wanted)} in Postgres while it is built, and may take {_mib(limit)}:"
            f" run on a machine with more memory{halve}, take a model of fewer dimensions, raise"
            " backfill.max_index_memory_mib if the server has more than this machine can see, or let `headrace run`"
            " build it on disk, many times slower"
        )
    for one in needs.faiss:
        if one.memory_bytes > needs.memory_free_bytes * MEMORY_SHARE:
            lower = f", or set faiss.hnsw_below under {one.vectors}" if one.kind == "hnsw" else ""
            raise NotEnoughMemory(
                f"the FAISS index of {one.client}, {one.vectors:,} vectors ({one.kind}), takes"
                f" {_mib(one.memory_bytes)} while it is built; {_mib(needs.memory_free_bytes)} are free: run on a"
                f" machine with more memory{lower}: inverted lists are built in shards"
            )
    if needs.disk_free_bytes is not None and needs.disk_bytes > needs.disk_free_bytes:
        raise NoRoom(
            f"rows and indexes of {size} take about {_mib(needs.disk_bytes)} of disk; data_dir has"
            f" {_mib(needs.disk_free_bytes)} free: make room, or set another data_dir or postgres.dsn"
        )


def build_index(
    connection: psycopg.Connection, space_id: str, progress: Callable[[float], None], config: Config
) -> bool:
    """Build Postgres's vector index over what was loaded, in parallel where that can be; whether it was."""
    rows = sum(stored_chunks(connection, space_id).by_client.values())
    server = server_room(connection)
    graph = hnsw_build_bytes(rows, space_of(config.model).dimensions, config.postgres.vector_type)
    limit = memory_limit(config, server, available_memory())
    memory_mib = max(LEAST_BUILD_MIB, math.ceil(min(graph * SPARE, limit) / MIB))
    return build_vector_index(connection, space_id, progress, memory_mib, build_workers(server, graph))


def _faiss_needs(config: Config, client: str, vectors: int, dimensions: int) -> FaissNeeds:
    kind = choose_shape(vectors, config.faiss, None)
    return FaissNeeds(
        client,
        vectors,
        kind,
        memory_bytes(kind, vectors, dimensions),
        disk_bytes(kind, vectors, dimensions),
    )


def _disk_free(config: Config) -> int:
    folder = config.data_dir
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _mib(size: int) -> str:
    return f"{math.ceil(size / MIB):,} MiB"

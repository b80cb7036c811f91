"""Inverted lists for more vectors than fit into memory: trained once, filled in shards side by side, merged on disk.

Memory holds a shard for each thread, and while training the sample. The merged file is written list by list in
FAISS's own format, by us: FAISS writes only lists that are in memory (`write_InvertedLists`); its lists on disk lost
entries when they were read again and added to, and print on standard output when they grow.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import psycopg

from schemas.errors import BadVector, PipelineError
from schemas.spaces import EmbeddingSpace
from transforms.embedders.cores import worker_threads
from transforms.sinks.vector_rows import read_vectors

RowIds = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Called with vectors added so far and vectors to add in all."""

BLOCK = 8192
"""Vectors read at a time."""
SHARD_BYTES = 128 * 2**20
MAX_LISTS = 4096
TRAINING_VECTORS_PER_LIST = 64


def unit(vectors: Vectors) -> Vectors:
    """The vectors at length 1.

    Raises:
        BadVector: one is not finite or has no length.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise BadVector(
            "a vector that is not finite or has no length was to be put into, or searched in, FAISS"
        )
    return np.ascontiguousarray(vectors / norms, dtype=np.float32)


def list_count(vectors: int) -> int:
    """Inverted lists for so many vectors."""
    return max(1, min(MAX_LISTS, round(4 * math.sqrt(vectors)), vectors // TRAINING_VECTORS_PER_LIST))


def build_bytes(vectors: int, dimensions: int) -> int:
    """Memory that a build takes at the most: the sample, or a shard for each thread in lists that double to grow."""
    vector_bytes = 4 * dimensions + 8
    sample = 2 * min(vectors, list_count(vectors) * TRAINING_VECTORS_PER_LIST) * vector_bytes
    shards = 2 * worker_threads() * min(SHARD_BYTES, vectors * vector_bytes)
    return max(sample, shards) + 8 * vectors


def write_lists(
    connection: psycopg.Connection,
    space: EmbeddingSpace,
    row_ids: RowIds,
    path: Path,
    progress: Progress,
    present: Any = None,
) -> RowIds:
    """Write an index of those rows that still exist.

    Args:
        connection: others to the same database are opened beside it, one for each thread.
        path: of the file; shards lie beside it meanwhile.
        present: an `IndexIDMap` over inverted lists whose entries come first; None trains anew.
    Returns:
        The id of each entry's row, by its place.
    Raises:
        BadVector: the table holds a vector that is not finite or has no length.
    """
    lists = faiss.downcast_index(present.index) if present is not None else None
    trained = _empty_like(lists) if lists is not None else _trained(connection, space, row_ids)
    rows = max(BLOCK, SHARD_BYTES // (4 * space.dimensions + 8))
    parts = [row_ids[start : start + rows] for start in range(0, len(row_ids), rows)]
    paths = [path.with_name(f"shard-{number:05d}") for number in range(len(parts))]
    found: dict[int, RowIds] = {}
    with ThreadPoolExecutor(worker_threads(), "faiss-shard") as threads:
        shards = {
            threads.submit(_fill_shard, connection, space, trained, part, shard): number
            for number, (part, shard) in enumerate(zip(parts, paths, strict=True))
        }
        try:
            for done in as_completed(shards):
                found[shards[done]] = done.result()
                progress(sum(map(len, found.values())), len(row_ids))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    sources = [faiss.read_index(str(shard), faiss.IO_FLAG_MMAP_IFC) for shard in paths]
    ids = [found[number] for number in range(len(parts))]
    if present is not None:
        sources.insert(0, lists)
        ids.insert(0, faiss.vector_to_array(present.id_map))
    row_ids = np.concatenate(ids)
    _write_merged(trained, sources, row_ids, path)
    del sources  # maps the shards
    for shard in paths:
        shard.unlink()
    return row_ids


def _write_merged(trained: Any, sources: Sequence[Any], row_ids: RowIds, path: Path) -> None:
    """Write the lists of all sources, one after the other, as `faiss.write_index` would of an index that had them.

    An `IndexIDMap` ends with its ids, and an `IndexIVFFlat` before it with its lists: their number, the bytes of an
    entry, the size of each, then of each its vectors and the places they have in the index (`index_write.cpp`).

    Raises:
        PipelineError: this release of FAISS writes another format.
    """
    labelled = faiss.IndexIDMap(trained)
    labelled.ntotal = trained.ntotal = len(row_ids)
    head = faiss.serialize_index(labelled).tobytes()
    trained.ntotal = 0
    shape = struct.pack("<4sQQ", b"ilar", trained.nlist, trained.code_size)
    empty = shape + struct.pack("<4sQQ", b"sprs", 0, 0)
    if not head.endswith(empty):
        raise PipelineError(
            f"FAISS {faiss.__version__} writes inverted lists in another way: use 1.13 to 1.14"
        )
    lists = [source.invlists for source in sources]
    places = np.cumsum([0, *(source.ntotal for source in sources)])
    with path.open("wb") as file:
        file.write(head.removesuffix(empty) + shape + struct.pack("<4sQ", b"full", trained.nlist))
        sizes = [sum(one.list_size(number) for one in lists) for number in range(trained.nlist)]
        file.write(np.array(sizes, "<u8").tobytes())
        for number in range(trained.nlist):
            filled = [
                (one, place) for one, place in zip(lists, places, strict=False) if one.list_size(number)
            ]
            for one, _ in filled:
                size = one.list_size(number) * trained.code_size
                file.write(faiss.rev_swig_ptr(one.get_codes(number), size).data)
            for one, place in filled:
                ids = faiss.rev_swig_ptr(one.get_ids(number), one.list_size(number))
                file.write((ids + place).data)
        file.write(struct.pack("<Q", len(row_ids)) + row_ids.astype("<i8").tobytes())


def _empty_like(lists: Any) -> Any:
    """Lists of the same training, without entries."""
    quantizer = faiss.clone_index(lists.quantizer)
    empty = faiss.IndexIVFFlat(quantizer, lists.d, lists.nlist, lists.metric_type)
    empty.is_trained = True
    return empty


def _trained(connection: psycopg.Connection, space: EmbeddingSpace, row_ids: RowIds) -> Any:
    lists = list_count(len(row_ids))
    wanted = min(len(row_ids), lists * TRAINING_VECTORS_PER_LIST)
    chosen = np.sort(np.random.default_rng(0).choice(row_ids, wanted, replace=False))
    sample = np.empty((wanted, space.dimensions), np.float32)
    filled = 0
    for start in range(0, wanted, BLOCK):
        _, vectors = read_vectors(connection, space.space_id, chosen[start : start + BLOCK], space.dimensions)
        sample[filled : filled + len(vectors)] = unit(vectors)
        filled += len(vectors)
    inner = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(space.dimensions), space.dimensions, lists, faiss.METRIC_INNER_PRODUCT
    )
    inner.cp.spherical = True
    inner.train(sample[:filled])
    return inner


def _fill_shard(
    connection: psycopg.Connection, space: EmbeddingSpace, trained: Any, row_ids: RowIds, path: Path
) -> RowIds:
    """Write a shard with the vectors of those rows that still exist; gives their ids in its order."""
    faiss.omp_set_num_threads(1)  # of this thread: its siblings use the other cores
    shard = faiss.clone_index(trained)
    found = []
    with closing(_beside(connection)) as mine:
        for start in range(0, len(row_ids), BLOCK):
            block, vectors = read_vectors(
                mine, space.space_id, row_ids[start : start + BLOCK], space.dimensions
            )
            shard.add(unit(vectors))
            found.append(block)
    faiss.write_index(shard, str(path))
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _beside(connection: psycopg.Connection) -> psycopg.Connection:
    """Another connection to the same database."""
    return psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=True)

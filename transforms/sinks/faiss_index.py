"""A client's vectors of one space as a FAISS index: built from the chunk table, searched without it.

Postgres is the truth. A changed vector always gets a new row id, so comparing the two sets of row ids is all that
an update needs: it heals whatever was missed, repeated or interrupted, and no log of changes has to be kept.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import psycopg

from schemas.config import Faiss
from schemas.errors import DigestMismatch, DimensionMismatch, SpaceMismatch, UnknownName
from schemas.spaces import EmbeddingSpace
from transforms.embedders.cores import worker_threads
from transforms.sinks import faiss_files as files
from transforms.sinks.faiss_files import Shape
from transforms.sinks.faiss_shards import BLOCK, Progress, build_bytes, unit, write_lists
from transforms.sinks.vector_rows import read_row_ids, read_vectors

RowIds = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
HNSW_LINKS = 32
HNSW_CONSTRUCTION = 100
MIN_SEARCH_BREADTH = 128
"""Candidates that an HNSW search keeps, at least."""
PROBED_SHARE = 1 / 8
MIN_PROBED = 16
SHRINK = 0.8
"""A smaller shape is taken only below this share of its limit, so that a count swinging about the limit does not
rebuild a graph each time."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What an update did.

    Args:
        build: name of the current build's folder.
        count: live vectors in it.
        tombstones: dead entries still in the file.
        added: vectors read from Postgres.
        removed: vectors that were live before and are gone now.
        rebuilt: why it was built anew; None when it was brought up to date in place or already was.
    """

    build: str
    kind: Shape
    count: int
    tombstones: int
    added: int
    removed: int
    rebuilt: str | None
    duration_s: float

    @property
    def action(self) -> str:
        """In a few words."""
        if self.rebuilt is not None:
            return f"built: {self.rebuilt}"
        return f"{self.added} added, {self.removed} removed" if self.added or self.removed else "unchanged"


@dataclass(frozen=True, slots=True)
class OpenIndex:
    """An index ready to search.

    Args:
        row_ids: by position in the index, dead entries included.
        live: by position; None when every entry is.
    """

    manifest: files.Manifest
    index: Any
    row_ids: RowIds
    live: npt.NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How to bring an index up to date.

    Args:
        add: row ids to read from Postgres.
        dead: row ids the index file has and Postgres no longer.
        rebuild: why to begin with an empty index; None to go on with the present one.
    """

    kind: Shape
    add: RowIds
    dead: RowIds
    rebuild: str | None


def choose_shape(count: int, settings: Faiss, present: Shape | None) -> Shape:
    """The shape for `count` vectors: exhaustive while that is quick, then a graph, then inverted lists."""
    flat_below = settings.flat_below * (SHRINK if present not in (None, "flat") else 1)
    hnsw_below = settings.hnsw_below * (SHRINK if present == "ivf" else 1)
    if count <= flat_below:
        return "flat"
    return "hnsw" if count <= hnsw_below else "ivf"


def disk_bytes(kind: Shape, vectors: int, dimensions: int) -> int:
    """Size of an index file: vectors, ids, and what finds them."""
    links = 4 * (2 * HNSW_LINKS + 2) + 16 if kind == "hnsw" else 0
    places = 8 if kind == "ivf" else 0
    return vectors * (4 * dimensions + 8 + links + places)


def memory_bytes(kind: Shape, vectors: int, dimensions: int) -> int:
    """Memory that building takes at the most: flat indexes and graphs as a whole, in arrays that double to grow."""
    return build_bytes(vectors, dimensions) if kind == "ivf" else 2 * disk_bytes(kind, vectors, dimensions)


def plan_update(wanted: RowIds, entries: RowIds | None, present: Shape | None, settings: Faiss) -> Plan:
    """Compare the row ids of the table with those of the index file.

    Args:
        wanted: in the table.
        entries: in the index file, dead ones included; None without a usable file.
        present: shape of that file.
    """
    kind = choose_shape(len(wanted), settings, present)
    nothing = np.empty(0, np.int64)
    if entries is None:
        return Plan(kind, wanted, nothing, "no usable index was there")
    if kind != present:
        return Plan(kind, wanted, nothing, f"{len(wanted)} vectors: {kind} instead of {present}")
    add, dead = _difference(wanted, entries), _difference(entries, wanted)
    share = len(dead) / max(1, len(entries) + len(add))
    if kind != "flat" and share >= settings.rebuild_tombstone_share:
        return Plan(kind, wanted, nothing, f"{share:.0%} of its entries were dead")
    return Plan(kind, add, dead, None)


def update_index(
    connection: psycopg.Connection,
    data_dir: Path,
    space: EmbeddingSpace,
    client: str,
    settings: Faiss,
    progress: Progress = lambda done, total: None,
) -> IndexReport:
    """Bring the client's index up to date with the chunk table; publishes a build only if something changed.

    Rows may come and go meanwhile: the index then holds what was found, and the next update the rest. Flat indexes
    and graphs are held in memory while they are built, inverted lists in shards (`write_lists`).

    Raises:
        BadVector: the table holds a vector that is not finite or has no length.
    """
    started = time.monotonic()
    faiss.omp_set_num_threads(worker_threads())
    folder = files.index_folder(data_dir, space.space_id, client)
    with files.only_writer(folder):
        wanted = read_row_ids(connection, space.space_id, client)
        build = _usable_build(folder, space, client)
        present = _load(build) if build else None
        before = live_row_ids(present) if present else np.empty(0, np.int64)
        plan = plan_update(
            wanted, present.row_ids if present else None, build.manifest.kind if build else None, settings
        )
        added = 0
        if build is None or plan.rebuild is not None or not np.array_equal(np.sort(before), wanted):
            with files.unpublished(folder) as partial:
                row_ids, added = _write_index(connection, space, plan, build, partial, progress)
                build = _publish(partial, space, client, plan, row_ids)
    return IndexReport(
        build=build.folder.name,
        kind=build.manifest.kind,
        count=build.manifest.count,
        tombstones=build.manifest.tombstones,
        added=added,
        removed=len(_difference(before, wanted)),
        rebuilt=plan.rebuild,
        duration_s=time.monotonic() - started,
    )


def open_index(data_dir: Path, space: EmbeddingSpace, client: str) -> OpenIndex:
    """Map the client's current index into memory for searching.

    Raises:
        UnknownName: nothing was built for this client and space.
        SpaceMismatch: the files there are another space's or client's.
        DigestMismatch: a file is damaged.
    """
    folder = files.index_folder(data_dir, space.space_id, client)
    build = files.current_build(folder)
    if build is None:
        raise UnknownName(
            f"no FAISS index of client {client!r} and space {space.space_id} under {data_dir}:"
            " `headrace run` builds it; or search Postgres with --index pgvector"
        )
    manifest = build.manifest
    if (manifest.space_id, manifest.client) != (space.space_id, client):
        raise SpaceMismatch(
            f"{build.folder}: holds space {manifest.space_id} of client {manifest.client!r}, asked for"
            f" {space.space_id} of {client!r}: `headrace run` rebuilds it"
        )
    damaged = files.damaged_file(build)
    if damaged:
        raise DigestMismatch(
            f"{build.folder / damaged}: not the file that was published: `headrace run` rebuilds the index"
        )
    return _load(build)


def search_index(
    opened: OpenIndex, queries: Vectors, k: int, allowed_row_ids: RowIds | None = None
) -> tuple[Vectors, RowIds]:
    """The `k` entries of highest cosine for each query, best first; a dead entry is never among them.

    Args:
        queries: float32, (queries, dimensions), any length but zero.
        allowed_row_ids: only these may be found. Such a search is exhaustive over them, so exact.
    Returns:
        Cosines and row ids, each (queries, k); where there are fewer entries, -inf and -1.
    Raises:
        DimensionMismatch: queries are not as wide as the index.
        BadVector: a query is not finite or has no length.
    """
    if queries.ndim != 2 or queries.shape[1] != opened.manifest.dimensions:
        raise DimensionMismatch(
            f"queries of shape {queries.shape} for an index of {opened.manifest.dimensions} dimensions"
        )
    faiss.omp_set_num_threads(worker_threads())
    units = unit(queries)
    if allowed_row_ids is not None:
        mask = np.isin(opened.row_ids, allowed_row_ids)
        return _exhaustive(opened, units, k, mask if opened.live is None else mask & opened.live)
    if opened.manifest.kind == "flat":
        return _exhaustive(opened, units, k, opened.live)
    scores, row_ids = _approximate(opened, units, k)
    # Dead neighbours can crowd out the living, and lists not probed hide them: those few queries look at all.
    short = (row_ids == -1).sum(axis=1) > max(0, k - opened.manifest.count)
    if short.any():
        scores[short], row_ids[short] = _exhaustive(opened, units[short], k, opened.live)
    return scores, row_ids


def live_row_ids(opened: OpenIndex) -> RowIds:
    """Row ids that a search may return, in no particular order."""
    return opened.row_ids if opened.live is None else opened.row_ids[opened.live]


def _approximate(opened: OpenIndex, units: Vectors, k: int) -> tuple[Vectors, RowIds]:
    inner = faiss.downcast_index(opened.index.index)
    selector = _selector(opened.live)
    parameters = (
        faiss.SearchParametersHNSW(sel=selector, efSearch=max(MIN_SEARCH_BREADTH, 2 * k))
        if opened.manifest.kind == "hnsw"
        else faiss.SearchParametersIVF(
            sel=selector, nprobe=min(inner.nlist, max(MIN_PROBED, round(inner.nlist * PROBED_SHARE)))
        )
    )
    return _labelled(opened, *inner.search(units, k, params=parameters))


def _exhaustive(
    opened: OpenIndex, units: Vectors, k: int, mask: npt.NDArray[np.bool_] | None
) -> tuple[Vectors, RowIds]:
    inner = faiss.downcast_index(opened.index.index)
    selector = _selector(mask)
    if opened.manifest.kind == "ivf":
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=inner.nlist)
        return _labelled(opened, *inner.search(units, k, params=parameters))
    vectors = faiss.downcast_index(inner.storage) if opened.manifest.kind == "hnsw" else inner
    return _labelled(opened, *vectors.search(units, k, params=faiss.SearchParameters(sel=selector)))


def _selector(mask: npt.NDArray[np.bool_] | None) -> Any:
    return None if mask is None else faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def _labelled(opened: OpenIndex, scores: Vectors, positions: RowIds) -> tuple[Vectors, RowIds]:
    found = positions >= 0
    labels = np.full(positions.shape, -1, np.int64)
    labels[found] = opened.row_ids[positions[found]]
    return np.where(found, scores, np.float32(-np.inf)), labels


def _difference(row_ids: RowIds, without: RowIds) -> RowIds:
    return np.setdiff1d(row_ids, without, assume_unique=True)


def _usable_build(folder: Path, space: EmbeddingSpace, client: str) -> files.Build | None:
    """The current build if it can be trusted; otherwise None, and the log says why."""
    build = files.current_build(folder)
    if build is None:
        if (folder / files.CURRENT).exists():
            _log.warning("%s: the current FAISS build is not readable: building anew", folder)
        return None
    found = (build.manifest.space_id, build.manifest.client, build.manifest.dimensions)
    if found != (space.space_id, client, space.dimensions):
        _log.warning("%s: holds another space or client: building anew", build.folder)
        return None
    damaged = files.damaged_file(build)
    if damaged:
        _log.warning("%s: not the file that was published: building anew", build.folder / damaged)
        return None
    return build


def _load(build: files.Build) -> OpenIndex:
    index = faiss.read_index(str(build.folder / files.INDEX), faiss.IO_FLAG_MMAP_IFC)
    row_ids = faiss.vector_to_array(index.id_map)
    dead = np.load(build.folder / files.TOMBSTONES)
    return OpenIndex(build.manifest, index, row_ids, ~np.isin(row_ids, dead) if len(dead) else None)


def _write_index(
    connection: psycopg.Connection,
    space: EmbeddingSpace,
    plan: Plan,
    build: files.Build | None,
    partial: Path,
    progress: Progress,
) -> tuple[RowIds, int]:
    """Write the index file that the plan asks for; row ids of its entries by place, and vectors added."""
    path = partial / files.INDEX
    kept = build if plan.rebuild is None else None
    if plan.kind == "ivf":
        opened = _load(kept) if kept else None
        row_ids = write_lists(connection, space, plan.add, path, progress, opened.index if opened else None)
        return row_ids, len(row_ids) - (len(opened.row_ids) if opened else 0)
    if kept is None:
        index = faiss.IndexIDMap(_empty_index(space, plan))
    else:
        index = faiss.read_index(str(kept.folder / files.INDEX))  # not mapped: it is going to change
        if plan.kind == "flat" and len(plan.dead):
            index.remove_ids(faiss.IDSelectorBatch(plan.dead))
    added = _add(connection, space, index, plan.add, progress)
    faiss.write_index(index, str(path))
    return faiss.vector_to_array(index.id_map), added


def _empty_index(space: EmbeddingSpace, plan: Plan) -> Any:
    if plan.kind == "flat":
        return faiss.IndexFlatIP(space.dimensions)
    graph = faiss.IndexHNSWFlat(space.dimensions, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = HNSW_CONSTRUCTION
    return graph


def _add(
    connection: psycopg.Connection, space: EmbeddingSpace, index: Any, row_ids: RowIds, progress: Progress
) -> int:
    added = 0
    for start in range(0, len(row_ids), BLOCK):
        block = row_ids[start : start + BLOCK]
        found, vectors = read_vectors(connection, space.space_id, block, space.dimensions)
        index.add_with_ids(unit(vectors), found)
        added += len(found)
        progress(start + len(block), len(row_ids))
    return added


def _publish(partial: Path, space: EmbeddingSpace, client: str, plan: Plan, row_ids: RowIds) -> files.Build:
    dead = np.intersect1d(plan.dead, row_ids)
    np.save(partial / files.TOMBSTONES, dead)
    manifest = files.Manifest(
        space_id=space.space_id,
        client=client,
        dimensions=space.dimensions,
        kind=plan.kind,
        count=len(row_ids) - len(dead),
        tombstones=len(dead),
        high_water_row_id=int(row_ids.max(initial=0)),
        built_at=datetime.now(UTC),
        faiss_version=faiss.__version__,
        files=files.stamps(partial),
    )
    return files.publish(partial, manifest)

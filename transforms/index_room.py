"""How much memory and disk the vector indexes need, and how much there is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg

from transforms.cgroups import MEMBERSHIPS, MOUNT, GroupFolder, group_folders
from transforms.spaces import HNSW_LINKS, VALUE_BYTES, VectorType

PAGE_BYTES = 8192
PAGE_OVERHEAD_BYTES = 24 + 8  # page header, and pgvector's own note at a page's end
ITEM_BYTES = 4  # a line pointer

_V1_FILES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2_FILES = ("memory.max", "memory.current", "inactive_file")
_UNLIMITED = 2**60
"""A limit of version 1 cgroups that is none."""


def _aligned(size: int) -> int:
    return -(-size // 8) * 8


def _vector_bytes(dimensions: int, vector_type: VectorType) -> int:
    return 8 + dimensions * VALUE_BYTES[vector_type]


def hnsw_build_bytes(rows: int, dimensions: int, vector_type: VectorType) -> int:
    """Memory that pgvector fills while it builds a graph over `rows` vectors; beyond what it may have it goes on
    row by row on disk, many times slower.

    A vector, the element that points to it, and room for twice `m` candidates of 16 bytes in the bottom layer and
    for `m` in each layer above, which 1 in `m` elements has (pgvector 0.8, `src/hnsw.h`). Within 1 % of where it
    says that a graph no longer fits (384 and 1,024 dimensions, both types).
    """
    bottom = 2 * HNSW_LINKS * 16 + 8
    above = (HNSW_LINKS * 16 + 8) / (HNSW_LINKS - 1)
    element = 172 + _aligned(_vector_bytes(dimensions, vector_type))
    return round(rows * (element + bottom + above))


def hnsw_disk_bytes(rows: int, dimensions: int, vector_type: VectorType) -> int:
    """Size of the finished graph: an element with its vector and a list of neighbours a row, whole in a page."""
    element = _aligned(72 + _vector_bytes(dimensions, vector_type)) + ITEM_BYTES
    neighbours = _aligned(4 + 6 * 2 * HNSW_LINKS) + ITEM_BYTES
    room = PAGE_BYTES - PAGE_OVERHEAD_BYTES
    if element + neighbours <= room:
        return -(-rows // (room // (element + neighbours))) * PAGE_BYTES
    return round(rows * (PAGE_BYTES + neighbours))


@dataclass(frozen=True, slots=True)
class ServerRoom:
    """What is known of the database server's machine.

    Args:
        is_here: it is this machine.
        shared_bytes: free shared memory that parallel workers of an index build can share; None if unknown, or
            if the server needs none of `/dev/shm`.
    """

    is_here: bool
    shared_bytes: int | None


def server_room(connection: psycopg.Connection, shared: Path = Path("/dev/shm")) -> ServerRoom:  # noqa: S108
    """Look at where the server runs, as far as a client can."""
    host = connection.info.host
    is_here = host.startswith("/") or host in ("", "localhost", "127.0.0.1", "::1")
    row = connection.execute("SELECT current_setting('dynamic_shared_memory_type')").fetchone()
    if not is_here or row != ("posix",) or not shared.is_dir():
        return ServerRoom(is_here, None)
    found = os.statvfs(shared)
    return ServerRoom(is_here, found.f_bavail * found.f_frsize)


def available_memory(cgroups: Path = MOUNT, memberships: Path = MEMBERSHIPS) -> int:
    """Bytes that may still be taken on this machine without swapping, by its cgroup (v1 or v2) and by its memory."""
    left = map(_left, group_folders("memory", cgroups, memberships))
    free = int(psutil.virtual_memory().available)
    return max(0, min([free, *(room for room in left if room is not None)]))


def _left(folder: GroupFolder) -> int | None:
    limit_file, used_file, idle_name = _V1_FILES if folder.is_v1 else _V2_FILES
    limit, used = folder.read(limit_file), folder.read(used_file)
    if not limit.isdigit() or not used.isdigit() or int(limit) >= _UNLIMITED:
        return None
    return int(limit) - int(used) + _stat(folder).get(idle_name, 0)


def _stat(folder: GroupFolder) -> Mapping[str, int]:
    """Pages of files that were not used for long count as used, but are given up when memory is wanted."""
    return {name: int(size) for name, size in re.findall(r"^(\w+) (\d+)$", folder.read("memory.stat"), re.M)}

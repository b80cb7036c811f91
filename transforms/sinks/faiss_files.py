"""FAISS builds on disk: a folder a build, published by replacing the file that names the current one."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

Shape = Literal["flat", "hnsw", "ivf"]

INDEX = "index.faiss"
TOMBSTONES = "tombstones.npy"
MANIFEST = "manifest.json"
CURRENT = "current"
_LOCK = ".lock"
_PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file was when it was published; `mtime_ns` and `size` spare hashing a file nobody touched."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a build holds.

    Args:
        count: live vectors.
        tombstones: entries of the index file that search must never return.
        high_water_row_id: largest row id in it, 0 when empty.
        files: name -> stamp, of every other file of the build.
    """

    space_id: str
    client: str
    dimensions: int
    kind: Shape
    count: int
    tombstones: int
    high_water_row_id: int
    built_at: datetime
    faiss_version: str
    files: Mapping[str, Stamp]


@dataclass(frozen=True, slots=True)
class Build:
    """A published build."""

    folder: Path
    manifest: Manifest


_MANIFEST = TypeAdapter(Manifest)


def index_folder(data_dir: Path, space_id: str, client: str) -> Path:
    """Where the builds of a client's index lie. Any client name is one harmless path component."""
    component = quote(client, safe="")
    if component.startswith("."):
        component = "%2E" + component[1:]
    return data_dir / "faiss" / component / space_id


def current_build(folder: Path) -> Build | None:
    """The published build, or None when there is none or its manifest is not readable as one."""
    for _ in range(
        3
    ):  # a build read about may be pruned before it is opened, when two more were published since
        try:
            build = folder / (folder / CURRENT).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None
        try:
            return Build(build, _MANIFEST.validate_json((build / MANIFEST).read_bytes()))
        except FileNotFoundError:
            continue
        except (OSError, ValidationError):
            return None
    return None


def damaged_file(build: Build, *, rehash: bool = False) -> str | None:
    """Name of the first file that is not as it was published, or None.

    Args:
        rehash: hash every file; otherwise one whose size and modification time are unchanged is trusted.
    """
    for name, stamp in build.manifest.files.items():
        path = build.folder / name
        try:
            status = path.stat()
            touched = status.st_mtime_ns != stamp.mtime_ns
            if status.st_size != stamp.size or ((touched or rehash) and sha256_of(path) != stamp.sha256):
                return name
        except OSError:
            return name
    return None


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process builds here; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def unpublished(folder: Path) -> Iterator[Path]:
    """A fresh folder to write a build into; gone afterwards unless `publish` took it."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    partial = folder / (name + _PARTIAL)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def stamps(partial: Path) -> dict[str, Stamp]:
    """Stamps of all files in a folder, each flushed to disk."""
    found = {}
    for path in sorted(partial.iterdir()):
        _sync(path)
        status = path.stat()
        found[path.name] = Stamp(status.st_size, status.st_mtime_ns, sha256_of(path))
    return found


def publish(partial: Path, manifest: Manifest) -> Build:
    """Make a finished build the current one; readers see the old or the new, never half. The one before is kept
    for readers that just opened it, older ones go."""
    folder = partial.parent
    (partial / MANIFEST).write_bytes(_MANIFEST.dump_json(manifest, indent=2))
    _sync(partial / MANIFEST)
    _sync(partial)
    build = folder / partial.name.removesuffix(_PARTIAL)
    partial.rename(build)
    previous = current_build(folder)
    pointer = folder / (CURRENT + _PARTIAL)
    pointer.write_text(build.name + "\n", encoding="utf-8")
    _sync(pointer)
    pointer.replace(folder / CURRENT)
    _sync(folder)
    _prune(folder, {build.name, previous.folder.name if previous else build.name})
    return Build(build, manifest)


def _prune(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        if path.is_dir() and path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Pages of a slice in files, where the workers of its pipeline read them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import uuid4

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from extractors.base import Page
from extractors.read import spool_pages
from runners.targets import Target

PREFIX = "headrace-slice-"


@contextmanager
def spooled(pages: Sequence[Page], target: Target) -> Iterator[list[str]]:
    """Files with the pages, in turn, for the length of the block.

    Yields:
        As many as the target wants, fewer where there are fewer pages; paths, or URLs of Beam's filesystems.
    """
    files = max(1, min(target.spools, len(pages)))
    with _folder(target.spool_dir) as folder:
        paths = [f"{folder}/{number}.pages" for number in range(files)]
        for number, path in enumerate(paths):
            with _created(path) as spool:
                spool_pages(pages[number::files], spool)
        yield paths


@contextmanager
def _folder(parent: Path | str | None) -> Iterator[str]:
    """A new folder below `parent`, deleted with what is in it; a bucket has none until a file is."""
    if not isinstance(parent, str):
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent) as folder:
            yield folder
        return
    url = f"{parent}/{PREFIX}{uuid4()}"
    try:
        yield url
    finally:
        written = [file.path for match in FileSystems.match([f"{url}/*"]) for file in match.metadata_list]
        FileSystems.delete(written)


def _created(path: str) -> IO[bytes]:
    created: IO[bytes] = FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED)
    return created

"""Pages of a slice on disk, where the workers of its pipeline read them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from extractors.base import Page
from extractors.read import spool_pages
from runners.targets import Target


@contextmanager
def spooled(pages: Sequence[Page], target: Target) -> Iterator[list[Path]]:
    """Files with the pages, in turn, for the length of the block.

    Yields:
        As many as the target wants, fewer where there are fewer pages.
    """
    with tempfile.TemporaryDirectory(prefix="headrace-slice-", dir=target.spool_dir) as folder:
        files = max(1, min(target.spools, len(pages)))
        paths = [Path(folder) / f"{number}.pages" for number in range(files)]
        for number, path in enumerate(paths):
            with path.open("wb") as spool:
                spool_pages(pages[number::files], spool)
        yield paths

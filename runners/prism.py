"""Runs by Prism, Beam's local runner in Go; the steps themselves are still done in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from runners.fetch import prism_binary
from runners.job_server import serving
from runners.targets import Target
from schemas.config import Config
from schemas.errors import MissingTool


@contextmanager
def opened(config: Config) -> Iterator[Target]:
    """Prism, for the length of the block; what it says is in `prism.log` of the data folder.

    Raises:
        MissingTool: it is not there.
        ClusterUnreachable: it does not start.
    """
    binary = config.prism.binary or prism_binary()
    if not os.access(binary, os.X_OK):
        raise MissingTool(f"prism.binary: {binary} is not a program: run `make prism`, or name another")

    def command(port: int) -> list[str]:
        # The last ends it where this process is killed; no source waits as long between two slices.
        return [
            str(binary), f"--job_port={port}", "--serve_http=false", "--log_kind=text", "--log_level=info",
            "--idle_shutdown_timeout=3h",
        ]  # fmt: skip

    with serving("Prism", command, config.data_dir / "prism.log") as address:
        options = ("--runner=PortableRunner", f"--job_endpoint={address}", "--environment_type=LOOPBACK")
        yield Target(options, spools=config.prism.parallelism)

"""Runs by Prism, Beam's local runner in Go; the steps themselves are still done in this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from apache_beam.runners.worker import sdk_worker

from runners.fetch import prism_binary
from runners.job_server import serving
from runners.targets import Target
from schemas.config import Config
from schemas.errors import MissingTool

WORKER_THREADS = ("run_worker_", "read_grpc_client_inputs")
THREAD_TIMEOUT_S = 2.0


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
        return [
            str(binary), f"--job_port={port}", "--serve_http=false", "--log_kind=text", "--log_level=info",
        ]  # fmt: skip

    with (
        _one_line_is_enough(),
        serving("Prism", command, config.data_dir / "prism.log") as address,
        _workers_left(),
    ):
        options = ("--runner=PortableRunner", f"--job_endpoint={address}", "--environment_type=LOOPBACK")
        yield Target(options, spools=config.prism.parallelism)


@contextmanager
def _workers_left() -> Iterator[None]:
    """Workers of a job that was cancelled close what they opened once Prism has told them, and only then."""
    try:
        yield
    finally:
        _join(WORKER_THREADS[:1])


def _join(names: tuple[str, ...]) -> None:
    for thread in threading.enumerate():
        if thread.name.startswith(names):
            thread.join(THREAD_TIMEOUT_S)


@contextmanager
def _one_line_is_enough() -> Iterator[None]:
    """A job that fails raises what failed; Beam's threads in this process would also print its traceback, and that
    Prism is gone once it is."""
    before = threading.excepthook

    def hook(what: threading.ExceptHookArgs) -> None:
        if not isinstance(what.exc_value, grpc.RpcError):
            before(what)

    threading.excepthook = hook
    sdk_worker.print = lambda *_, **__: None
    try:
        yield
    finally:
        _join(WORKER_THREADS)
        del sdk_worker.print
        threading.excepthook = before

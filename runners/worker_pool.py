"""Python workers for a cluster: started when a runner asks for them, each a process of its own.

`python -m runners.worker_pool --port 50000`, beside every TaskManager. Beam brings such a pool; this one hands a
worker its pipeline options and its connection for logs, writes what it prints to a file instead of into a pipe
that nobody reads, and no worker outlives it. A worker's code is what is installed here: nothing is staged.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from schemas.errors import SetupError

STOP_TIMEOUT_S = 10.0
MAX_WORKERS = 64
"""A pool is asked by a cluster, which may be wrong."""
MAX_FILES = 2 * MAX_WORKERS
"""Of what workers printed, that are kept; each job brings workers of its own."""

_LOG = logging.getLogger(__name__)


class WorkerPool(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):  # type: ignore[misc]
    """Starts and stops workers.

    Args:
        logs: folder for what workers print.
        share: workers that share this machine's cores.
    """

    def __init__(self, logs: Path, share: int) -> None:
        self._logs = logs
        self._share = share
        self._lock = threading.Lock()
        self._workers: list[tuple[str, subprocess.Popen[bytes]]] = []

    def StartWorker(  # noqa: N802  (Beam's name)
        self, request: beam_fn_api_pb2.StartWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StartWorkerResponse:
        """Start a worker; the answer's `error` says why not."""
        with self._lock:
            self._workers = [(name, worker) for name, worker in self._workers if worker.poll() is None]
            if len(self._workers) >= MAX_WORKERS:
                return beam_fn_api_pb2.StartWorkerResponse(error=f"{MAX_WORKERS} workers run already")
            try:
                self._workers.append((request.worker_id, self._start(request)))
            except OSError as error:
                return beam_fn_api_pb2.StartWorkerResponse(error=f"no worker could be started: {error}")
        _LOG.info("worker %s started for %s", request.worker_id, request.control_endpoint.url)
        return beam_fn_api_pb2.StartWorkerResponse()

    def _start(self, request: beam_fn_api_pb2.StartWorkerRequest) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "runners.worker", f"--id={request.worker_id}",
            f"--control={request.control_endpoint.url}", f"--logging={request.logging_endpoint.url}",
            f"--provision={request.provision_endpoint.url}",
        ]  # fmt: skip
        self._forget_oldest()
        with self._file(request.worker_id).open("ab") as said:
            # The worker ends when its standard input does: with this process, however that ends.
            return subprocess.Popen(  # noqa: S603  (our own interpreter and module)
                command,
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                env={**os.environ, "HEADRACE_WORKERS": str(self._share)},
            )

    def _file(self, worker_id: str) -> Path:
        """What a worker prints."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", worker_id)[:100]
        return self._logs / f"worker-{name}.out"

    def _forget_oldest(self) -> None:
        """Make room for another file."""
        in_use = {self._file(name) for name, _ in self._workers}
        files = [file for file in self._logs.glob("worker-*.out") if file not in in_use]
        with suppress(FileNotFoundError):  # another pool here forgets the same ones
            files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
            for file in files[max(0, MAX_FILES - len(in_use) - 1) :]:
                file.unlink()

    def StopWorker(  # noqa: N802  (Beam's name)
        self, request: beam_fn_api_pb2.StopWorkerRequest, context: grpc.ServicerContext
    ) -> beam_fn_api_pb2.StopWorkerResponse:
        """Stop a worker.

        TaskManagers count their workers each for itself, so two on one machine ask by the same name. Then the one
        that is meant ends by itself: its TaskManager has closed the connection.
        """
        with self._lock:
            meant = [worker for name, worker in self._workers if name == request.worker_id]
        if len(meant) == 1:
            _end(meant[0])
            _LOG.info("worker %s stopped", request.worker_id)
        return beam_fn_api_pb2.StopWorkerResponse()

    def close(self) -> None:
        """Stop all workers."""
        with self._lock:
            for _, worker in self._workers:
                worker.terminate()
            for _, worker in self._workers:
                _end(worker)


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    try:
        worker.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    if worker.stdin:
        worker.stdin.close()


def start(logs: Path, share: int, host: str, port: int) -> tuple[WorkerPool, grpc.Server, int]:
    """Listen for runners.

    Args:
        port: 0 takes a free one.
    Returns:
        The pool, its server, and the port.
    Raises:
        SetupError: the port is taken.
    """
    logs.mkdir(parents=True, exist_ok=True)
    # A runner pings between two jobs, for hours.
    quiet = [("grpc.http2.max_ping_strikes", 0), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(max_workers=8), options=quiet)
    pool = WorkerPool(logs, share)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        raise SetupError(f"a worker pool cannot listen at {host}:{port}: choose another port") from None
    server.start()
    return pool, server, bound


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m runners.worker_pool", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    parser.add_argument("--port", type=int, default=50000, help="(default: %(default)s)")
    parser.add_argument(
        "--logs", type=Path, default=Path(), help="folder for what workers print (default: this one)"
    )
    parser.add_argument(
        "--share", type=int, default=1, help="workers that share this machine's cores (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
    try:
        pool, server, port = start(given.logs, given.share, given.host, given.port)
    except SetupError as error:
        print(f"headrace: {error}", file=sys.stderr)
        return 1
    _LOG.info("workers can be asked for at %s:%d", given.host, port)
    stop = threading.Event()

    def told(signum: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    stop.wait()
    server.stop(1).wait()
    pool.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

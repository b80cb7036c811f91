"""A job server of Beam's for the length of a run: Prism, or the one that submits to Flink."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from runners.tied import STOP_TIMEOUT_S
from schemas.errors import ClusterUnreachable

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 60.0
LAUNCHER_TIMEOUT_S = STOP_TIMEOUT_S + 5.0


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def listens(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether a connection can be made."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False


@contextmanager
def serving(
    name: str, command: Callable[[int], Sequence[str]], log: Path, timeout_s: float = START_TIMEOUT_S
) -> Iterator[str]:
    """A process that takes jobs for the length of the block; it ends with this process, however that ends.

    Args:
        command: its command line, for the port it is to listen at.
        log: file for all it says.
    Yields:
        Its address, host:port.
    Raises:
        ClusterUnreachable: it does not come up; names the log.
    """
    port = free_port()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as said:
        # In a session of its own, so that Ctrl-C leaves it there to be told of the job's end.
        process = subprocess.Popen(  # noqa: S603  (a command of ours)
            [sys.executable, "-m", "runners.tied", *command(port)],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + timeout_s
        while not listens(LOOPBACK, port):
            code = process.poll()
            if code is not None:
                raise ClusterUnreachable(f"{name} ended at once with exit code {code}: see {log}")
            if time.monotonic() > deadline:
                raise ClusterUnreachable(f"{name} did not come up within {timeout_s:.0f} s: see {log}")
            time.sleep(0.05)
        yield f"{LOOPBACK}:{port}"
    finally:
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(LAUNCHER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

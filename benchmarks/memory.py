"""Peak memory of this process and all it started, Postgres included."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_S = 0.5


@dataclass
class Peak:
    """Highest sum of proportional set sizes seen, in bytes: shared pages count once over all processes."""

    bytes: int = 0


def tree_bytes(server_name: str = "postgres") -> int:
    """Proportional set size of this process, its children, and every running Postgres (it detaches itself)."""
    this = psutil.Process()
    processes = {this, *this.children(recursive=True)}
    processes |= {process for process in psutil.process_iter(["name"]) if process.info["name"] == server_name}
    total = 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def peak_resident_bytes() -> int:
    """Highest resident size of this process alone since it began.

    Where the kernel keeps that for each program; elsewhere it may be that of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Sample until the block ends."""
    peak = Peak()
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_S):
            peak.bytes = max(peak.bytes, tree_bytes())

    thread = threading.Thread(target=sample, name="peak-memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak.bytes = max(peak.bytes, tree_bytes())

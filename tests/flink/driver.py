"""`headrace` with its job on the cluster, as a process of its own that a test may interrupt or kill."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.hardware import ROOT

END_TIMEOUT_S = 180.0


@contextmanager
def driver(command: str, config: Path) -> Iterator[subprocess.Popen[str]]:
    """`headrace COMMAND --runner flink` with this file; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runners.cli", command, "-c", str(config), "--runner", "flink"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # pytest in a shell's background ignores the signal, and so would a child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=END_TIMEOUT_S)

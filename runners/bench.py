"""`headrace bench`: the benchmarks are part of the repository, not of the installed package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import MissingFile

INTERRUPTED = 130
ROOT = Path(__file__).resolve().parent.parent


def run_benchmarks(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Run `benchmarks/suite.py` of the checkout that this package runs from, in a process of its own.

    Args:
        arguments: of the suite.
    Returns:
        Its exit code; 130 when this process was interrupted.

    Raises:
        MissingFile: this is an installed package without its repository.
    """
    if not (root / "benchmarks" / "suite.py").is_file():
        raise MissingFile(
            f"no benchmarks beside {root / 'runners'}, expected a checkout of the repository: clone it, run "
            "`make install-bench` there, then `.venv-bench/bin/headrace bench`"
        )
    command = [sys.executable, "-m", "benchmarks.suite", *arguments]
    suite = subprocess.Popen(command, cwd=root)  # noqa: S603  (our own interpreter and file)
    try:
        return suite.wait()
    except KeyboardInterrupt:
        suite.terminate()  # ends what it started as well
        suite.wait()
        return INTERRUPTED

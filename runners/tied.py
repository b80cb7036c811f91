"""Runs a command that ends with whoever holds the other end of this process's standard input.

`python -m runners.tied COMMAND ARGUMENT...`. A process that is killed says goodbye to nobody, but the system closes
its pipes. Linux could tie a child to the thread that started it (`prctl`), and only Linux, and only to a thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence

STOP_TIMEOUT_S = 10.0


def main(command: Sequence[str]) -> int:
    """The command's exit code; that of a shell, 128 and more, where a signal ended it."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603  (of whoever started this)

    def end_with_holder() -> None:
        while os.read(0, 1024):
            pass
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()

    threading.Thread(target=end_with_holder, name="end-with-holder", daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A job server ends with the process that started it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from runners.job_server import serving

BOUND_S = 30.0
SERVER = """
import os, pathlib, signal, socket, sys, time
if sys.argv[3:] == ["stubborn"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[2]).write_text(str(os.getpid()))
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    time.sleep(600)
"""
DRIVER = """
import pathlib, sys, time
from runners.job_server import serving
folder = pathlib.Path(sys.argv[1])
def command(port):
    return [sys.executable, str(folder / "server.py"), str(port), str(folder / "pid")]
with serving("the server", command, folder / "log"):
    (folder / "up").touch()
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "server.py").write_text(SERVER)
    return tmp_path


@pytest.fixture
def driver(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder)])
    yield process
    process.kill()
    process.wait(BOUND_S)


def _until(done: Callable[[], bool]) -> bool:
    end = time.monotonic() + BOUND_S
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
    return done()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_ends_with_its_killed_driver(
    folder: Path, driver: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    assert _until((folder / "up").exists)
    server = psutil.Process(int((folder / "pid").read_text()))
    launcher = server.parent()
    assert launcher is not None
    os.kill(driver.pid, number)
    _, alive = psutil.wait_procs([server, launcher], BOUND_S)
    assert alive == []


def test_a_server_ends_with_its_block_and_leaves_no_launcher(folder: Path) -> None:
    def command(port: int) -> list[str]:
        return [sys.executable, str(folder / "server.py"), str(port), str(folder / "pid")]

    with serving("the server", command, folder / "log"):
        server = psutil.Process(int((folder / "pid").read_text()))
        launcher = server.parent()
        assert launcher is not None
        assert launcher.ppid() == os.getpid()
    assert not server.is_running()
    assert not launcher.is_running()


def test_a_server_that_does_not_heed_its_end_is_killed(folder: Path) -> None:
    (folder / "launcher.py").write_text(
        "import sys\nfrom runners import tied\ntied.STOP_TIMEOUT_S = 0.1\nsys.exit(tied.main(sys.argv[1:]))\n"
    )
    server = [sys.executable, str(folder / "server.py"), "0", str(folder / "pid"), "stubborn"]
    launcher = subprocess.Popen([sys.executable, str(folder / "launcher.py"), *server], stdin=subprocess.PIPE)
    assert launcher.stdin is not None
    assert _until(lambda: (folder / "pid").exists() and (folder / "pid").read_text() != "")
    launcher.stdin.close()
    assert launcher.wait(BOUND_S) == 128 + signal.SIGKILL

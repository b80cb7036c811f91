"""The embedded server starts whatever the last crash left behind, and stops with its last user."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.config import Config
from schemas.errors import BadConfig, DatabaseUnreachable
from transforms import embedded_postgres

ROOT = Path(__file__).resolve().parent.parent.parent
USER = """
import sys
from pathlib import Path
from schemas.config import Config
from transforms.postgres import open_store
store = open_store(Config(data_dir=Path(sys.argv[1])))
with store.connect() as connection:
    connection.execute("CREATE TABLE IF NOT EXISTS visits (id int GENERATED ALWAYS AS IDENTITY)")
    connection.execute("INSERT INTO visits DEFAULT VALUES")
    print(connection.execute("SELECT count(*) FROM visits").fetchone()[0], flush=True)
sys.stdin.read()
"""
"""A process that uses the server until its standard input ends; prints how many have done so before."""


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """One for all tests here: making a database takes longest."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-"))
    yield folder
    pid = server_pid(folder)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def use(data_dir: Path) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(data_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def leave(process: subprocess.Popen[str]) -> None:
    process.communicate("")
    assert process.returncode == 0


def server_pid(data_dir: Path) -> int | None:
    """The living server of a data folder."""
    lock_file = data_dir / "postgres" / "postmaster.pid"
    if not lock_file.exists():
        return None
    pid = int(lock_file.read_text().splitlines()[0])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    return pid


def test_the_last_of_two_users_stops_the_server(data_dir: Path) -> None:
    first, visits = use(data_dir)
    second, more_visits = use(data_dir)
    assert more_visits == visits + 1
    leave(first)
    assert server_pid(data_dir) is not None
    leave(second)
    assert server_pid(data_dir) is None


def test_a_killed_user_does_not_keep_the_server_up(data_dir: Path) -> None:
    killed, visits = use(data_dir)
    killed.kill()
    killed.communicate()
    assert server_pid(data_dir) is not None
    last, more_visits = use(data_dir)
    assert more_visits == visits + 1
    leave(last)
    assert server_pid(data_dir) is None


def test_after_a_crash_of_everything_the_data_is_there_again(data_dir: Path) -> None:
    killed, visits = use(data_dir)
    pid = server_pid(data_dir)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    killed.kill()
    killed.communicate()
    lock_file = data_dir / "postgres" / "postmaster.pid"
    for _ in range(100):
        if server_pid(data_dir) is None:
            break
        time.sleep(0.05)
    # The number was given to another process meanwhile, as happens when a container starts again.
    lines = lock_file.read_text().splitlines()
    lock_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    (data_dir / "postgres" / ".handle_pids.json").write_text(json.dumps([2**22 + 1]))
    last, more_visits = use(data_dir)
    assert more_visits == visits + 1
    leave(last)
    assert server_pid(data_dir) is None


def test_a_path_too_long_for_a_socket_works(data_dir: Path) -> None:
    long = data_dir / ("d" * 60) / ("e" * 60)
    process, visits = use(long)
    assert visits == 1
    leave(process)


def test_a_process_that_hangs_in_its_start_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys; from transforms.embedded_postgres import _library;"
        "_library().PostgresServer._lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    hanging = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert hanging.stdout is not None
    assert hanging.stdout.readline() == "held\n"
    monkeypatch.setattr(embedded_postgres, "START_TIMEOUT_S", 0.0)
    with pytest.raises(DatabaseUnreachable, match=r"another process .* postgres\.dsn"):
        embedded_postgres.start(tmp_path / "postgres")
    hanging.communicate()


def test_a_path_that_the_server_cannot_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"data_dir.*blank"):
        embedded_postgres.start(tmp_path / "my data" / "postgres")


def test_a_folder_that_is_no_database_is_named(tmp_path: Path) -> None:
    data_dir = Config().data_dir
    (tmp_path / data_dir).write_text("a file")
    with pytest.raises(DatabaseUnreachable, match="data_dir"):
        embedded_postgres.start(tmp_path / data_dir / "postgres")

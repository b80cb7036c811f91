"""A cluster of this test session alone, on free ports."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runners.fetch import fetch_flink
from runners.flink_cluster import Cluster, down, up
from tests.runners.conftest import headrace, make_config

__all__ = ["headrace", "make_config"]

TICKER = Path(__file__).parent / "Ticker.java"


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flink")


@pytest.fixture(scope="session")
def cluster(state: Path) -> Iterator[Cluster]:
    fetch_flink()
    yield up(state, rest_port=0, pool_port=0)
    down(state)


@pytest.fixture(scope="session")
def ticker_jar(state: Path) -> Path:
    """A job that goes on for ever, compiled against the fetched Flink."""
    classes = state / "classes"
    lib = fetch_flink()
    subprocess.run(
        ["javac", "-nowarn", "-cp", f"{lib}/*", "-d", str(classes), str(TICKER)], check=True, timeout=120
    )
    jar = state / "ticker.jar"
    subprocess.run(["jar", "cfe", str(jar), "Ticker", "-C", str(classes), "."], check=True, timeout=60)
    return jar


@pytest.fixture
def ticker(cluster: Cluster, ticker_jar: Path) -> Iterator[str]:
    """Id of a running job."""
    with httpx.Client(base_url=cluster.url, timeout=60) as client, ticker_jar.open("rb") as packed:
        stored = client.post("/jars/upload", files={"jarfile": ("ticker.jar", packed)}).raise_for_status()
        name = stored.json()["filename"].rpartition("/")[2]
        job_id = client.post(f"/jars/{name}/run").raise_for_status().json()["jobid"]
        yield job_id
        client.patch(f"/jobs/{job_id}", params={"mode": "cancel"})

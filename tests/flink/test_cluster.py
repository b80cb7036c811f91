"""A real Flink: it comes up, its jobs are saved, drained and cancelled, and it goes without a trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from runners import flink_rest
from runners.flink import check_ready
from runners.flink_cluster import Cluster, running, up
from runners.flink_jobs import job_rows
from schemas.engines import FLINK_VERSION, Flink
from schemas.errors import JobRefused, SetupError
from tests.runners.world import Headrace

BOUND_S = 90.0


def _until(done: Callable[[], bool]) -> bool:
    end = time.monotonic() + BOUND_S
    while not done() and time.monotonic() < end:
        time.sleep(0.1)
    return done()


def _ticks(cluster: Cluster, job_id: str) -> bool:
    return flink_rest.job(cluster.url, job_id).tasks.running == 2


def _settings(cluster: Cluster) -> Flink:
    return Flink(url=cluster.url, worker_pool=cluster.worker_pool)


def test_it_is_ready_for_a_job(cluster: Cluster) -> None:
    check_ready(_settings(cluster))
    found = flink_rest.check_version(cluster.url, FLINK_VERSION)
    assert (found.taskmanagers, found.slots) == (2, 4)


def test_started_again_it_is_the_same(cluster: Cluster, state: Path) -> None:
    assert up(state) == cluster


def test_a_port_that_is_taken_is_one_line(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=rf"port {cluster.ports.rest} cannot be used: .*: choose another"):
        up(tmp_path, rest_port=cluster.ports.rest)
    assert running(tmp_path) is None


def test_a_job_is_saved_and_goes_on(cluster: Cluster, ticker: str) -> None:
    assert _until(lambda: _ticks(cluster, ticker))
    place = flink_rest.savepoint(cluster.url, ticker)
    assert (Path(place.removeprefix("file:")) / "_metadata").is_file()
    assert not flink_rest.job(cluster.url, ticker).ended


def test_a_job_is_stopped_with_its_state_kept(cluster: Cluster, ticker: str) -> None:
    assert _until(lambda: _ticks(cluster, ticker))
    place = flink_rest.stop(cluster.url, ticker)
    assert flink_rest.wait(cluster.url, ticker, BOUND_S).state == "FINISHED"
    assert (Path(place.removeprefix("file:")) / "_metadata").is_file()


def test_a_job_is_listed_cancelled_and_listed_so(
    cluster: Cluster, ticker: str, headrace: Headrace, tmp_path: Path
) -> None:
    config = tmp_path / "headrace.toml"
    config.write_text(f'[flink]\nurl = "{cluster.url}"\n')
    assert _until(lambda: _ticks(cluster, ticker))
    code, out, _ = headrace("job", "cancel", ticker, "-c", config)
    assert (code, out) == (0, f"job {ticker}: CANCELED\n")
    (row,) = [row for row in job_rows(cluster.url) if row["job"] == ticker]
    assert (row["name"], row["state"]) == ("ticker", "CANCELED")
    with pytest.raises(JobRefused, match=r"the state could not be written"):
        flink_rest.savepoint(cluster.url, ticker)


def test_a_killed_taskmanager_is_replaced_and_its_job_goes_on(
    cluster: Cluster, ticker: str, state: Path
) -> None:
    assert _until(lambda: _ticks(cluster, ticker))
    for name in ("taskmanager-1", "taskmanager-2"):
        psutil.Process(cluster.processes[name].pid).kill()
    assert _until(lambda: set(running(state).processes) == {"jobmanager", "worker-pool"})
    again = up(state)
    assert again.ports == cluster.ports
    assert again.processes["jobmanager"] == cluster.processes["jobmanager"]
    assert _until(lambda: _ticks(cluster, ticker) and flink_rest.metrics(cluster.url, ticker).restarts > 0)

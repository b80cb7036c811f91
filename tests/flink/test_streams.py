"""A watcher whose sources are polled by a streaming job on a real Flink."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from extractors.read import build_extractor
from runners import flink_rest
from runners.flink_cluster import Cluster, running, up
from runners.streams import job_name, polled_by
from runners.targets import Runner
from schemas.config import Config, Postgres
from schemas.engines import Flink
from schemas.sources import JiraSource
from tests.fakes.jira import FakeJira
from tests.fakes.serving import serve
from tests.runners.test_watch import Followed, followed
from transforms.postgres import Store

MakeConfig = Callable[..., Config]
BOUND_S = 180.0


@pytest.fixture
def jira() -> FakeJira:
    jira = FakeJira(lambda: datetime.now(UTC))
    jira.create("ABC", summary="the first gate")
    return jira


@pytest.fixture
def config(
    jira: FakeJira, cluster: Cluster, database: Store, tmp_path: Path, make_config: MakeConfig
) -> Iterator[Config]:
    """Workers find the database by a file: their pool was there before it."""
    (tmp_path / "dsn").write_text(database.dsn)
    dsn = Postgres(dsn=f"file:{tmp_path / 'dsn'}")
    with serve(jira.app) as url:
        source = JiraSource(type="jira", name="tickets", site_url=url, poll_interval_s=0.5)
        flink = Flink(url=cluster.url, worker_pool=cluster.worker_pool, checkpoint_interval_s=1)
        yield make_config().model_copy(update={"sources": (source,), "flink": flink, "postgres": dsn})


@contextmanager
def streamed(config: Config, store: Store) -> Iterator[Followed]:
    with (
        polled_by(config, Runner.FLINK) as polls,
        followed(config, store, build_extractor, polls) as view,
    ):
        view.timeout_s = BOUND_S
        yield view


def _running(config: Config, url: str) -> list[flink_rest.Job]:
    return [job for job in flink_rest.jobs(url) if job.name == job_name(config) and not job.ended]


def test_changes_are_followed_and_the_job_ends_with_its_watcher(
    config: Config, cluster: Cluster, database: Store, jira: FakeJira
) -> None:
    with streamed(config, database) as view:
        view.until(lambda: len(view.live()) == 1)
        number = jira.create("ABC", summary="a weir that leaks")
        view.until(lambda: str(number) in view.live())
        jira.edit(number, summary="a weir that holds")
        view.until(lambda: ("a weir that holds",) in view.rows("SELECT title FROM documents"))
        assert len(_running(config, cluster.url)) == 1
    assert _running(config, cluster.url) == []


def test_killed_workers_and_taskmanagers_leave_nothing_out_and_nothing_twice(
    config: Config, cluster: Cluster, database: Store, jira: FakeJira, state: Path
) -> None:
    with streamed(config, database) as view:
        view.until(lambda: len(view.live()) == 1)
        view.until(lambda: view.rows("SELECT 1 FROM source_cursors WHERE cursor IS NOT NULL"))
        (before,) = _running(config, cluster.url)
        for worker in psutil.Process(cluster.processes["worker-pool"].pid).children():
            worker.kill()
        made = [jira.create("ABC", summary=f"alarm {number}") for number in range(20)]
        view.until(lambda: len(view.live()) == 21)
        for name in ("taskmanager-1", "taskmanager-2"):
            psutil.Process(cluster.processes[name].pid).kill()
        made += [jira.create("ABC", summary=f"sensor {number}") for number in range(20)]
        up(state)
        view.until(lambda: len(view.live()) == 41)
        assert {str(number) for number in made} < view.live()
        assert view.rows("SELECT count(*) FROM indexed_documents") == [(41,)]
        (job,) = _running(config, cluster.url)
        was_submitted_again = job.job_id != before.job_id
        assert was_submitted_again or flink_rest.metrics(cluster.url, job.job_id).restarts >= 1


def test_a_jobmanager_that_comes_back_without_memory_is_given_the_job_again(
    config: Config, cluster: Cluster, database: Store, jira: FakeJira, state: Path
) -> None:
    with streamed(config, database) as view:
        view.until(lambda: len(view.live()) == 1)
        now = running(state)
        assert now is not None
        psutil.Process(now.processes["jobmanager"].pid).kill()
        up(state)
        view.until(lambda: len(_running(config, cluster.url)) == 1)
        jira.create("ABC", summary="made after it")
        view.until(lambda: len(view.live()) == 2)
    assert view.rows("SELECT count(*) FROM runs") == [(1,)]

"""A watcher whose sources are polled by a streaming job."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psutil
import psycopg
import pytest

from extractors.read import build_extractor
from runners import streams
from runners.streams import polled_by
from runners.targets import Runner
from runners.watch import watch
from schemas.config import Config
from schemas.errors import ClusterUnreachable
from schemas.sources import JiraSource
from tests.fakes.jira import FakeJira
from tests.fakes.serving import Faults, serve
from tests.runners.test_watch import Followed, followed
from tests.runners.world import rows_of, run_quietly
from transforms import runs
from transforms.caches import memory
from transforms.postgres import Store

# Beam drops the bundle in work when a job is cancelled, without closing what its steps had opened.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

MakeConfig = Callable[..., Config]
INTERVAL_S = 0.5


@pytest.fixture
def jira() -> FakeJira:
    jira = FakeJira(lambda: datetime.now(UTC))
    for project in ("ABC", "XYZ"):
        jira.add_project(project)
        jira.create(project, summary=f"the gate of {project}")
    return jira


@pytest.fixture
def faults(jira: FakeJira) -> Faults:
    return Faults(jira.app)


@pytest.fixture
def config(faults: Faults, make_config: MakeConfig) -> Iterator[Config]:
    """Two sources, a project each."""
    with serve(faults) as url:
        sources = tuple(
            JiraSource(type="jira", name=key, site_url=url, projects=(key,), poll_interval_s=INTERVAL_S)
            for key in ("ABC", "XYZ")
        )
        yield make_config().model_copy(update={"sources": sources})


@contextmanager
def streamed(config: Config, store: Store) -> Iterator[Followed]:
    with (
        polled_by(config, Runner.PRISM) as polls,
        followed(config, store, build_extractor, polls) as view,
    ):
        view.timeout_s = 90
        yield view


def test_what_changes_in_each_source_is_stored_and_said(
    config: Config, database: Store, jira: FakeJira
) -> None:
    with streamed(config, database) as view:
        view.until(lambda: len(view.live()) == 2)
        new = jira.create("XYZ", summary="a weir that leaks")
        view.until(lambda: str(new) in view.live())
        jira.edit(new, summary="a weir that holds")
        view.until(lambda: ("a weir that holds",) in view.rows("SELECT title FROM documents"))
        view.until(lambda: any(line.startswith("XYZ: ") and "1 changed" in line for line in view.said))
        view.until(
            lambda: len(view.rows("SELECT 1 FROM source_states WHERE last_change_at IS NOT NULL")) == 2
        )
        lag_s = view.state("ABC").lag_s(datetime.now(UTC))
    assert lag_s is not None
    assert lag_s < 10 * INTERVAL_S
    with database.connect() as connection:
        # A reconciliation may have been a run, too, with nothing left to do.
        first = connection.execute("SELECT run_id, status FROM runs ORDER BY started_at LIMIT 1").fetchone()
        assert first is not None
        assert first[1] == "interrupted"
        counts = runs.counts_of_run(connection, first[0])
    for of_source in counts.values():
        del of_source["unchanged"]  # each round gives again what it gave last
    assert counts == {"ABC": {"new": 1}, "XYZ": {"new": 2, "changed": 1}}


def test_rows_are_those_of_a_run_in_this_process(config: Config, database: Store, jira: FakeJira) -> None:
    for number in range(30):
        jira.comment(jira.create("ABC", summary=f"alarm {number}"), "a sensor reports a level")
    with streamed(config, database) as view:
        view.until(lambda: len(view.live()) == 32)
        view.until(lambda: view.state("XYZ").last_success_at and view.state("ABC").last_success_at)
    streamed_rows = _without_times(rows_of(database, config))
    with database.connect() as connection:
        connection.execute("TRUNCATE documents, source_cursors, ai_usage_tracking, runs CASCADE")
    memory.forget_shared()
    run_quietly(config)
    assert streamed_rows == _without_times(rows_of(database, config))


def _without_times(rows: dict[str, list[tuple[object, ...]]]) -> dict[str, list[tuple[object, ...]]]:
    """Without `observed_at`, when the source was read."""
    return {**rows, "documents": [row[:6] + row[7:] for row in rows["documents"]]}


def test_a_job_goes_on_where_the_one_before_ended(config: Config, database: Store, jira: FakeJira) -> None:
    with streamed(config, database) as view:
        view.until(lambda: view.state("XYZ").last_success_at and view.state("ABC").last_success_at)
    swept = jira.asked["search"]
    jira.create("ABC", summary="made meanwhile")
    with streamed(config, database) as view:
        view.until(lambda: len(view.live()) == 3)
        view.until(lambda: "ABC: 1 new" in view.said)
    assert view.said[1:] == ["ABC: 1 new"]
    assert jira.asked["search"] > swept


def test_another_job_takes_the_place_of_one_that_is_old(
    config: Config, database: Store, jira: FakeJira, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def life_s(config: Config, runner: Runner) -> float:
        begun.append("job")
        return 5.0 if len(begun) == 1 else math.inf

    monkeypatch.setattr(streams, "life_s", life_s)
    with streamed(config, database) as view:
        view.until(lambda: len(begun) == 2)
        jira.create("ABC", summary="made after it")
        view.until(lambda: len(view.live()) == 3)
    assert view.rows("SELECT count(*) FROM runs") == [(1,)]


def test_a_source_that_fails_holds_up_no_other(
    config: Config, database: Store, jira: FakeJira, faults: Faults
) -> None:
    broken = config.sources[0].model_copy(update={"site_url": "http://127.0.0.1:1"})
    config = config.model_copy(update={"sources": (broken, config.sources[1])})
    with streamed(config, database) as view:
        view.until(lambda: len(view.live()) == 1)
        view.until(lambda: view.state("ABC").consecutive_failures > 0)
        jira.create("XYZ", summary="a weir")
        view.until(lambda: len(view.live()) == 2)
        assert view.state("ABC").condition(datetime.now(UTC)) == "failing"
        assert "127.0.0.1:1" in (view.state("ABC").last_error or "")


def test_when_prism_is_gone_the_watcher_ends_with_one_line(config: Config, database: Store) -> None:
    def kill() -> None:
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            while not connection.execute("SELECT 1 FROM documents").fetchone():
                time.sleep(0.1)
        (prism,) = [one for one in psutil.Process().children(recursive=True) if "prism" in one.name()]
        prism.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with polled_by(config, Runner.PRISM) as polls:
        with pytest.raises(ClusterUnreachable, match="the job server is gone"):
            watch(config, lambda line: None, duration_s=60, polls=polls)
        killer.join(10)
    assert not killer.is_alive()

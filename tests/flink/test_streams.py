"""A watcher whose sources are polled by a streaming job on a real Flink."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest
from psycopg import sql

from extractors.read import build_extractor
from runners import flink_rest, streams
from runners.flink import watch_job_name
from runners.flink_cluster import Cluster, running, up
from runners.streams import polled_by
from runners.targets import Runner
from runners.watch import OpenPolls, watch
from schemas.config import Config, Postgres
from schemas.engines import Flink
from schemas.errors import JobRefused
from schemas.sources import JiraSource
from tests.fakes.jira import FakeJira
from tests.fakes.serving import serve
from tests.flink.driver import driver
from tests.runners.test_watch import Followed, followed
from tests.runners.world import Headrace
from transforms.embedders.models import space_of
from transforms.postgres import Store
from transforms.spaces import chunk_table

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
    return [job for job in flink_rest.jobs(url) if job.name == watch_job_name(config) and not job.ended]


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


@contextmanager
def watcher(config: Config, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`headrace watch` as a process of its own, by a file that says what `config` does."""
    (source,), flink = config.sources, config.flink
    assert isinstance(source, JiraSource)
    assert flink is not None
    path = folder / "headrace.toml"
    path.write_text(f"""
client = "{config.client}"
data_dir = "{config.data_dir}"
postgres.dsn = "{config.postgres.dsn}"
flink = {{ url = "{flink.url}", worker_pool = "{flink.worker_pool}", checkpoint_interval_s = 1 }}
[[sources]]
type = "jira"
name = "{source.name}"
site_url = "{source.site_url}"
poll_interval_s = {source.poll_interval_s}
""")
    with driver("watch", path) as process:
        yield process


@dataclass
class Changes:
    """What happened at the source."""

    made: list[int] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)

    def live_titles(self) -> set[tuple[object, ...]]:
        return set(self.titles.items())


@contextmanager
def changing(jira: FakeJira) -> Iterator[Changes]:
    """Issues are made and edited for the length of the block, some ten times a second."""
    changes, stop = Changes(), threading.Event()

    def change() -> None:
        while not stop.wait(0.1):
            number = jira.create("ABC", summary=f"gate {len(changes.made)}")
            changes.made.append(number)
            edited = changes.made[len(changes.made) // 2]
            changes.titles[str(number)] = f"gate {len(changes.made) - 1}"
            title = f"weir {len(changes.made)}"
            jira.edit(edited, summary=title)
            changes.titles[str(edited)] = title

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield changes
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


def _is_as_its_source(view: Followed, changes: Changes, others: int) -> None:
    """The index comes to hold all that was made, as it was edited last, each once."""

    def titles() -> set[tuple[object, ...]]:
        return set(view.rows("SELECT native_id, title FROM documents WHERE deleted_at IS NULL"))

    view.until(lambda: changes.live_titles() <= titles())
    documents = len(changes.made) + others
    assert view.rows("SELECT count(*) FROM documents") == [(documents,)]
    assert view.rows("SELECT count(*) FROM indexed_documents") == [(documents,)]
    table = chunk_table(space_of(view.config.model).space_id)
    chunks = sql.SQL("SELECT count(*), count(DISTINCT document_id) FROM {}").format(table).as_string()
    assert view.rows(chunks) == [(documents, documents)]


def test_a_job_that_is_old_is_replaced_while_changes_come_and_none_is_lost_or_doubled(
    config: Config, cluster: Cluster, database: Store, jira: FakeJira, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "SHORTEST_LIFE_S", 25.0)
    monkeypatch.setattr(streams, "ROUNDS_OF_A_JOB", 1)
    before = {job.job_id for job in flink_rest.jobs(cluster.url)}

    def begun() -> list[flink_rest.Job]:
        mine = [job for job in flink_rest.jobs(cluster.url) if job.name == watch_job_name(config)]
        return [job for job in mine if job.job_id not in before]

    with streamed(config, database) as view:
        view.until(lambda: len(view.live()) == 1)
        with changing(jira) as changes:
            view.until(lambda: len(begun()) >= 3)
            halfway = len(changes.made)
            view.until(lambda: len(view.live()) > halfway)
        _is_as_its_source(view, changes, others=1)
        assert len(_running(config, cluster.url)) == 1
    assert {job.state for job in begun()} == {"CANCELED"}
    new = "SELECT sum(records)::int FROM run_counts WHERE outcome = 'new'"
    assert view.rows(new) == [(len(changes.made) + 1,)]


def test_the_job_of_a_killed_watcher_goes_on_and_the_next_ends_it_before_its_own_begins(
    config: Config, cluster: Cluster, database: Store, jira: FakeJira, tmp_path: Path
) -> None:
    view = Followed(config, database, timeout_s=BOUND_S)
    with ExitStack() as coming:
        changes = coming.enter_context(changing(jira))
        with watcher(config, tmp_path) as first:
            view.until(lambda: len(view.live()) > 5)
            (left,) = _running(config, cluster.url)
            first.kill()
            first.wait(BOUND_S)
        some = len(changes.made)
        view.until(lambda: len(view.live()) > some)
        assert [job.job_id for job in _running(config, cluster.url)] == [left.job_id]
        with watcher(config, tmp_path) as second:
            view.until(lambda: {job.job_id for job in _running(config, cluster.url)} - {left.job_id})
            (job,) = _running(config, cluster.url)
            ended = flink_rest.job(cluster.url, left.job_id)
            assert ended.state == "CANCELED"
            assert ended.started_ms + ended.duration_ms <= job.started_ms
            much = len(changes.made)
            view.until(lambda: len(view.live()) > much)
            coming.close()
            _is_as_its_source(view, changes, others=1)
            second.send_signal(signal.SIGINT)
            _, said = second.communicate(timeout=BOUND_S)
    assert "ended 1 job on the cluster that a killed headrace had left" in said
    assert _running(config, cluster.url) == []
    new = "SELECT sum(records)::int FROM run_counts WHERE outcome = 'new'"
    assert view.rows(new) == [(len(changes.made) + 1,)]


@contextmanager
def ending_by_itself(config: Config, polls: OpenPolls | None, view: Followed) -> Iterator[list[str]]:
    """A watcher whose job a person ends within the block; what it ended with, afterwards."""
    ended: list[str] = []

    def work() -> None:
        try:
            watch(config, view.said.append, duration_s=2 * BOUND_S, polls=polls)
        except JobRefused as error:
            ended.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    yield ended
    thread.join(BOUND_S)
    assert not thread.is_alive()


def test_a_job_is_saved_and_drained_and_the_next_goes_on_with_its_state_and_one_more_without(
    config: Config, cluster: Cluster, database: Store, jira: FakeJira, headrace: Headrace, tmp_path: Path
) -> None:
    toml = tmp_path / "headrace.toml"
    toml.write_text(f'[flink]\nurl = "{cluster.url}"\n')
    view = Followed(config, database, timeout_s=BOUND_S)
    with ExitStack() as coming:
        changes = coming.enter_context(changing(jira))
        with (
            polled_by(config, Runner.FLINK) as polls,
            ending_by_itself(config, polls, view) as ended,
        ):
            view.until(lambda: len(view.live()) > 5)
            (job,) = _running(config, cluster.url)
            code, saved, _ = headrace("job", "savepoint", job.job_id, "-c", toml)
            assert code == 0
            assert (Path(saved.strip().removeprefix("file:")) / "_metadata").is_file()
            some = len(changes.made)
            view.until(lambda: len(view.live()) > some)
            code, drained, _ = headrace("job", "drain", job.job_id, "-c", toml)
            assert (code, drained.partition(", ")[0]) == (0, f"job {job.job_id}: FINISHED")
        assert ended == ["the streaming job has ended, DONE: watch again to go on"]
        assert _running(config, cluster.url) == []
        place = drained.partition(", ")[2].strip()
        for restored in (place, None):
            options = [f"--savepoint_path={place}"] if restored else []
            with (
                polled_by(config, Runner.FLINK, options) as polls,
                followed(config, database, build_extractor, polls) as view,
            ):
                view.timeout_s = BOUND_S
                view.until(lambda: _running(config, cluster.url))
                all_so_far = len(changes.made) + 1
                view.until(lambda least=all_so_far: len(view.live()) > least)
                (job,) = _running(config, cluster.url)
                latest = httpx.get(f"{cluster.url}/jobs/{job.job_id}/checkpoints").json()["latest"]
                assert (latest["restored"] or {}).get("external_path") == restored
                if restored is None:
                    coming.close()
                    _is_as_its_source(view, changes, others=1)
    new = "SELECT sum(records)::int FROM run_counts WHERE outcome = 'new'"
    assert view.rows(new) == [(len(changes.made) + 1,)]

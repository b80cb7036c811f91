"""Runs on a Flink cluster, through Beam's job server. All that must be there is looked for before submission."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from uuid import uuid4

import psycopg
from psycopg.conninfo import conninfo_to_dict

from runners.fetch import flink_lib, sha256_of
from runners.flink_cluster import add_opens, java_launcher
from runners.flink_rest import MOST_FAILURES, cancel, check_version, failures, jobs, metrics, wait
from runners.job_server import listens, serving
from runners.targets import Target
from schemas.config import Config
from schemas.engines import FLINK_VERSION, Flink
from schemas.errors import ClusterUnreachable, DigestMismatch, JobRefused, MissingFile
from schemas.ids import settings_digest
from schemas.sections import resolve_secret

JOB_SERVER = "org.apache.beam.runners.flink.FlinkJobServerDriver"
POOL_TIMEOUT_S = 5.0
REFUSED = ("BeamFnExternalWorkerPool", "UNAVAILABLE")
"""In the stack trace of a step for which Beam could get no worker."""
MOST_REFUSALS = 3
"""In a row, from a job's beginning; Flink waits longer before each."""
RECOVERY_S = 300.0
"""What a cluster may take to come back."""
RECOVERY_POLL_S = 1.0
CANCEL_TIMEOUT_S = 60.0
SLOTS_FREED_S = 15.0
"""A job that has ended keeps its slots for a moment."""


@contextmanager
def opened(config: Config) -> Iterator[Target]:
    """The cluster, with Beam's job server before it for the length of the block; it logs to the data folder.

    No job of the block goes on after it, as one that Ctrl-C left would.

    Raises:
        MissingTool: there is no Java, or its jars were not fetched.
        WrongVersion: Java, or the cluster, has another version.
        MissingFile: the job server that is named is not there.
        DigestMismatch: a jar is not the pinned one.
        ClusterUnreachable: the cluster, its workers or the job server do not answer.
    """
    settings = config.flink or Flink()
    java, class_path = java_launcher(), checked_class_path(settings)
    check_answers(settings)
    name = f"headrace-run-{_owner(config)}-{uuid4().hex[:12]}"
    master = settings.url.partition("://")[2]

    def command(port: int) -> list[str]:
        return [
            java, "-Xmx512m", "-Dlog4j2.level=WARN", *add_opens(), "-cp", class_path, JOB_SERVER,
            f"--flink-master={master}", "--job-host=127.0.0.1", f"--job-port={port}", "--artifact-port=0",
            "--expansion-port=0", f"--artifacts-dir={config.data_dir / 'artifacts'}",
        ]  # fmt: skip

    log = config.data_dir / "job-server.log"
    with _cancelled_after(settings.url, name), serving("Beam's job server", command, log) as address:
        yield Target(
            options(settings, address, name),
            spools=settings.parallelism,
            spool_dir=settings.spool_dir,
            progress=partial(progress, settings.url, name),
            lost_job=partial(lost_job, settings, name),
            without_workers=partial(without_workers, settings, name),
            take_over=partial(take_over, config),
        )


def watch_job_name(config: Config) -> str:
    """Of the streaming job of a client."""
    return f"headrace-watch-{_owner(config)}"


def _owner(config: Config) -> str:
    """A client, and a digest of where its database is: one cluster may serve several of either."""
    dsn = config.postgres.dsn
    where: dict[str, object] = {"folder": str(config.data_dir.resolve())}
    if dsn is not None:
        with suppress(psycopg.ProgrammingError):  # which is said when the store is opened
            given = conninfo_to_dict(resolve_secret(dsn, "postgres.dsn"))
            where = {key: given.get(key) for key in ("host", "hostaddr", "port", "dbname")}
    return f"{config.client}-{settings_digest(where).hex()[:8]}"


def take_over(config: Config) -> str | None:
    """End the jobs that a killed process left of a client, then see that there is room for another.

    The caller holds the client's lock, so nobody waits for them. Nothing is lost: what they stored is found
    unchanged, and what they did not is read again from the stored cursors.

    Returns:
        A line for people, where there were any.
    Raises:
        ClusterUnreachable: no Flink answers, or it has too few slots.
        JobRefused: one does not end.
    """
    settings, owner = config.flink or Flink(), re.escape(_owner(config))
    of_client = re.compile(rf"headrace-(?:watch-{owner}|run-{owner}-[0-9a-f]{{12}})")
    left = cancel_named(settings.url, lambda name: of_client.fullmatch(name) is not None)
    deadline = time.monotonic() + (SLOTS_FREED_S if left else 0.0)
    while True:
        try:
            check_room(settings)
            break
        except ClusterUnreachable:
            if time.monotonic() > deadline:
                raise
        time.sleep(RECOVERY_POLL_S)
    if not left:
        return None
    return f"ended {left} job{'s'[: left > 1]} on the cluster that a killed headrace had left; what was stored stays"


@contextmanager
def _cancelled_after(url: str, name: str) -> Iterator[None]:
    """When this block ends the job server has, so that nobody submits a job any more."""
    try:
        yield
    finally:
        with suppress(ClusterUnreachable, JobRefused):  # it says so itself, or has ended with its jobs
            cancel_named(url, lambda one: one == name)


def cancel_named(url: str, is_meant: Callable[[str], bool]) -> int:
    """Cancel the jobs of such a name, and wait for their end; how many there were.

    Beam's job server is not asked: told to cancel, it may leave a job running (2.62).

    Raises:
        ClusterUnreachable: no Flink answers.
        JobRefused: one does not end.
    """
    found = [job for job in jobs(url) if is_meant(job.name) and not job.ended]
    for job in found:
        with suppress(JobRefused):  # it has ended meanwhile
            cancel(url, job.job_id)
        wait(url, job.job_id, CANCEL_TIMEOUT_S)
    return len(found)


def options(settings: Flink, job_endpoint: str, job_name: str) -> tuple[str, ...]:
    """Beam's options for a job. Times are milliseconds there."""
    return (
        f"--job_name={job_name}",
        "--runner=PortableRunner",
        f"--job_endpoint={job_endpoint}",
        "--environment_type=EXTERNAL",
        f"--environment_config={settings.worker_pool}",
        f"--parallelism={settings.parallelism}",
        f"--checkpointing_interval={round(1000 * settings.checkpoint_interval_s)}",
        f"--checkpoint_timeout_millis={round(1000 * settings.checkpoint_timeout_s)}",
    )


def checked_class_path(settings: Flink) -> str:
    """Where Java finds the job server, as it was pinned.

    Raises:
        MissingTool: the jars were not fetched.
        MissingFile: the one jar that is named is not there, or none is for another version of Flink.
        DigestMismatch: a jar is another, or the one that is named was not pinned.
    """
    jar = settings.job_server_jar
    if jar is None:
        if settings.version != FLINK_VERSION:
            raise MissingFile(
                f"flink.job_server_jar is not set, and `make flink` fetches one for Flink {FLINK_VERSION}, not"
                f" {settings.version}: take beam-runners-flink-{settings.version}-job-server from Maven Central, and"
                " name the file"
            )
        return f"{flink_lib()}/*"
    if not jar.is_file():
        raise MissingFile(f"flink.job_server_jar: {jar} does not exist")
    found = sha256_of(jar)
    if found != settings.job_server_sha256:
        pinned = settings.job_server_sha256 or "none"
        raise DigestMismatch(f"{jar} has sha256 {found}, flink.job_server_sha256 is {pinned}")
    return str(jar)


def check_ready(settings: Flink) -> None:
    """See that the cluster can take a job.

    Raises:
        WrongVersion: it has another version than the job server.
        ClusterUnreachable: it, or its workers, do not answer; or it has too few slots.
    """
    check_room(settings)
    _check_pool(settings)


def check_answers(settings: Flink) -> None:
    """As `check_ready`, whoever has the slots: a job that was left behind may."""
    check_version(settings.url, settings.version)
    _check_pool(settings)


def check_room(settings: Flink) -> None:
    """See that the cluster, of the right version, has slots for a job; raises as `check_ready`."""
    found = check_version(settings.url, settings.version)
    if found.slots_free < settings.parallelism:
        raise ClusterUnreachable(
            f"the cluster at {settings.url} has {found.slots_free} of {found.slots} task slots free, expected"
            f" {settings.parallelism}: wait, or lower flink.parallelism"
        )


def _check_pool(settings: Flink) -> None:
    host, _, port = settings.worker_pool.rpartition(":")
    # Only a pool on this machine can be tried from here; elsewhere it is a TaskManager's own neighbour.
    if settings.url.startswith(("http://127.0.0.1:", "http://localhost:")) and not listens(
        host, int(port), POOL_TIMEOUT_S
    ):
        raise ClusterUnreachable(
            f"no worker pool listens at {settings.worker_pool}: start one with `make flink-up`, or set"
            " flink.worker_pool"
        )


def lost_job(settings: Flink, name: str, timeout_s: float = RECOVERY_S) -> bool:
    """Whether the cluster was started anew and knows no job of this name; waits until it can take another.

    Without high availability, which needs ZooKeeper or Kubernetes, a JobManager remembers nothing.

    Raises:
        ClusterUnreachable: it does not come back.
        WrongVersion: it came back as another.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if any(job.name == name for job in jobs(settings.url)):
                return False
            check_ready(settings)
            return True
        except ClusterUnreachable:
            if time.monotonic() > deadline:
                raise
        time.sleep(RECOVERY_POLL_S)


def without_workers(settings: Flink, name: str, ended: bool) -> ClusterUnreachable | None:
    """Why the job of this name that was submitted last never had a worker; None where it had, or still may.

    One that runs is ended: Flink would try again for ever, or as often as it was told. A job that once had workers
    is left to it: they may come back.

    Args:
        ended: whether to look at jobs that have ended, or at those that have not.
    """
    try:
        mine = [job for job in jobs(settings.url) if job.name == name and job.ended == ended][:1]
        if any(job.tasks.running == job.tasks.total for job in mine):  # workers came late
            return None
        reasons = [reason for job in mine for reason in failures(settings.url, job.job_id)]
        enough = (1 if ended else MOST_REFUSALS) <= len(reasons) < MOST_FAILURES  # that many may hide others
        if not enough or not all(part in reason for reason in reasons for part in REFUSED):
            return None
        cancel_named(settings.url, lambda one: one == name)
    except (ClusterUnreachable, JobRefused):
        return None
    return ClusterUnreachable(
        f"no worker pool answers the TaskManagers of {settings.url} at {settings.worker_pool}: start `python -m"
        " runners.worker_pool` beside each of them, or set flink.worker_pool"
    )


def progress(url: str, name: str) -> str:
    """How the job of this name that was submitted last stands, on one line."""
    try:
        mine = [job for job in jobs(url) if job.name == name]
        if not mine:
            return "Flink: being submitted"
        found = metrics(url, mine[0].job_id)
    except (ClusterUnreachable, JobRefused) as error:
        return str(error)
    restarts = f", {found.restarts} restarts" if found.restarts else ""
    tasks = f"{mine[0].tasks.finished + mine[0].tasks.running} of {mine[0].tasks.total} tasks up"
    return f"Flink: {mine[0].state}, {tasks}, {found.records_read:,} records read{restarts}"

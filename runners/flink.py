"""Runs on a Flink cluster, through Beam's job server. All that must be there is looked for before submission."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from runners.flink_cluster import java_launcher
from runners.flink_rest import check_version, jobs, metrics
from runners.job_server import listens, serving
from runners.targets import Target
from schemas.config import Config
from schemas.engines import FLINK_VERSION, Flink
from schemas.errors import ClusterUnreachable, DigestMismatch, JobRefused, MissingFile

POOL_TIMEOUT_S = 5.0


@contextmanager
def opened(config: Config) -> Iterator[Target]:
    """The cluster, with Beam's job server before it for the length of the block; it logs to the data folder.

    Raises:
        MissingTool: there is no Java.
        WrongVersion: Java, or the cluster, has another version.
        MissingFile: no job server is configured, or it is not there.
        DigestMismatch: the jar is another.
        ClusterUnreachable: the cluster, its workers or the job server do not answer.
    """
    settings = config.flink or Flink()
    java, jar = java_launcher(), checked_jar(settings)
    before = check_ready(settings)
    master = settings.url.partition("://")[2]

    def command(port: int) -> list[str]:
        return [
            java, "-jar", str(jar), f"--flink-master={master}", "--job-host=127.0.0.1", f"--job-port={port}",
            "--artifact-port=0", "--expansion-port=0", f"--artifacts-dir={config.data_dir / 'artifacts'}",
        ]  # fmt: skip

    with serving("Beam's job server", command, config.data_dir / "job-server.log") as address:
        yield Target(
            options(settings, address),
            spools=settings.parallelism,
            spool_dir=settings.spool_dir,
            progress=partial(progress, settings.url, before),
        )


def options(settings: Flink, job_endpoint: str) -> tuple[str, ...]:
    """Beam's options for a job. Times are milliseconds there."""
    return (
        "--runner=PortableRunner",
        f"--job_endpoint={job_endpoint}",
        "--environment_type=EXTERNAL",
        f"--environment_config={settings.worker_pool}",
        f"--parallelism={settings.parallelism}",
        f"--checkpointing_interval={round(1000 * settings.checkpoint_interval_s)}",
        f"--checkpoint_timeout_millis={round(1000 * settings.checkpoint_timeout_s)}",
    )


def checked_jar(settings: Flink) -> Path:
    """The job server, as it was pinned.

    Raises:
        MissingFile: none is configured, or it is not there.
        DigestMismatch: it is another, or none was pinned.
    """
    jar = settings.job_server_jar
    if jar is None or not jar.is_file():
        said = (
            "flink.job_server_jar is not set"
            if jar is None
            else f"flink.job_server_jar: {jar} does not exist"
        )
        raise MissingFile(
            f"{said}: take beam-runners-flink-{FLINK_VERSION}-job-server of the installed Beam's version from Maven"
            " Central, and name the file"
        )
    with jar.open("rb") as packed:
        found = hashlib.file_digest(packed, "sha256").hexdigest()
    if found != settings.job_server_sha256:
        pinned = settings.job_server_sha256 or "none"
        raise DigestMismatch(f"{jar} has sha256 {found}, flink.job_server_sha256 is {pinned}")
    return jar


def check_ready(settings: Flink) -> set[str]:
    """See that the cluster can take a job.

    Returns:
        Ids of the jobs it knows already.
    Raises:
        WrongVersion: it has another version than the job server.
        ClusterUnreachable: it, or its workers, do not answer; or it has too few slots.
    """
    found = check_version(settings.url)
    if found.slots_free < settings.parallelism:
        raise ClusterUnreachable(
            f"the cluster at {settings.url} has {found.slots_free} of {found.slots} task slots free, expected"
            f" {settings.parallelism}: wait, or lower flink.parallelism"
        )
    host, _, port = settings.worker_pool.rpartition(":")
    # Only a pool on this machine can be tried from here; elsewhere it is a TaskManager's own neighbour.
    if settings.url.startswith(("http://127.0.0.1:", "http://localhost:")) and not listens(
        host, int(port), POOL_TIMEOUT_S
    ):
        raise ClusterUnreachable(
            f"no worker pool listens at {settings.worker_pool}: start one with `make flink-up`, or set"
            " flink.worker_pool"
        )
    return {job.job_id for job in jobs(settings.url)}


def progress(url: str, before: set[str]) -> str:
    """How the job that was submitted last stands, on one line."""
    try:
        mine = [job for job in jobs(url) if job.job_id not in before]
        if not mine:
            return "Flink: being submitted"
        found = metrics(url, mine[0].job_id)
    except (ClusterUnreachable, JobRefused) as error:
        return str(error)
    restarts = f", {found.restarts} restarts" if found.restarts else ""
    tasks = f"{mine[0].tasks.finished + mine[0].tasks.running} of {mine[0].tasks.total} tasks up"
    return f"Flink: {mine[0].state}, {tasks}, {found.records_read:,} records read{restarts}"

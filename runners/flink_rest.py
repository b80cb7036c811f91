"""Flink's REST API: what runs, and cancelling, saving and draining it.

https://nightlies.apache.org/flink/flink-docs-release-1.19/docs/ops/rest_api/
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import ClusterUnreachable, JobRefused, WrongVersion

TIMEOUT_S = 10.0
SAVEPOINT_TIMEOUT_S = 600.0
POLL_S = 0.25
MAX_ANSWER_BYTES = 16 * 1024 * 1024
MOST_FAILURES = 8
"""That are asked for; Flink keeps 16."""
ENDED = {"FINISHED", "CANCELED", "FAILED"}
EXCEPTION = re.compile(r"^(?:[\w$]+\.)+[\w$]+: ")
JOB_ID = re.compile(r"[0-9a-f]{32}")


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


Parsed = TypeVar("Parsed", bound=_Answer)


class Overview(_Answer):
    """The cluster: its version, and its task slots."""

    version: str = Field(alias="flink-version")
    taskmanagers: int
    slots: int = Field(alias="slots-total")
    slots_free: int = Field(alias="slots-available")


class Tasks(_Answer):
    """Tasks of a job, by what they do."""

    total: int
    running: int = 0
    finished: int = 0


class Job(_Answer):
    """A job as the list has it.

    Args:
        state: CREATED, RUNNING, RESTARTING, FAILING, FAILED, CANCELLING, CANCELED, FINISHED or SUSPENDED.
        started_ms: since 1970.
    """

    job_id: str = Field(alias="jid")
    name: str
    state: str
    started_ms: int = Field(alias="start-time")
    duration_ms: int = Field(alias="duration")
    tasks: Tasks

    @property
    def started_at(self) -> datetime:
        return datetime.fromtimestamp(self.started_ms / 1000, UTC)

    @property
    def ended(self) -> bool:
        return self.state in ENDED


class _Jobs(_Answer):
    jobs: tuple[Job, ...]


class _Counts(_Answer):
    restored: int = 0
    completed: int = 0
    failed: int = 0


class _Completed(_Answer):
    taken_ms: int = Field(alias="trigger_timestamp")
    size_bytes: int = Field(default=0, alias="state_size")
    path: str | None = Field(default=None, alias="external_path")


class _Latest(_Answer):
    completed: _Completed | None = None


class Checkpoints(_Answer):
    """What is kept of a job's state: how often, how big, and where."""

    counts: _Counts
    latest: _Latest


@dataclass(frozen=True, slots=True)
class JobMetrics:
    """What a job has done.

    Args:
        records_read: by all its steps, from other steps.
        restarts: since it was submitted.
        failure: why it restarted or failed last, one line.
    """

    records_read: int
    checkpoints_completed: int
    checkpoints_failed: int
    checkpoint_bytes: int
    checkpoint_path: str | None
    restarts: int
    failure: str | None


def overview(url: str) -> Overview:
    """The cluster at `url`.

    Raises:
        ClusterUnreachable: nothing answers there, or not Flink.
    """
    return _parsed(Overview, url, "/overview")


def check_version(url: str, version: str) -> Overview:
    """As `overview`, of the version that Beam's job server was built for.

    Args:
        version: major and minor.

    Raises:
        WrongVersion: it is another.
    """
    found = overview(url)
    if not found.version.startswith(f"{version}."):
        raise WrongVersion(
            f"the cluster at {url} is Flink {found.version}, expected {version}: Beam's job server is made for"
            " one version, flink.version"
        )
    return found


def jobs(url: str) -> list[Job]:
    """All jobs that the cluster remembers, the newest first."""
    found = _parsed(_Jobs, url, "/jobs/overview").jobs
    return sorted(found, key=lambda job: job.started_ms, reverse=True)


def job(url: str, job_id: str) -> Job:
    """One job.

    Raises:
        JobRefused: the cluster does not know it.
    """
    return _parsed(Job, url, f"/jobs/{_checked(job_id)}", lambda body: {**body, "tasks": _tasks(body)})


def metrics(url: str, job_id: str) -> JobMetrics:
    """What a job has done so far.

    Raises:
        JobRefused: the cluster does not know it.
    """
    path = f"/jobs/{_checked(job_id)}"
    details = _asked(url, "GET", path)
    checkpoints = _checkpoints(url, path)
    restarts = _asked(url, "GET", f"{path}/metrics", params={"get": "numRestarts"})
    latest = checkpoints.latest.completed
    steps = details.get("vertices", [])
    return JobMetrics(
        records_read=sum(int(step.get("metrics", {}).get("read-records", 0)) for step in steps),
        checkpoints_completed=checkpoints.counts.completed,
        checkpoints_failed=checkpoints.counts.failed,
        checkpoint_bytes=latest.size_bytes if latest else 0,
        checkpoint_path=latest.path if latest else None,
        restarts=next((int(float(one["value"])) for one in restarts if one.get("value")), 0),
        failure=_failure(_asked(url, "GET", f"{path}/exceptions", params={"maxExceptions": "1"})),
    )


def failures(url: str, job_id: str) -> list[str]:
    """Java's stack traces of what a job failed or restarted for, the newest `MOST_FAILURES` of them.

    Raises:
        JobRefused: the cluster does not know it.
    """
    params = {"maxExceptions": str(MOST_FAILURES)}
    body = _asked(url, "GET", f"/jobs/{_checked(job_id)}/exceptions", params=params)
    return [str(entry.get("stacktrace", "")) for entry in body.get("exceptionHistory", {}).get("entries", [])]


def _checkpoints(url: str, path: str) -> Checkpoints:
    """None of a batch job, of which Flink says that it has no such page."""
    try:
        return _parsed(Checkpoints, url, f"{path}/checkpoints")
    except JobRefused:
        return Checkpoints(counts=_Counts(), latest=_Latest())


def cancel(url: str, job_id: str) -> None:
    """Ask for the end of a job, at once; `wait` for it.

    Raises:
        JobRefused: the cluster does not know it, or it has ended.
    """
    _asked(url, "PATCH", f"/jobs/{_checked(job_id)}", params={"mode": "cancel"})


def savepoint(url: str, job_id: str, timeout_s: float = SAVEPOINT_TIMEOUT_S) -> str:
    """Write a job's state; the job goes on.

    Returns:
        Where it is; a job can be started from there.
    Raises:
        JobRefused: it cannot be saved now.
    """
    path = f"/jobs/{_checked(job_id)}"
    asked = _asked(url, "POST", f"{path}/savepoints", json={"cancel-job": False})
    return _saved(url, path, asked["request-id"], timeout_s)


def stop(url: str, job_id: str, timeout_s: float = SAVEPOINT_TIMEOUT_S) -> str:
    """End a job once it has finished what it has read, with a savepoint.

    Without Flink's own `drain`, which is for windows and timers that wait for the end of time: headrace has none, and
    a polling source of Beam 2.62 turns for ever then, until its TaskManager is given up.

    Returns:
        Where its state is.
    Raises:
        JobRefused: it cannot be stopped now.
    """
    path = f"/jobs/{_checked(job_id)}"
    asked = _asked(url, "POST", f"{path}/stop", json={"drain": False})
    return _saved(url, path, asked["request-id"], timeout_s)


def wait(url: str, job_id: str, timeout_s: float, seen: Callable[[Job], None] = lambda job: None) -> Job:
    """A job at its end.

    Args:
        seen: told how it stands, again and again.
    Raises:
        JobRefused: it goes on for longer.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = job(url, job_id)
        seen(found)
        if found.ended:
            return found
        if time.monotonic() > deadline:
            raise JobRefused(f"job {job_id} is still {found.state} after {timeout_s:.0f} s")
        time.sleep(POLL_S)


def _tasks(body: Any) -> dict[str, int]:
    counts = {name.lower(): number for name, number in body.get("status-counts", {}).items()}
    return {"total": sum(counts.values()), **{key: counts.get(key, 0) for key in ("running", "finished")}}


def _saved(url: str, path: str, request: str, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while True:
        body = _asked(url, "GET", f"{path}/savepoints/{request}")
        if body.get("status", {}).get("id") == "COMPLETED":
            operation = body.get("operation", {})
            if "location" in operation:
                return str(operation["location"])
            cause = operation.get("failure-cause", {}).get("stack-trace", "")
            raise JobRefused(f"the state could not be written: {root_cause(cause)}")
        if time.monotonic() > deadline:
            raise JobRefused(f"the state is not written after {timeout_s:.0f} s: see the job's checkpoints")
        time.sleep(POLL_S)


def _failure(body: Any) -> str | None:
    entries = body.get("exceptionHistory", {}).get("entries", [])
    return root_cause(entries[0].get("stacktrace", "")) if entries else None


def root_cause(trace: str) -> str:
    """What began a Java stack trace, without the class of the exception; at most 300 characters."""
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    said = causes[-1] if causes else next(iter(lines), "no reason was given")
    return EXCEPTION.sub("", said)[:300]


def _checked(job_id: str) -> str:
    if not JOB_ID.fullmatch(job_id):
        raise JobRefused(
            f"{job_id[:40]!r} is no job id, expected 32 hexadecimal digits: see `headrace job list`"
        )
    return job_id


def _parsed(
    kind: type[Parsed], url: str, path: str, prepare: Callable[[Any], Any] = lambda body: body
) -> Parsed:
    try:
        return kind.model_validate(prepare(_asked(url, "GET", path)))
    except ValidationError:
        raise ClusterUnreachable(f"what answers at {url} is not Flink's REST API: see flink.url") from None


def _asked(
    url: str,
    method: str,
    path: str,
    params: dict[str, str] | None = None,
    json: dict[str, Any] | None = None,
) -> Any:
    try:
        with httpx.stream(method, url + path, params=params, json=json, timeout=TIMEOUT_S) as answer:
            body = bytearray()
            for part in answer.iter_bytes():
                body += part
                if len(body) > MAX_ANSWER_BYTES:
                    raise ClusterUnreachable(f"{url} answers with more than {MAX_ANSWER_BYTES} bytes")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ClusterUnreachable(
            f"no Flink answers at {url} ({type(error).__name__}): start one with `make flink-up`, or set flink.url"
        ) from None
    try:
        found = httpx.Response(answer.status_code, content=bytes(body)).json() if body else {}
    except ValueError:
        raise ClusterUnreachable(f"what answers at {url} is not Flink's REST API: see flink.url") from None
    if answer.is_success:
        return found
    said = found.get("errors", []) if isinstance(found, dict) else []
    reason = root_cause("\n".join(map(str, said)))
    if "/jobs/" in path and answer.status_code in (400, 404, 409):
        raise JobRefused(f"Flink does not do that: {reason}")
    raise ClusterUnreachable(f"{url}{path} answers {answer.status_code}: {reason}")

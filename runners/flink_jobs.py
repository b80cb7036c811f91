"""Jobs of the Flink cluster as plain rows, for `headrace job list` and `headrace status`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from runners import flink_rest
from schemas.errors import ClusterUnreachable, JobRefused

SHOWN = 20
"""Metrics are asked for job by job."""


def job_rows(url: str) -> list[dict[str, Any]]:
    """The jobs that the cluster remembers, the newest first.

    Raises:
        ClusterUnreachable: no Flink answers.
    """
    rows = []
    for job in flink_rest.jobs(url)[:SHOWN]:
        with suppress(JobRefused):  # the cluster has forgotten it meanwhile
            rows.append(_row(url, job))
    return rows


def job_status(url: str) -> list[dict[str, Any]]:
    """As `job_rows`; where no Flink answers, a row that says so."""
    try:
        return job_rows(url)
    except ClusterUnreachable as error:
        return [{"state": "unreachable", "last_failure": str(error)}]


def _row(url: str, job: flink_rest.Job) -> dict[str, Any]:
    done = flink_rest.metrics(url, job.job_id)
    return {
        "job": job.job_id,
        "name": job.name,
        "state": job.state,
        "started_at": job.started_at,
        "duration_s": round(job.duration_ms / 1000, 1),
        "tasks": f"{job.tasks.running + job.tasks.finished} of {job.tasks.total}",
        "records_read": done.records_read,
        "checkpoints": done.checkpoints_completed,
        "checkpoints_failed": done.checkpoints_failed,
        "state_bytes": done.checkpoint_bytes,
        "restarts": done.restarts,
        "last_failure": done.failure,
    }

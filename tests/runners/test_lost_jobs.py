"""A job that its cluster lost is submitted again; one that failed, or has no workers, is not."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
import pytest

from runners import direct
from runners.direct import RESUBMISSIONS, run_bounded
from runners.targets import HERE
from schemas.errors import BadConfig, ClusterUnreachable, JobFailed, JobLost, PipelineError


class _Failing:
    """A pipeline whose step fails the first times; a file counts them, since steps are pickled.

    Args:
        error: of headrace's own; None for one of anybody's.
    """

    def __init__(self, folder: Path, times: int, error: PipelineError | None = None) -> None:
        self._tries = folder / "tries"
        self._tries.write_bytes(b"")
        self._times = times
        self._error = error

    def __call__(self, pipeline: beam.Pipeline) -> None:
        tries, times, failure = self._tries, self._times, self._error or RuntimeError("the connection broke")

        def work(element: int) -> int:
            with tries.open("ab") as file:
                file.write(b"x")
            if tries.stat().st_size <= times:
                raise failure
            return element

        pipeline | beam.Create([1]) | beam.Map(work)

    @property
    def tries(self) -> int:
        return self._tries.stat().st_size


def test_a_job_that_its_cluster_lost_is_submitted_again(tmp_path: Path) -> None:
    pipeline, notes = _Failing(tmp_path, times=2), list[str]()
    run_bounded(pipeline, replace(HERE, lost_job=lambda: True), notes.append)
    assert pipeline.tries == 3
    assert notes == ["the cluster was started anew: submitting the job again"] * 2


def test_a_job_that_is_lost_again_and_again_fails_in_one_line(tmp_path: Path) -> None:
    pipeline = _Failing(tmp_path, times=100)
    with pytest.raises(JobLost, match=r"^the job was lost 3 times, last with: .*the connection broke"):
        run_bounded(pipeline, replace(HERE, lost_job=lambda: True))
    assert pipeline.tries == RESUBMISSIONS + 1


def test_a_job_that_failed_on_a_cluster_fails_in_one_line(tmp_path: Path) -> None:
    pipeline = _Failing(tmp_path, times=100)
    with pytest.raises(JobFailed, match=r"^the job failed: .*the connection broke") as failed:
        run_bounded(pipeline, replace(HERE, lost_job=lambda: False))
    assert "\n" not in str(failed.value)
    assert pipeline.tries == 1


def test_a_job_without_workers_is_ended_while_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "PROGRESS_S", 0.01)
    ended = threading.Event()

    class Elsewhere:
        """The result of a job that is submitted to a cluster, which runs until somebody ends it."""

        def wait_until_finish(self) -> None:
            assert ended.wait(30)
            raise RuntimeError("failed in state CANCELLED: finishConnect(..) failed: Connection refused")

    def without_workers(is_ended: bool) -> PipelineError | None:
        if is_ended:
            return ClusterUnreachable("no worker pool answers")
        ended.set()
        return None

    monkeypatch.setattr(beam.Pipeline, "run", lambda pipeline: Elsewhere())
    target = replace(HERE, without_workers=without_workers, lost_job=lambda: pytest.fail("it is not lost"))
    with pytest.raises(ClusterUnreachable, match=r"^no worker pool answers$"):
        run_bounded(lambda pipeline: None, target)


def test_an_error_of_our_own_is_not_tried_again(tmp_path: Path) -> None:
    pipeline = _Failing(tmp_path, times=100, error=BadConfig("postgres.dsn: no such file"))
    with pytest.raises(BadConfig, match=r"^postgres.dsn: no such file"):
        run_bounded(pipeline, replace(HERE, lost_job=lambda: pytest.fail("nobody needs to know")))
    assert pipeline.tries == 1

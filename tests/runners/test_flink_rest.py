"""What Flink's REST API says, and what becomes of a question it does not answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runners import flink_rest
from runners.flink_jobs import job_rows, job_status
from runners.job_server import free_port
from schemas.config import Model
from schemas.errors import ClusterUnreachable, JobRefused, WrongVersion
from tests.fakes.serving import serve
from tests.runners.fake_flink import JOB, UNKNOWN, FakeFlink
from tests.runners.world import Headrace
from transforms.embedders.models import space_of
from transforms.postgres import Store
from transforms.spaces import register_space


@pytest.fixture
def flink() -> FakeFlink:
    return FakeFlink()


@pytest.fixture
def url(flink: FakeFlink) -> Iterator[str]:
    with serve(flink) as address:
        yield address


def test_a_job_is_told_with_what_it_has_done(flink: FakeFlink, url: str) -> None:
    flink.job("RUNNING", running=2, finished=1)
    (row,) = job_rows(url)
    assert row["job"] == JOB
    assert (row["state"], row["tasks"], row["records_read"], row["restarts"]) == ("RUNNING", "3 of 3", 12, 2)
    assert (row["checkpoints"], row["checkpoints_failed"], row["state_bytes"]) == (2, 1, 265)
    assert row["last_failure"] is None
    assert row["started_at"].isoformat() == "2026-11-21T20:21:04.005000+00:00"


def test_a_batch_job_has_no_checkpoints(flink: FakeFlink, url: str) -> None:
    flink.job("RUNNING", running=3)
    flink.answers[f"/jobs/{JOB}/checkpoints"] = [
        (
            404,
            {
                "errors": [
                    "org.apache.flink.runtime.rest.NotFoundException: Checkpointing has not been enabled."
                ]
            },
        )
    ]
    (row,) = job_rows(url)
    assert (row["checkpoints"], row["checkpoints_failed"], row["state_bytes"]) == (0, 0, 0)
    assert row["records_read"] == 12


def test_the_status_has_the_jobs_of_the_configured_cluster_with_their_metrics(
    flink: FakeFlink, url: str, headrace: Headrace, write_config: Callable[[str], Path], database: Store
) -> None:
    with database.connect() as connection:
        register_space(connection, space_of(Model()), "vector", "acme")
    flink.job("RUNNING", running=2, finished=1)
    config = write_config(f'[flink]\nurl = "{url}"\n')
    code, out, err = headrace("status", "-c", config, "--json")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)["flink_jobs"]
    assert (code, row["job"], row["state"], row["tasks"]) == (0, JOB, "RUNNING", "3 of 3")
    assert (row["records_read"], row["checkpoints"], row["restarts"]) == (12, 2, 2)
    code, out, _ = headrace("status", "-c", config)
    assert (code, "flink jobs" in out) == (0, True)


def test_a_job_that_the_cluster_forgets_while_it_is_asked_is_left_out(flink: FakeFlink, url: str) -> None:
    flink.job("FINISHED", finished=3)
    flink.answers[f"/jobs/{JOB}"] = []
    assert job_rows(url) == job_status(url) == []


def test_the_status_says_that_a_cluster_is_away_instead_of_failing() -> None:
    (row,) = job_status(f"http://127.0.0.1:{free_port()}")
    assert row["state"] == "unreachable"
    assert row["last_failure"].startswith("no Flink answers at")


def test_a_job_that_failed_says_what_began_it(flink: FakeFlink, url: str) -> None:
    flink.job("FAILED")
    trace = (
        "org.apache.flink.runtime.JobException: Recovery is suppressed\n\tat org.apache.flink.A.b(A.java:1)\n"
        "Caused by: java.lang.Exception: in the middle\n\tat x.Y.z(Y.java:2)\n"
        "Caused by: java.io.IOException: the worker is gone\n\t... 3 more\n"
    )
    flink.answers[f"/jobs/{JOB}/exceptions"] = [
        (200, {"exceptionHistory": {"entries": [{"stacktrace": trace}]}})
    ]
    assert flink_rest.metrics(url, JOB).failure == "the worker is gone"


def test_a_job_is_cancelled_and_waited_for(flink: FakeFlink, url: str) -> None:
    flink.job("CANCELLING", running=3)
    flink.job("CANCELED")
    path = f"/jobs/{JOB}"
    flink.answers[path].insert(0, (202, {}))
    flink_rest.cancel(url, JOB)
    seen: list[str] = []
    ended = flink_rest.wait(url, JOB, 30, lambda job: seen.append(job.state))
    assert flink.asked[0] == ("PATCH", path, None)
    assert seen == ["CANCELLING", "CANCELED"]
    assert ended.state == "CANCELED"


def test_a_job_that_goes_on_is_not_waited_for_for_ever(flink: FakeFlink, url: str) -> None:
    flink.job("RUNNING", running=3)
    with pytest.raises(JobRefused, match=rf"job {JOB} is still RUNNING after 0 s"):
        flink_rest.wait(url, JOB, 0)


def test_a_stopped_job_says_where_its_state_is(flink: FakeFlink, url: str) -> None:
    flink.answers[f"/jobs/{JOB}/stop"] = [(202, {"request-id": "5f"})]
    flink.answers[f"/jobs/{JOB}/savepoints/5f"] = [
        (200, {"status": {"id": "IN_PROGRESS"}}),
        (200, {"status": {"id": "COMPLETED"}, "operation": {"location": "file:/state/savepoint-1"}}),
    ]
    assert flink_rest.stop(url, JOB) == "file:/state/savepoint-1"
    assert flink.asked[0] == ("POST", f"/jobs/{JOB}/stop", {"drain": False})


def test_a_savepoint_that_fails_says_why(flink: FakeFlink, url: str) -> None:
    flink.answers[f"/jobs/{JOB}/savepoints"] = [(202, {"request-id": "5f"})]
    cause = {
        "class": "x",
        "stack-trace": "java.util.concurrent.CompletionException: no room\n\tat a.B.c(B.java)",
    }
    flink.answers[f"/jobs/{JOB}/savepoints/5f"] = [
        (200, {"status": {"id": "COMPLETED"}, "operation": {"failure-cause": cause}})
    ]
    with pytest.raises(JobRefused, match=r"^the state could not be written: no room$"):
        flink_rest.savepoint(url, JOB)


def test_a_job_that_nobody_knows_is_one_line(url: str) -> None:
    with pytest.raises(JobRefused, match=r"^Flink does not do that: Not found: /jobs/0"):
        flink_rest.cancel(url, UNKNOWN)


@pytest.mark.parametrize("job_id", ["../overview", "", "82F85EBC", "x" * 1000])
def test_what_is_no_job_id_is_not_asked_for(flink: FakeFlink, url: str, job_id: str) -> None:
    with pytest.raises(JobRefused, match=r"is no job id"):
        flink_rest.cancel(url, job_id)
    assert flink.asked == []


def test_a_cluster_of_another_version_is_refused(flink: FakeFlink, url: str) -> None:
    flink.answers["/overview"] = [(200, {**flink.answers["/overview"][0][1], "flink-version": "1.20.5"})]
    with pytest.raises(WrongVersion, match=r"is Flink 1\.20\.5, expected 1\.19"):
        flink_rest.check_version(url, "1.19")


def test_where_nothing_answers_the_line_says_what_to_do() -> None:
    with pytest.raises(ClusterUnreachable, match=r"no Flink answers at .*make flink-up"):
        flink_rest.overview(f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize("body", [b"<html>It works!</html>", b"[]", b'{"version": 3}', b""])
def test_what_is_not_flink_is_not_taken_for_it(flink: FakeFlink, url: str, body: bytes) -> None:
    flink.answers["/overview"] = [(200, body)]
    with pytest.raises(ClusterUnreachable, match=r"is not Flink's REST API"):
        flink_rest.overview(url)


def test_an_answer_without_end_is_cut_off(flink: FakeFlink, url: str) -> None:
    flink.answers["/jobs/overview"] = [(200, b" " * (flink_rest.MAX_ANSWER_BYTES + 1))]
    with pytest.raises(ClusterUnreachable, match=r"answers with more than"):
        flink_rest.jobs(url)

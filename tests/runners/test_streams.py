"""What is said before a streaming job is submitted, and how long one lives."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from apache_beam.runners.runner import PipelineState

from runners import flink, streams
from runners.streams import life_s
from runners.targets import Runner, Target
from schemas.config import Config
from schemas.engines import Flink
from schemas.errors import ClusterUnreachable
from tests.fakes.serving import serve
from tests.runners.fake_flink import JOB, FakeFlink
from tests.runners.memory_source import configured
from tests.runners.world import Headrace


@pytest.mark.parametrize(
    ("runner", "interval_s", "expected_s"),
    [
        (Runner.FLINK, 0.1, 3600),
        (Runner.FLINK, 1, 10_000),
        (Runner.FLINK, 60, 86_400),
        (Runner.PRISM, 1, math.inf),
    ],
)
def test_a_job_on_flink_is_replaced_before_its_state_has_grown_much(
    make_config: Callable[..., Config], runner: Runner, interval_s: float, expected_s: float
) -> None:
    sources = (configured("slow", 3600), configured("tickets", interval_s))
    assert life_s(make_config().model_copy(update={"sources": sources}), runner) == expected_s


def test_a_job_that_cannot_be_ended_is_not_joined_by_another(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[object] = []

    def begin(job: streams._Job, given: object) -> None:
        begun.append(given)
        job._ends_s, job._result = 0.0, SimpleNamespace(state=PipelineState.RUNNING)

    monkeypatch.setattr(streams._Job, "_begin", begin)
    monkeypatch.setattr(flink, "CANCEL_TIMEOUT_S", 0.0)
    api = FakeFlink()
    with serve(api) as url:
        config = make_config().model_copy(update={"flink": Flink(url=url)})
        api.job("RUNNING", running=3, name=flink.watch_job_name(config))
        job = streams._Job(config, Target(()), Runner.FLINK, [])
        job.look_after()
        assert ("PATCH", f"/jobs/{JOB}", None) in api.asked
        assert len(begun) == 1
        api.job("CANCELED", name=flink.watch_job_name(config))
        job.look_after()
        assert len(begun) == 2


def test_a_job_that_no_worker_takes_ends_the_watch(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams._Job, "_begin", lambda job, given: None)
    api = FakeFlink()
    with serve(api) as url:
        config = make_config().model_copy(update={"flink": Flink(url=url)})
        api.job("RESTARTING", name=flink.watch_job_name(config))
        api.job("CANCELED", name=flink.watch_job_name(config))
        api.answers["/jobs/overview"][0][1]["jobs"][0]["state"] = "RESTARTING"
        refused = "io.grpc.StatusRuntimeException: UNAVAILABLE\n at BeamFnExternalWorkerPoolGrpc.startWorker"
        api.answers[f"/jobs/{JOB}/exceptions"] = [
            (200, {"exceptionHistory": {"entries": [{"stacktrace": refused}] * 3}})
        ]
        with pytest.raises(ClusterUnreachable, match="no worker pool answers"):
            streams._Job(config, Target(()), Runner.FLINK, []).look_after()


def test_watching_what_is_on_this_machine_is_refused_on_dataflow(
    headrace: Headrace, write_config: Callable[[str], Path]
) -> None:
    source = '[[sources]]\ntype = "git"\nname = "code"\npath = "."\n'
    code, out, err = headrace("watch", "-c", write_config(source), "--runner", "dataflow")
    assert (code, out) == (1, "")
    assert err == (
        "headrace: source 'code' is on this machine, where Dataflow's workers are not: watch it from here, without"
        " --runner\n"
    )


def test_options_of_beam_need_a_runner(headrace: Headrace, write_config: Callable[[str], Path]) -> None:
    code, _, err = headrace("watch", "-c", write_config(""), "--", "--parallelism=3")
    assert code == 1
    assert (
        err == "headrace: watch in this process takes no options of Beam's: --parallelism=3 needs --runner\n"
    )

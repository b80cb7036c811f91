"""What is said before a streaming job is submitted, and what a killed watcher left behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runners.streams import cancel_jobs, job_name, life_s
from runners.targets import Runner
from schemas.config import Config
from schemas.engines import Flink
from schemas.errors import ClusterUnreachable
from tests.fakes.serving import serve
from tests.runners.fake_flink import JOB, FakeFlink
from tests.runners.memory_source import configured
from tests.runners.world import Headrace


@pytest.fixture
def flink() -> FakeFlink:
    return FakeFlink()


@pytest.fixture
def config(flink: FakeFlink, make_config: Callable[..., Config]) -> Iterator[Config]:
    with serve(flink) as url:
        yield make_config().model_copy(update={"flink": Flink(url=url)})


def test_a_job_that_a_killed_watcher_left_is_ended_first(flink: FakeFlink, config: Config) -> None:
    flink.job("RUNNING", running=3, name=job_name(config))
    flink.job("CANCELED", name=job_name(config))
    flink.answers["/jobs/overview"][0][1]["jobs"][0]["state"] = "RUNNING"
    assert cancel_jobs(config) == 1
    assert [(method, path) for method, path, _ in flink.asked][:2] == [
        ("GET", "/jobs/overview"),
        ("PATCH", f"/jobs/{JOB}"),
    ]


@pytest.mark.parametrize(("state", "name"), [("RUNNING", "headrace-watch-other"), ("FINISHED", None)])
def test_a_job_of_another_client_or_one_that_has_ended_is_left_alone(
    flink: FakeFlink, config: Config, state: str, name: str | None
) -> None:
    flink.job(state, name=name or job_name(config))
    assert cancel_jobs(config) == 0
    assert [method for method, _, _ in flink.asked] == ["GET"]


def test_where_no_flink_answers_the_line_says_what_to_do(make_config: Callable[..., Config]) -> None:
    config = make_config().model_copy(update={"flink": Flink(url="http://127.0.0.1:1")})
    with pytest.raises(ClusterUnreachable, match="start one with `make flink-up`"):
        cancel_jobs(config)


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


def test_watching_on_dataflow_is_refused(headrace: Headrace, write_config: Callable[[str], Path]) -> None:
    code, out, err = headrace("watch", "-c", write_config(""), "--runner", "dataflow")
    assert (code, out) == (1, "")
    assert err == (
        "headrace: watch does not run on dataflow: follow with --runner prism or flink, or in this process without\n"
    )


def test_options_of_beam_need_a_runner(headrace: Headrace, write_config: Callable[[str], Path]) -> None:
    code, _, err = headrace("watch", "-c", write_config(""), "--", "--parallelism=3")
    assert code == 1
    assert (
        err == "headrace: watch in this process takes no options of Beam's: --parallelism=3 needs --runner\n"
    )

"""What is said before a streaming job is submitted, and how long one lives."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from runners.streams import life_s
from runners.targets import Runner
from schemas.config import Config
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

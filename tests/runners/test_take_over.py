"""What a killed process left on a Flink cluster is ended before another job is submitted; and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from runners import flink
from runners.flink import take_over, watch_job_name
from schemas.config import Config
from schemas.engines import Flink
from schemas.errors import ClusterUnreachable
from tests.fakes.serving import serve
from tests.runners.fake_flink import JOB, OVERVIEW, FakeFlink
from tests.runners.world import DSN

RUN = "0123456789ab"


@pytest.fixture
def api() -> FakeFlink:
    return FakeFlink()


@pytest.fixture
def config(api: FakeFlink, make_config: Callable[..., Config]) -> Iterator[Config]:
    with serve(api) as url:
        yield make_config().model_copy(update={"flink": Flink(url=url)})


def _run_job_name(config: Config) -> str:
    return watch_job_name(config).replace("-watch-", "-run-") + f"-{RUN}"


def _is_left(api: FakeFlink, name: str) -> None:
    """It runs, and ends when it is cancelled."""
    api.job("RUNNING", running=3, name=name)
    api.job("CANCELED", name=name)
    api.answers["/jobs/overview"][0][1]["jobs"][0]["state"] = "RUNNING"


@pytest.mark.parametrize("name_of", [watch_job_name, _run_job_name])
def test_a_job_that_a_killed_watcher_or_run_left_is_ended_first(
    api: FakeFlink, config: Config, name_of: Callable[[Config], str]
) -> None:
    _is_left(api, name_of(config))
    assert take_over(config) == (
        "ended 1 job on the cluster that a killed headrace had left; what was stored stays"
    )
    assert [(method, path) for method, path, _ in api.asked][:2] == [
        ("GET", "/jobs/overview"),
        ("PATCH", f"/jobs/{JOB}"),
    ]


def test_the_slots_of_such_a_job_are_waited_for(
    api: FakeFlink, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flink, "RECOVERY_POLL_S", 0.01)
    _is_left(api, watch_job_name(config))
    api.answers["/overview"] = [(200, {**OVERVIEW, "slots-available": free}) for free in (0, 1, 4)]
    assert take_over(config) is not None
    assert [path for _, path, _ in api.asked].count("/overview") == 3


def test_the_slots_of_others_are_not(api: FakeFlink, config: Config) -> None:
    api.answers["/overview"] = [(200, {**OVERVIEW, "slots-available": 1})]
    with pytest.raises(ClusterUnreachable, match=r"has 1 of 4 task slots free, expected 2"):
        take_over(config)
    assert [path for _, path, _ in api.asked].count("/overview") == 1


@pytest.mark.parametrize("name_of", [watch_job_name, _run_job_name])
def test_jobs_of_another_client_or_database_and_those_that_have_ended_are_left_alone(
    api: FakeFlink, config: Config, name_of: Callable[[Config], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = name_of(config)
    others = [config.model_copy(update={"client": client}) for client in ("acm", "acme-x", f"acme-{RUN}")]
    names = ["headrace-run-1", f"{mine}-{RUN}", *map(name_of, others)]
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv(DSN, "postgresql://elsewhere/acme")
        names.append(name_of(config))
    assert mine not in names
    for name in names:
        api.job("RUNNING", running=3, name=name)
        assert take_over(config) is None, name
    api.job("FINISHED", name=mine)
    assert take_over(config) is None
    assert "PATCH" not in [method for method, _, _ in api.asked]


def test_a_password_has_no_part_in_a_jobs_name(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for password in ("one", "two"):
        monkeypatch.setenv(DSN, f"postgresql://me:{password}@elsewhere/acme")
        names.add(watch_job_name(config))
    assert len(names) == 1


def test_where_no_flink_answers_the_line_says_what_to_do(make_config: Callable[..., Config]) -> None:
    config = make_config().model_copy(update={"flink": Flink(url="http://127.0.0.1:1")})
    with pytest.raises(ClusterUnreachable, match="start one with `make flink-up`"):
        take_over(config)

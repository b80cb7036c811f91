"""What is missing for a run on Flink is said in one line before anything is submitted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from runners import flink
from runners.flink_cluster import Ports, commands, java_launcher, java_release, write_configuration
from runners.flink_rest import MOST_FAILURES
from runners.job_server import free_port, serving
from schemas.config import Config
from schemas.engines import Flink
from schemas.errors import ClusterUnreachable, DigestMismatch, MissingFile, MissingTool, WrongVersion
from tests.fakes.serving import serve
from tests.runners.fake_flink import JOB, FakeFlink
from tests.runners.world import Headrace, issue, write_export

RELEASES = {
    'openjdk version "17.0.15" 2025-04-15': 17,
    'java version "1.8.0_402"': 8,
    'openjdk version "21" 2023-09-19': 21,
    "command not understood": None,
}


@pytest.fixture
def api() -> FakeFlink:
    return FakeFlink()


@pytest.fixture
def url(api: FakeFlink) -> Iterator[str]:
    with serve(api) as address:
        yield address


def _java(folder: Path, release: str) -> Path:
    """A java that says its version, and fails at all else."""
    program = folder / "bin" / "java"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$1" = -version ] || exit 3\necho \'openjdk version "{release}"\' >&2\n'
    )
    program.chmod(0o755)
    return folder


def _jar(folder: Path) -> Flink:
    jar = folder / "job-server.jar"
    jar.write_bytes(b"not really")
    return Flink(job_server_jar=jar, job_server_sha256=hashlib.sha256(b"not really").hexdigest())


@pytest.mark.parametrize(("said", "release"), RELEASES.items())
def test_the_release_of_java_is_told_from_what_it_says(said: str, release: int | None) -> None:
    assert java_release(said) == release


def test_without_java_the_line_says_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match=r"no java on the PATH, which Flink needs: install Java 17"):
        java_launcher()


def test_an_old_java_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(_java(tmp_path, "1.8.0_402")))
    with pytest.raises(WrongVersion, match=r"is Java 8, Flink needs 11 or newer"):
        java_launcher()


def test_without_the_jars_the_line_says_to_fetch_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HEADRACE_TOOLS", str(tmp_path))
    with pytest.raises(MissingTool, match=r"Flink 1\.19\.3 is not in .*: run `make flink`"):
        flink.checked_class_path(Flink())


def test_for_another_version_a_job_server_must_be_named() -> None:
    with pytest.raises(
        MissingFile, match=r"for Flink 1\.19, not 2\.2: take beam-runners-flink-2\.2-job-server"
    ):
        flink.checked_class_path(Flink(version="2.2"))


def test_a_job_server_with_another_digest_is_refused(tmp_path: Path) -> None:
    settings = _jar(tmp_path)
    assert flink.checked_class_path(settings) == str(settings.job_server_jar)
    (tmp_path / "job-server.jar").write_bytes(b"another")
    with pytest.raises(
        DigestMismatch, match=rf"has sha256 .*job_server_sha256 is {settings.job_server_sha256}"
    ):
        flink.checked_class_path(settings)
    with pytest.raises(DigestMismatch, match=r"job_server_sha256 is none"):
        flink.checked_class_path(settings.model_copy(update={"job_server_sha256": None}))
    (tmp_path / "job-server.jar").unlink()
    with pytest.raises(MissingFile, match=r"job-server\.jar does not exist"):
        flink.checked_class_path(settings)


def test_a_cluster_without_free_slots_is_refused(api: FakeFlink, url: str) -> None:
    api.answers["/overview"] = [(200, {**api.answers["/overview"][0][1], "slots-available": 1})]
    with pytest.raises(ClusterUnreachable, match=r"has 1 of 4 task slots free, expected 2"):
        flink.check_ready(Flink(url=url))


def test_a_cluster_without_workers_is_refused(url: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ClusterUnreachable, match=rf"no worker pool listens at {address}: start one with"):
        flink.check_ready(Flink(url=url, worker_pool=address))


def test_the_command_line_says_it_in_one_line_and_submits_nothing(
    api: FakeFlink, url: str, headrace: Headrace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(_java(tmp_path, "17.0.15")))
    settings = _jar(tmp_path)
    export = write_export(tmp_path / "a.jsonl", [issue(1)])
    config = tmp_path / "headrace.toml"
    config.write_text(
        f'[flink]\nurl = "{url}"\nworker_pool = "127.0.0.1:{free_port()}"\njob_server_jar = "job-server.jar"\n'
        f'job_server_sha256 = "{settings.job_server_sha256}"\n'
        f'[[sources]]\ntype = "export"\nname = "tickets"\npaths = ["{export.name}"]\n'
    )
    code, out, said = headrace("run", "-c", config, "--runner", "flink")
    assert (code, out) == (1, "")
    assert said.startswith("headrace: no worker pool listens at 127.0.0.1:")
    assert said.count("\n") == 1
    assert not (tmp_path / ".headrace").exists()


@pytest.mark.parametrize("command", ["run", "watch"])
def test_a_job_is_given_no_other_name_than_headrace_knows_it_by(
    command: str, headrace: Headrace, tmp_path: Path
) -> None:
    config = tmp_path / "headrace.toml"
    config.write_text("")
    code, _, err = headrace(command, "-c", config, "--runner", "flink", "--", "--job_name=mine")
    assert code == 1
    assert err.startswith("headrace: --job_name is headrace's own on Flink")
    assert err.count("\n") == 1


def test_a_job_server_that_ends_at_once_names_its_log(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(_java(tmp_path, "17.0.15")))
    pool_port = int(url.rpartition(":")[2])  # anything that listens
    settings = _jar(tmp_path).model_copy(update={"url": url, "worker_pool": f"127.0.0.1:{pool_port}"})
    config = Config(data_dir=tmp_path / "data", flink=settings)
    with (
        pytest.raises(
            ClusterUnreachable, match=r"Beam's job server ended at once with exit code 3: see .*\.log"
        ),
        flink.opened(config),
    ):
        pytest.fail("it cannot have come up")


def test_a_server_that_never_listens_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterUnreachable, match=r"the server did not come up within 0 s"),
        serving("the server", lambda port: ["sleep", "60"], tmp_path / "log", timeout_s=0),
    ):
        pytest.fail("it cannot have come up")


def test_people_tune_seconds_and_flink_gets_milliseconds() -> None:
    settings = Flink(parallelism=3, checkpoint_interval_s=2.5, checkpoint_timeout_s=60)
    options = flink.options(settings, "127.0.0.1:4000", "headrace-1")
    assert {
        "--job_name=headrace-1",
        "--parallelism=3",
        "--checkpointing_interval=2500",
        "--checkpoint_timeout_millis=60000",
        "--job_endpoint=127.0.0.1:4000",
        "--environment_type=EXTERNAL",
        "--environment_config=127.0.0.1:50000",
    } <= set(options)


def test_progress_is_that_of_the_job_of_the_run(api: FakeFlink, url: str) -> None:
    assert flink.progress(url, "job") == "Flink: being submitted"
    api.job("RUNNING", running=2)
    assert flink.progress(url, "job") == "Flink: RUNNING, 2 of 3 tasks up, 12 records read, 2 restarts"
    assert flink.progress(url, "another") == "Flink: being submitted"
    assert flink.progress(f"http://127.0.0.1:{free_port()}", "job").startswith("no Flink answers at")


def test_a_job_that_the_cluster_knows_is_not_lost(api: FakeFlink, url: str) -> None:
    api.job("FAILED")
    assert not flink.lost_job(Flink(url=url), "job")


def test_a_cluster_that_was_started_anew_has_lost_its_job_once_it_can_take_another(
    api: FakeFlink, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flink, "RECOVERY_POLL_S", 0.01)
    ready = api.answers["/overview"][0]
    without_slots = (200, {**ready[1], "slots-available": 0})
    api.answers["/overview"] = [(503, {}), without_slots, without_slots, ready]
    pool = f"127.0.0.1:{url.rpartition(':')[2]}"  # anything that listens
    assert flink.lost_job(Flink(url=url, worker_pool=pool), "job")
    assert [path for _, path, _ in api.asked] == ["/jobs/overview", "/overview"] * 4


def test_a_cluster_that_does_not_come_back_is_not_waited_for_for_ever() -> None:
    with pytest.raises(ClusterUnreachable, match=r"no Flink answers at"):
        flink.lost_job(Flink(url=f"http://127.0.0.1:{free_port()}"), "job", timeout_s=0)


NO_POOL = """java.lang.Exception: The user defined 'open()' method caused an exception: UNAVAILABLE: io exception
\tat org.apache.beam.model.fnexecution.v1.BeamFnExternalWorkerPoolGrpc$Stub.startWorker(BeamFnExternalWorkerPool.java)
Caused by: java.net.ConnectException: finishConnect(..) failed: Connection refused"""
WORKER_DIED = """java.lang.RuntimeException: Error received from SDK harness for instruction 4
Caused by: UNAVAILABLE: io exception"""


def _failed(api: FakeFlink, *newest_first: str) -> None:
    entries = [{"exceptionName": "Exception", "stacktrace": trace} for trace in newest_first]
    api.answers[f"/jobs/{JOB}/exceptions"] = [(200, {"exceptionHistory": {"entries": entries}})]


def test_a_job_that_no_worker_takes_is_ended_and_said_so(
    api: FakeFlink, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flink, "CANCEL_TIMEOUT_S", 0.0)
    api.job("RESTARTING")
    api.job("CANCELED")
    api.answers["/jobs/overview"][0][1]["jobs"][0]["state"] = "RESTARTING"
    _failed(api, *[NO_POOL] * 3)
    said = flink.without_workers(Flink(url=url, worker_pool="workers:50000"), "job", ended=False)
    assert str(said) == (
        f"no worker pool answers the TaskManagers of {url} at workers:50000: start `python -m runners.worker_pool`"
        " beside each of them, or set flink.worker_pool"
    )
    assert ("PATCH", f"/jobs/{JOB}", None) in api.asked


def test_a_job_that_failed_at_once_for_want_of_workers_says_so(api: FakeFlink, url: str) -> None:
    api.job("FAILED")
    _failed(api, NO_POOL)
    assert flink.without_workers(Flink(url=url), "job", ended=False) is None
    assert "no worker pool" in str(flink.without_workers(Flink(url=url), "job", ended=True))
    assert not [one for one in api.asked if one[0] != "GET"]


@pytest.mark.parametrize(
    "newest_first",
    [
        (),
        (NO_POOL, NO_POOL),  # it may be on its way
        (NO_POOL, NO_POOL, NO_POOL, WORKER_DIED),  # there were workers
        (WORKER_DIED, NO_POOL, NO_POOL, NO_POOL),  # there are again
        (NO_POOL,) * MOST_FAILURES,  # what was before is not known
    ],
)
def test_a_job_that_may_have_workers_yet_is_left_to_flink(
    api: FakeFlink, url: str, newest_first: tuple[str, ...]
) -> None:
    api.job("RESTARTING")
    _failed(api, *newest_first)
    assert flink.without_workers(Flink(url=url), "job", ended=False) is None
    assert not [one for one in api.asked if one[0] != "GET"]


def test_a_job_whose_workers_came_late_is_left_alone(api: FakeFlink, url: str) -> None:
    api.job("RUNNING", running=3)
    _failed(api, *[NO_POOL] * 3)
    assert flink.without_workers(Flink(url=url), "job", ended=False) is None
    assert not [one for one in api.asked if one[0] != "GET"]


def test_nothing_of_the_cluster_listens_beyond_this_machine(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    write_configuration(tmp_path, Ports(rest=8081, worker_pool=50000, rpc=6123))
    written = (tmp_path / "conf" / "config.yaml").read_text().splitlines()
    bound = {key: value for key, _, value in (line.partition(": ") for line in written) if "bind" in key}
    assert bound == dict.fromkeys(
        ("jobmanager.bind-host", "taskmanager.bind-host", "rest.bind-address"), "127.0.0.1"
    )


def test_one_jobmanager_two_taskmanagers_and_a_pool_are_started(tmp_path: Path) -> None:
    ports = Ports(rest=8081, worker_pool=50000, rpc=6123)
    named: dict[str, list[str]] = dict(commands("java", tmp_path, tmp_path, ports))
    assert list(named) == ["jobmanager", "worker-pool", "taskmanager-1", "taskmanager-2"]
    assert named["worker-pool"][2:5] == ["runners.worker_pool", "--port", "50000"]


SECTIONS: list[tuple[str, str]] = [
    ('url = "127.0.0.1:8081"', "flink.url: expected an address such as"),
    ('worker_pool = "localhost"', "flink.worker_pool: expected host:port"),
    ('job_server_sha256 = "abc"', "flink.job_server_sha256: "),
    ('version = "1.19.3"', "flink.version: "),
    ("parallelism = 0", "flink.parallelism: "),
    ("checkpoints = 3", "flink.checkpoints: unknown option; options here are url, worker_pool"),
]


@pytest.mark.parametrize(("line", "said"), SECTIONS)
def test_a_wrong_setting_is_one_line(line: str, said: str, headrace: Headrace, tmp_path: Path) -> None:
    config = tmp_path / "headrace.toml"
    config.write_text(f"[flink]\n{line}\n")
    code, _, err = headrace("job", "list", "-c", config)
    assert code == 1
    assert said in err
    assert err.count("\n") == 1

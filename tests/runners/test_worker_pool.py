"""Workers for a cluster are processes of their own that are told what to do, can print, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apache_beam as beam
import grpc
import psutil
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc, endpoints_pb2

from runners.direct import run_bounded
from runners.job_server import free_port, listens
from runners.targets import Target
from runners.worker_pool import MAX_FILES, start
from schemas.errors import BadConfig, SetupError

BOUND_S = 30.0


@pytest.fixture
def pool_address(tmp_path: Path) -> Iterator[str]:
    pool, server, port = start(tmp_path / "logs", share=3, host="127.0.0.1", port=0)
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()
    pool.close()


def _target(address: str, *options: str) -> Target:
    """Beam's own job service in this process, with the pool's workers."""
    given = ("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=EXTERNAL")
    return Target((*given, f"--environment_config={address}", *options))


def _until(done: Callable[[], bool]) -> bool:
    end = time.monotonic() + BOUND_S
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
    return done()


def _note(place: str) -> None:
    said = (str(os.getpid()), os.environ["HEADRACE_WORKERS"], os.environ["PIPELINE_OPTIONS"])
    Path(place).write_text("\n".join(said), encoding="utf-8")


def test_a_worker_is_another_process_that_knows_the_pipelines_options(
    pool_address: str, tmp_path: Path
) -> None:
    def build(pipeline: beam.Pipeline) -> None:
        pipeline | beam.Create([str(tmp_path / "said")]) | beam.Map(_note)

    run_bounded(build, _target(pool_address, "--experiments=told_to_workers"))
    pid, workers, options = (tmp_path / "said").read_text(encoding="utf-8").split("\n", 2)
    assert int(pid) != os.getpid()
    assert workers == "3"
    assert "told_to_workers" in options


def test_a_worker_that_prints_a_lot_is_not_held_up(pool_address: str, tmp_path: Path) -> None:
    line = "x" * 1000

    def build(pipeline: beam.Pipeline) -> None:
        pipeline | beam.Create([line]) | beam.Map(lambda text: [print(text) for _ in range(1000)])

    run_bounded(build, _target(pool_address))
    (said,) = (tmp_path / "logs").glob("worker-*.out")
    assert said.read_text(encoding="utf-8").count(line) == 1000


def test_what_long_gone_workers_printed_does_not_pile_up(pool_address: str, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for number in range(MAX_FILES + 5):
        file = logs / f"worker-{number}.out"
        file.touch()
        os.utime(file, (number, number))
    run_bounded(lambda pipeline: pipeline | beam.Create([1]), _target(pool_address))
    kept = {file.name for file in logs.iterdir()}
    assert len(kept) == MAX_FILES
    assert kept.issuperset(f"worker-{number}.out" for number in range(6, MAX_FILES + 5))


def _refuse(_: object) -> None:
    raise BadConfig("model.threads: no such cores")


def test_an_error_of_ours_in_a_worker_is_the_same_error_here(pool_address: str) -> None:
    def build(pipeline: beam.Pipeline) -> None:
        pipeline | beam.Create([1]) | beam.Map(_refuse)

    with pytest.raises(BadConfig, match=r"^model\.threads: no such cores$"):
        run_bounded(build, _target(pool_address))


def _ask(address: str, worker_id: str) -> beam_fn_api_pb2.StartWorkerResponse:
    """Ask for a worker whose runner never answers: it goes on waiting."""
    nobody = endpoints_pb2.ApiServiceDescriptor(url=f"127.0.0.1:{free_port()}")
    request = beam_fn_api_pb2.StartWorkerRequest(
        worker_id=worker_id, control_endpoint=nobody, logging_endpoint=nobody, provision_endpoint=nobody
    )
    with grpc.insecure_channel(address) as channel:
        return beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel).StartWorker(
            request, timeout=BOUND_S
        )


def _stop(address: str, worker_id: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
        stub.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id=worker_id), timeout=BOUND_S)


def _workers(parent: int) -> list[psutil.Process]:
    return [one for one in psutil.Process(parent).children() if "runners.worker" in one.cmdline()]


def test_a_worker_is_stopped_by_its_name_unless_two_runners_use_it(pool_address: str) -> None:
    for name in ("1-1", "1-1", "1-2"):
        assert _ask(pool_address, name).error == ""
    assert len(_workers(os.getpid())) == 3
    _stop(pool_address, "1-2")
    _stop(pool_address, "1-1")
    _stop(pool_address, "unknown")
    assert sorted(one.cmdline()[3] for one in _workers(os.getpid())) == ["--id=1-1", "--id=1-1"]


def test_no_worker_outlives_its_pool_however_that_ends(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "runners.worker_pool", "--port", str(port), "--logs", str(tmp_path)]
    pool = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        assert _until(lambda: listens("127.0.0.1", port))
        assert _ask(f"127.0.0.1:{port}", "../1").error == ""
        (worker,) = _workers(pool.pid)
        # It is a worker once it has taken its options, not while Python starts.
        assert _until(lambda: worker.num_threads() > 1)
        pool.kill()
        assert _until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    finally:
        pool.kill()
        pool.wait()
    assert (tmp_path / "worker-.._1.out").exists()


def test_a_pool_is_not_started_where_another_listens(pool_address: str, tmp_path: Path) -> None:
    port = int(pool_address.rpartition(":")[2])
    with pytest.raises(SetupError, match=rf"cannot listen at 127.0.0.1:{port}: choose another port"):
        start(tmp_path, share=1, host="127.0.0.1", port=port)

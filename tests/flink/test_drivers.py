"""`headrace` with a job on a real Flink, interrupted or killed: what it leaves behind."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from psycopg import sql

from runners import flink_rest
from runners.flink_cluster import Cluster
from schemas.config import load_config
from tests.fakes.embedding_provider import DIMENSIONS, KEY, MODEL, FakeProvider, always, late
from tests.fakes.serving import serve
from tests.flink.driver import driver
from tests.runners.world import issue, write_export
from transforms.embedders.models import space_of
from transforms.postgres import Store
from transforms.spaces import chunk_table

BOUND_S = 180.0
ISSUES = 60
CONFIG = """
client = "acme"
data_dir = "{folder}/data"
postgres.dsn = "file:{folder}/dsn"

[model]
integration = "far"
name = "{model}"
dimensions = {dimensions}
max_tokens = 512
max_buffer_tokens = 512

[[integrations]]
name = "far"
provider = "gateway"
model = "{model}"
url = "{url}/v1"
api_key = "file:{folder}/key"
price_usd_per_million_tokens = 0.02
price_as_of = "2026-11-01"
performance.max_concurrency = 1

[flink]
url = "{flink}"
worker_pool = "{pool}"

[[sources]]
type = "export"
name = "tickets"
paths = ["a.jsonl"]
"""


@pytest.fixture
def endpoint() -> FakeProvider:
    """It takes its time, so that a run has a middle."""
    return FakeProvider(plan=always(late(3.0)))


@pytest.fixture
def config(tmp_path: Path, database: Store, cluster: Cluster, endpoint: FakeProvider) -> Iterator[Path]:
    (tmp_path / "dsn").write_text(database.dsn)
    (tmp_path / "key").write_text(KEY)
    write_export(tmp_path / "a.jsonl", map(issue, range(ISSUES)))
    path = tmp_path / "headrace.toml"
    with serve(endpoint) as url:
        path.write_text(
            CONFIG.format(
                folder=tmp_path,
                model=MODEL,
                dimensions=DIMENSIONS,
                url=url,
                flink=cluster.url,
                pool=cluster.worker_pool,
            )
        )
        yield path


def _until(done: Callable[[], object]) -> None:
    end = time.monotonic() + BOUND_S
    while not done():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


def _going_on(cluster: Cluster) -> list[flink_rest.Job]:
    return [job for job in flink_rest.jobs(cluster.url) if not job.ended]


def _indexed(database: Store) -> int:
    with database.connect() as connection:
        found = connection.execute("SELECT count(*) FROM indexed_documents").fetchone()
    return found[0] if found else 0


def _job_server(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_after_ctrl_c_the_cluster_has_no_job_of_the_run(
    config: Path, cluster: Cluster, endpoint: FakeProvider
) -> None:
    with driver("run", config) as process:
        _until(lambda: endpoint.requests > 1)
        (job,) = _going_on(cluster)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=BOUND_S)
        assert process.returncode == 130
        assert said.splitlines()[-1].startswith("headrace: interrupted; what was stored is consistent")
        assert _going_on(cluster) == []
        assert flink_rest.job(cluster.url, job.job_id).state == "CANCELED"


def test_a_killed_driver_leaves_no_job_server_and_its_job_comes_to_its_end(
    config: Path, cluster: Cluster, endpoint: FakeProvider, database: Store
) -> None:
    with driver("run", config) as process:
        _until(lambda: endpoint.requests > 1)
        (job,) = _going_on(cluster)
        left = _job_server(process)
        assert any("FlinkJobServerDriver" in part for one in left for part in one.cmdline())
        process.kill()
        _, alive = psutil.wait_procs(left, BOUND_S)
        assert alive == []
    assert not flink_rest.job(cluster.url, job.job_id).ended
    endpoint.plan = lambda number: None
    assert flink_rest.wait(cluster.url, job.job_id, BOUND_S).state == "FINISHED"
    assert _indexed(database) == ISSUES


def test_the_next_run_ends_the_job_of_a_killed_driver_that_holds_all_slots_and_stores_each_row_once(
    config: Path, cluster: Cluster, endpoint: FakeProvider, database: Store
) -> None:
    many_requests = config.read_text().replace(
        "max_tokens = 512", "max_tokens = 512\nmax_batch_tokens = 128", 1
    )
    config.write_text(many_requests.replace("[flink]", "[flink]\nparallelism = 4"))
    with driver("run", config) as process:
        _until(lambda: endpoint.requests > 1)
        (job,) = _going_on(cluster)
        process.kill()
        process.wait(BOUND_S)
    assert flink_rest.overview(cluster.url).slots_free == 0
    with driver("run", config) as process:
        _until(lambda: flink_rest.job(cluster.url, job.job_id).ended)
        endpoint.plan = lambda number: None
        _, said = process.communicate(timeout=BOUND_S)
    assert process.returncode == 0, said
    assert "headrace: ended 1 job on the cluster that a killed headrace had left" in said
    assert flink_rest.job(cluster.url, job.job_id).state == "CANCELED"
    assert _indexed(database) == ISSUES
    with database.connect() as connection:
        chunks = sql.SQL("SELECT count(*), count(DISTINCT (document_id, ordinal)) FROM {}").format(
            chunk_table(space_of(load_config(config).model).space_id)
        )
        assert connection.execute(chunks).fetchone() == (ISSUES, ISSUES)
        runs = connection.execute("SELECT status FROM runs ORDER BY started_at").fetchall()
    assert runs == [("interrupted",), ("done",)]

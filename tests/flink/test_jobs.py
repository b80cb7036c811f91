"""headrace's own pipelines on a real Flink: the rows of a run in this process, and jobs that a person ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from benchmarks.ledger_sums import ledger_sums
from extractors.exports import PAGE_RECORDS
from runners import flink, flink_rest
from runners.flink_cluster import Cluster
from runners.flink_jobs import job_rows
from runners.job_server import free_port
from runners.progress_bar import run_progress
from runners.run import RunSummary, run
from runners.targets import Runner, opened
from schemas.config import Config, Model, Postgres
from schemas.engines import Flink
from schemas.errors import ClusterUnreachable, JobFailed, PipelineError
from schemas.integrations import Integration, Performance
from tests.fakes.embedding_provider import DIMENSIONS, KEY, MODEL, FakeProvider, always, late
from tests.fakes.serving import serve
from tests.runners.world import issue, rows_of, run_quietly, write_export
from transforms.embedders.models import space_of
from transforms.postgres import Store

BOUND_S = 120.0
ISSUES = 60

Configured = Callable[..., Config]


@pytest.fixture
def configured(
    make_config: Callable[..., Config], database: Store, tmp_path: Path, cluster: Cluster
) -> Configured:
    """A configuration of the cluster, whose workers find the database by a file: their pool was there before it."""
    (tmp_path / "dsn").write_text(database.dsn)

    def make(**more: object) -> Config:
        export = write_export(tmp_path / "a.jsonl", map(issue, range(ISSUES)))
        settings = Flink(url=cluster.url, worker_pool=cluster.worker_pool)
        dsn = Postgres(dsn=f"file:{tmp_path / 'dsn'}")
        return make_config(export).model_copy(update={"flink": settings, "postgres": dsn, **more})

    return make


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[tuple[FakeProvider, dict[str, object]]]:
    """An endpoint that takes its time, and the configuration of a model behind it: a run that can be disturbed."""
    (tmp_path / "key").write_text(KEY)
    fake = FakeProvider(plan=always(late(1.0)))
    with serve(fake) as url:
        integration = Integration(
            name="far",
            provider="gateway",
            model=MODEL,
            url=f"{url}/v1",
            api_key=f"file:{tmp_path / 'key'}",
            price_usd_per_million_tokens=Decimal("0.02"),
            price_as_of=date(2026, 11, 1),
            performance=Performance(max_concurrency=1),
        )
        model = Model(
            name=MODEL, integration="far", dimensions=DIMENSIONS, max_tokens=512, max_buffer_tokens=512
        )
        yield fake, {"integrations": (integration,), "model": model}


def _run(config: Config) -> RunSummary:
    with (
        run_progress(Console(quiet=True), visible=False) as bar,
        opened(config, Runner.FLINK) as target,
    ):
        return run(config, bar, target)


def _forget(database: Store) -> None:
    with database.connect() as connection:
        connection.execute("TRUNCATE documents, source_cursors, ai_usage_tracking, runs CASCADE")


@contextmanager
def _running(config: Config) -> Iterator[list[RunSummary | BaseException]]:
    """A run on a thread of its own; what became of it, once the block has ended."""
    ended: list[RunSummary | BaseException] = []

    def work() -> None:
        try:
            ended.append(_run(config))
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    yield ended
    thread.join(BOUND_S)
    assert not thread.is_alive()


def _until(done: Callable[[], object]) -> None:
    end = time.monotonic() + BOUND_S
    while not done():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


def _stored(database: Store) -> int:
    with database.connect() as connection:
        found = connection.execute("SELECT count(*) FROM documents").fetchone()
    return found[0] if found else 0


def test_rows_counts_and_ledger_are_those_of_a_run_in_this_process(
    configured: Configured, database: Store
) -> None:
    config = configured()
    there = _run(config)
    rows = rows_of(database, config)
    _forget(database)
    here = run_quietly(config)
    assert len(rows["chunks"]) == ISSUES
    assert rows == rows_of(database, config)
    assert there.totals == here.totals == {"new": ISSUES}
    assert there.tokens_seen == here.tokens_seen
    assert (there.usage.tokens, there.usage.inputs) == (here.usage.tokens, here.usage.inputs)


def test_both_workers_prove_an_endpoint_once_and_every_token_of_every_chunk_is_embedded_or_saved(
    configured: Configured,
    database: Store,
    endpoint: tuple[FakeProvider, dict[str, object]],
    tmp_path: Path,
) -> None:
    fake, model = endpoint
    fake.plan = lambda number: None
    config = configured(**model)
    originals = [issue(number) for number in range(PAGE_RECORDS)]
    twins = [
        {**original, "id": f"9{original['id']}", "key": f"TWIN-{n}"} for n, original in enumerate(originals)
    ]
    write_export(tmp_path / "a.jsonl", originals + twins[:200])  # the second page is another worker's
    space_id = space_of(config.model).space_id
    sums, rows = [], []
    for start in (_run, run_quietly):
        fake.requests = fake.tokens_billed = 0
        start(config)
        rows.append(rows_of(database, config))
        with database.connect() as connection:
            sums.append(ledger_sums(connection, space_id))
            ledger = connection.execute(
                "SELECT count(*)::int, sum(tokens_reported)::int FROM ai_usage_tracking WHERE input_count > 0"
            ).fetchone()
        assert ledger == (fake.requests, fake.tokens_billed)
        _forget(database)
    there, here = sums
    assert rows[0] == rows[1]
    assert there.canaries == here.canaries == 1
    assert there.add_up
    assert here.add_up
    assert there.tokens_of_chunks == here.tokens_of_chunks
    assert here.tokens_saved > 0
    assert there.tokens_embedded >= here.tokens_embedded, "each worker has a cache of its own"


def test_killed_workers_cost_time_alone(
    configured: Configured,
    database: Store,
    cluster: Cluster,
    endpoint: tuple[FakeProvider, dict[str, object]],
) -> None:
    fake, model = endpoint
    config = configured(**model)
    with _running(config) as ended:
        _until(lambda: _stored(database))
        for worker in psutil.Process(cluster.processes["worker-pool"].pid).children():
            worker.kill()
    (summary,) = ended
    assert isinstance(summary, RunSummary), summary
    with database.connect() as connection:
        calls = connection.execute("SELECT count(*) FROM ai_usage_tracking WHERE input_count > 0").fetchone()
    assert calls is not None
    assert calls[0] >= fake.requests, "every request is in the ledger, those of the killed workers too"
    rows = rows_of(database, config)
    _forget(database)
    fake.plan = lambda number: None
    run_quietly(config)
    assert rows == rows_of(database, config)
    assert sum(summary.totals.values()) == ISSUES


def test_a_step_that_cannot_be_set_up_is_said_before_beam_would_look_at_one_attempt(
    configured: Configured,
    endpoint: tuple[FakeProvider, dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three minutes are what Beam's runner waits for the connection of a bundle whose setup failed."""
    monkeypatch.setenv("HEADRACE_TEST_ONLY_HERE", KEY)
    fake, model = endpoint
    (integration,) = model["integrations"]  # type: ignore[misc]
    only_here = integration.model_copy(update={"api_key": "env:HEADRACE_TEST_ONLY_HERE"})
    began_s = time.monotonic()
    with pytest.raises(PipelineError, match="HEADRACE_TEST_ONLY_HERE") as failed:
        _run(configured(**{**model, "integrations": (only_here,)}))
    assert time.monotonic() - began_s < 180
    assert "\n" not in str(failed.value)
    assert fake.requests == 0


def test_a_run_that_no_worker_takes_ends_in_one_line(
    configured: Configured, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flink, "_check_pool", lambda settings: None)  # as for a cluster on other machines
    settings = Flink(url=cluster.url, worker_pool=f"127.0.0.1:{free_port()}")
    with pytest.raises(
        ClusterUnreachable, match=rf"^no worker pool answers .* at {settings.worker_pool}: start"
    ):
        _run(configured(flink=settings))
    assert all(job.ended for job in flink_rest.jobs(cluster.url))


def test_a_run_whose_job_is_cancelled_says_so(
    configured: Configured,
    database: Store,
    cluster: Cluster,
    endpoint: tuple[FakeProvider, dict[str, object]],
) -> None:
    fake, model = endpoint
    fake.plan = always(late(5.0))
    with _running(configured(**model)) as ended:
        _until(lambda: fake.requests > 1)
        (row,) = [row for row in job_rows(cluster.url) if row["state"] == "RUNNING"]
        assert row["name"].startswith("headrace-")
        flink_rest.cancel(cluster.url, row["job"])
    (error,) = ended
    assert isinstance(error, JobFailed)
    assert "\n" not in str(error)
    assert str(error).endswith("Job was cancelled.")

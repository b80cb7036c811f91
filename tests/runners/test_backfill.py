"""A backfill keeps to its plan and to the memory there is, and goes on wherever it was stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from rich.console import Console

from extractors.read import build_extractor
from pipelines import room, volume
from pipelines.backfill import Backfill as Begun
from pipelines.plan import make_plan
from pipelines.room import refuse_what_does_not_fit
from runners.backfill import backfill
from runners.progress_bar import run_progress
from runners.run import RunSummary
from schemas.config import Backfill, Config, Faiss
from schemas.errors import NoRoom, NotEnoughMemory, PlanExceeded
from tests.runners.memory_source import MemorySource, building
from tests.runners.world import Headrace, issue, rows_of, run_quietly, write_export
from transforms.embedders.models import space_of
from transforms.index_room import ServerRoom
from transforms.postgres import Store

MakeConfig = Callable[..., Config]
SOME_ROWS = "SELECT count(*) FROM documents"


def backfill_quietly(
    config: Config,
    without_limit: bool = False,
    told: Callable[[Begun], None] = lambda begun: None,
    source: MemorySource | None = None,
) -> RunSummary:
    build = building(source) if source else build_extractor
    with run_progress(Console(quiet=True), visible=False) as bar:
        return backfill(config, bar, told, sample=None, without_limit=without_limit, build=build)


def tickets(count: int) -> MemorySource:
    source = MemorySource()
    fill(source, range(count))
    return source


def fill(source: MemorySource, numbers: Iterable[int]) -> None:
    for number in numbers:
        source.put(f"{number:03d}", f"The gate number {number} jams")


def has_graph(connection: psycopg.Connection, config: Config) -> bool:
    name = f"chunks_{space_of(config.model).space_id}_hnsw"
    return connection.execute("SELECT to_regclass(%s)", [name]).fetchone() != (None,)


def test_a_backfill_leaves_what_a_run_leaves(
    tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    config = make_config(write_export(tmp_path / "a.jsonl", [issue(n, words=90) for n in range(40)]))
    summary = backfill_quietly(config)
    rows = rows_of(database, config)
    assert (summary.totals, summary.indexes["acme"].count) == ({"new": 40}, len(rows["chunks"]))
    with database.connect() as connection:
        assert has_graph(connection, config)
        connection.execute("TRUNCATE documents, source_cursors, dead_letters CASCADE")
    run_quietly(config)
    assert rows_of(database, config) == rows


def test_there_is_no_graph_while_rows_are_loaded(
    tmp_path: Path, make_config: MakeConfig, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path / "nowhere", max_documents=12)
    seen: list[bool] = []
    check = Begun.check

    def look(begun: Begun, connection: psycopg.Connection) -> None:
        seen.append(has_graph(connection, config))
        check(begun, connection)

    monkeypatch.setattr(Begun, "check", look)
    backfill_quietly(config, source=tickets(30))
    assert seen == [False] * 4  # before the load, and after each slice
    with database.connect() as connection:
        assert has_graph(connection, config)


def test_more_than_the_plan_allows_stops_it_and_yes_goes_on(
    tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    config, source = make_config(tmp_path / "nowhere", max_documents=12), tickets(20)

    def grow(begun: Begun) -> None:
        fill(source, range(20, 60))

    with pytest.raises(PlanExceeded, match="headrace backfill --yes"):
        backfill_quietly(config, told=grow, source=source)
    stored = len(rows_of(database, config)["documents"])
    assert stored == 24  # the slice that went beyond the plan is the last
    with pytest.raises(PlanExceeded):
        backfill_quietly(config, source=source)
    assert len(rows_of(database, config)["documents"]) == stored
    with database.connect() as connection:
        assert not has_graph(connection, config)
        assert connection.execute("SELECT status FROM runs").fetchall() == [("failed",)]
        assert connection.execute("SELECT busy_with FROM source_states").fetchall() == [(None,)]
    assert backfill_quietly(config, without_limit=True, source=source).totals["new"] == 60 - stored
    fill(source, range(60, 70))
    assert backfill_quietly(config, source=source).totals["new"] == 10  # under a plan of its own


def test_what_may_be_spent_beyond_the_plan_is_a_setting(tmp_path: Path, make_config: MakeConfig) -> None:
    config, source = make_config(tmp_path / "nowhere", max_documents=12), tickets(20)
    config = config.model_copy(update={"backfill": Backfill(max_over_plan=2.5)})

    def grow(begun: Begun) -> None:
        fill(source, range(20, 60))

    assert backfill_quietly(config, told=grow, source=source).totals == {"new": 60}


def test_a_source_without_an_end_in_sight_is_refused_unless_nobody_minds(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(volume, "LOCAL_READ", 30)
    source, config = tickets(100), make_config(tmp_path / "nowhere")
    with run_progress(Console(quiet=True), visible=False) as bar:
        with pytest.raises(PlanExceeded, match=r"tickets does not say how much it holds.*--exact"):
            backfill(config, bar, lambda begun: None, build=building(source))
        done = backfill(config, bar, lambda begun: None, without_limit=True, build=building(source))
    assert done.totals == {"new": 100}


def test_a_source_that_fails_leaves_the_backfill_open_under_its_plan(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    source, config = tickets(60), make_config(tmp_path / "nowhere")
    source.fails_in = 35  # the plan reads 21 pages
    begun: list[Begun] = []
    first = backfill_quietly(config, told=begun.append, source=source)
    assert list(first.failures) == ["tickets"]
    second = backfill_quietly(config, told=begun.append, source=source)
    assert (first.totals["new"] + second.totals["new"], second.ok) == (60, True)
    assert begun[0].plan is not None
    assert (begun[1].plan, begun[1].planned_at) == (None, begun[0].planned_at)


def test_a_graph_that_does_not_fit_is_refused_before_anything_is_embedded(
    tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    config = make_config(write_export(tmp_path / "a.jsonl", map(issue, range(5))))
    needs = make_plan(config).indexes
    with pytest.raises(NotEnoughMemory, match=r"9,000,000 vectors of 384 dimensions takes .*halfvec"):
        refuse_what_does_not_fit(
            replace(needs, rows=9_000_000, hnsw_build_bytes=20 * 2**30, memory_limit_bytes=16 * 2**30)
        )
    (faiss,) = needs.faiss
    large = replace(faiss, vectors=1_500_000, kind="hnsw", memory_bytes=6 * 2**30)
    with pytest.raises(NotEnoughMemory, match=r"FAISS index of acme.*faiss\.hnsw_below under 1500000"):
        refuse_what_does_not_fit(replace(needs, faiss=(large,), memory_free_bytes=4 * 2**30))
    with pytest.raises(NoRoom, match="of disk; data_dir has"):
        refuse_what_does_not_fit(replace(needs, disk_free_bytes=needs.disk_bytes - 1))
    refuse_what_does_not_fit(needs)


def test_a_refused_backfill_has_stored_nothing(
    headrace: Headrace,
    write_config: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    database: Store,
) -> None:
    write_export(tmp_path / "a.jsonl", map(issue, range(5)))
    monkeypatch.setattr(room, "available_memory", lambda: 4096)
    config = write_config('[[sources]]\ntype = "export"\nname = "tickets"\npaths = ["a.jsonl"]\n')
    code, _, said = headrace("backfill", "--config", config)
    assert code == 1
    assert "takes 1 MiB in Postgres while it is built, and may take 1 MiB" in " ".join(said.split())
    with database.connect() as connection:
        assert connection.execute(SOME_ROWS).fetchone() == (0,)


@pytest.mark.parametrize(
    ("server", "workers"),
    [
        (ServerRoom(is_here=False, shared_bytes=None), None),
        (ServerRoom(is_here=True, shared_bytes=64 * 2**20), 0),
        (ServerRoom(is_here=True, shared_bytes=8 * 2**30), 3),
        (ServerRoom(is_here=True, shared_bytes=None), 3),
    ],
)
def test_a_graph_is_built_by_one_process_where_shared_memory_is_short(
    server: ServerRoom, workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "available_cores", lambda: 4)
    assert room.build_workers(server, graph_bytes=2**30) == workers


def test_memory_for_a_graph_is_as_configured_or_of_what_is_free_or_what_any_server_has(
    make_config: MakeConfig,
) -> None:
    config = make_config()
    here, elsewhere = ServerRoom(True, None), ServerRoom(False, None)
    assert room.memory_limit(config, here, free_bytes=10 * 2**30) == 8 * 2**30
    assert room.memory_limit(config, elsewhere, free_bytes=10 * 2**30) == 2 * 2**30
    set_ = config.model_copy(update={"backfill": Backfill(max_index_memory_mib=512)})
    assert room.memory_limit(set_, elsewhere, free_bytes=0) == 512 * 2**20


def test_inverted_lists_need_little_memory_however_many_vectors(make_config: MakeConfig) -> None:
    config = make_config().model_copy(update={"faiss": Faiss(flat_below=0, hnsw_below=0)})
    small = room._faiss_needs(config, "acme", 2_000_000, 384)
    large = room._faiss_needs(config, "acme", 20_000_000, 384)
    assert (small.kind, large.kind) == ("ivf", "ivf")
    assert large.disk_bytes > 30 * 10**9
    assert large.memory_bytes < 1.5 * 10**9


@pytest.mark.parametrize("after_documents", [1, 120])
def test_a_backfill_killed_while_it_loads_is_finished_by_the_next_start(
    after_documents: int, tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    issues = [issue(n, words=60) for n in range(160)]
    config = make_config(write_export(tmp_path / "a.jsonl", issues), max_documents=50, max_buffer_tokens=1024)
    process = start(config, tmp_path)
    with database.connect() as connection:
        wait_for(process, lambda: (connection.execute(SOME_ROWS).fetchone() or (0,))[0] >= after_documents)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        stored_before = (connection.execute(SOME_ROWS).fetchone() or (0,))[0]
        assert stored_before < 160
        assert not has_graph(connection, config)
    begun: list[Begun] = []
    resumed = backfill_quietly(config, told=begun.append)
    rows = rows_of(database, config)
    with database.connect() as connection:
        embedded = connection.execute("SELECT sum(input_count) FROM ai_usage_tracking").fetchone()
        assert has_graph(connection, config)
    assert begun[0].plan is None  # that of the first start holds
    assert embedded is not None
    assert len(rows["chunks"]) <= embedded[0] <= len(rows["chunks"]) + 2 * 10  # two buffers of 1,024 tokens
    assert resumed.totals["new"] <= 160 - stored_before
    with database.connect() as connection:
        connection.execute("TRUNCATE documents, source_cursors, dead_letters CASCADE")
    run_quietly(config)
    assert rows_of(database, config) == rows


def test_a_backfill_killed_while_it_builds_the_graph_embeds_nothing_again(
    tmp_path: Path, make_config: MakeConfig, database: Store
) -> None:
    config = make_config(write_export(tmp_path / "a.jsonl", [issue(n, words=40) for n in range(60)]))
    with database.connect() as blocker, database.connect() as connection:
        process = start(config, tmp_path)
        table = sql.Identifier(f"chunks_{space_of(config.model).space_id}")
        wait_for(process, lambda: (connection.execute(SOME_ROWS).fetchone() or (0,))[0] == 60)
        with blocker.transaction():  # as long as a row may change, the build waits
            blocker.execute(sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(table))
            building_it = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%hnsw%'"
            wait_for(process, lambda: connection.execute(building_it).fetchone() == (1,))
            process.send_signal(signal.SIGKILL)
            process.communicate()
        spent = connection.execute("SELECT sum(tokens) FROM ai_usage_tracking").fetchone()
        wait_until(lambda: connection.execute(building_it).fetchone() == (0,))
    summary = backfill_quietly(config)
    assert (summary.totals, summary.usage.calls) == ({"unchanged": 60}, 0)
    with database.connect() as connection:
        assert has_graph(connection, config)
        assert connection.execute("SELECT sum(tokens) FROM ai_usage_tracking").fetchone() == spent
        assert connection.execute(
            "SELECT count(*) FROM backfills WHERE finished_at IS NOT NULL"
        ).fetchone() == (1,)


def start(config: Config, folder: Path) -> subprocess.Popen[bytes]:
    path = folder / "headrace.toml"
    path.write_text(
        f'client = "acme"\ndata_dir = "{config.data_dir}"\n'
        f'postgres.dsn = "{config.postgres.dsn}"\nmodel.max_buffer_tokens = {config.model.max_buffer_tokens}\n'
        f"slices.max_documents = {config.slices.max_documents}\n"
        '[[sources]]\ntype = "export"\nname = "tickets"\npaths = ["a.jsonl"]\n',
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "runners.cli", "backfill", "--config", str(path), "--json"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ.copy())


def wait_for(process: subprocess.Popen[bytes], true: Callable[[], bool]) -> None:
    wait_until(lambda: true() or _gone(process))


def _gone(process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        assert process.stderr is not None
        raise AssertionError(f"it ended before it could be killed: {process.stderr.read().decode()}")
    return False


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)

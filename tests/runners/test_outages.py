"""A run outlasts a Postgres that is away for a while, and no other failure of it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import psycopg
import pytest
from rich.console import Console

from benchmarks.stand_in import no_model
from runners import slices
from runners.outages import MOST_IN_A_ROW, connect_again, is_lost
from runners.progress_bar import RunProgress, run_progress
from runners.run import AfterSlice, RunSummary, run
from schemas.config import Config, Postgres, Slices
from schemas.errors import DatabaseUnreachable, SetupError, SinkUnavailable
from tests.runners.memory_source import MemorySource, building, configured
from tests.runners.world import DSN
from transforms import embedded_postgres, runs
from transforms.postgres import Store

BOUND_S = 60.0
AWAY_S = 3.0
DOCUMENTS = 4


class Server:
    """A Postgres of a test alone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "postgres"
        self.dsn = embedded_postgres.start(self._folder)
        self._started: list[subprocess.Popen[bytes]] = []
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for setting in ("fsync", "full_page_writes"):  # the server crashes, the machine does not
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")

    @property
    def _process(self) -> psutil.Process:
        return psutil.Process(int((self._folder / "postmaster.pid").read_text().splitlines()[0]))

    def stop(self) -> None:
        """At once, as a crash does."""
        server = self._process
        server.send_signal(signal.SIGQUIT)
        server.wait(BOUND_S)

    def start(self) -> None:
        command = shlex.split((self._folder / "postmaster.opts").read_text())
        owner = (self._folder / "PG_VERSION").stat().st_uid
        with (self._folder.parent / "postgres.out").open("ab") as said:
            self._started.append(
                subprocess.Popen(
                    command,
                    user=owner if os.getuid() == 0 else None,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                )
            )

    def close(self) -> None:
        if (self._folder / "postmaster.pid").exists():
            server = self._process
            server.send_signal(signal.SIGINT)
            server.wait(BOUND_S)
        for process in self._started:
            process.wait(BOUND_S)


@pytest.fixture
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="headrace-outage-"))  # a socket's path is short
    server = Server(folder)
    yield server
    server.close()
    shutil.rmtree(folder)


@pytest.fixture
def source() -> MemorySource:
    source = MemorySource("tickets", page_records=1)
    for number in range(DOCUMENTS):
        source.put(str(number), "gate")
    return source


@pytest.fixture(autouse=True)
def _stand_in() -> Iterator[None]:
    with no_model():
        yield


def _of_slices(config: Config) -> Config:
    """A slice for each document."""
    return config.model_copy(update={"sources": (configured("tickets"),), "slices": Slices(max_documents=1)})


@pytest.fixture
def config(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv(DSN, server.dsn)
    return _of_slices(Config(client="acme", data_dir=tmp_path / "data", postgres=Postgres(dsn=f"env:{DSN}")))


class Once:
    """Does something the first time that it is called."""

    def __init__(self, do: Callable[[], object]) -> None:
        self._do: Callable[[], object] | None = do

    def __call__(self, *given: object) -> None:
        do, self._do = self._do, None
        if do is not None:
            do()


def _goes_away(server: Server) -> None:
    server.stop()
    threading.Timer(AWAY_S, server.start).start()


def _ran(
    config: Config, source: MemorySource, after_slice: AfterSlice, waits: list[str] | None = None
) -> RunSummary:
    with run_progress(Console(quiet=True), visible=False) as bar:
        if waits is not None:
            _listen(bar, waits)
        return run(config, bar, build=building(source), after_slice=after_slice)


def _listen(bar: RunProgress, waits: list[str]) -> None:
    waiting = bar.waiting

    def listen(reason: str, duration_s: float) -> None:
        waits.append(reason)
        assert 0 <= duration_s <= 60
        waiting(reason, duration_s)

    bar.waiting = listen  # type: ignore[method-assign]


def _is_whole(config: Config, summary: RunSummary) -> None:
    assert summary.ok
    assert summary.totals["new"] == DOCUMENTS
    assert summary.totals.keys() <= {"new", "unchanged"}, "a source may give again what it gave last"
    with Store(os.environ[DSN]).connect() as connection:
        assert connection.execute("SELECT count(*) FROM indexed_documents").fetchone() == (DOCUMENTS,)
        assert connection.execute("SELECT status, error FROM runs").fetchall() == [("done", None)]
        assert runs.counts_of_run(connection, summary.run_id) == summary.outcomes


def test_a_run_waits_for_postgres_and_goes_on_with_the_next_slice(
    config: Config, server: Server, source: MemorySource
) -> None:
    waits: list[str] = []
    summary = _ran(config, source, Once(partial(_goes_away, server)), waits)
    _is_whole(config, summary)
    assert set(waits) == {"Postgres does not answer"}


def test_a_slice_that_was_stored_when_postgres_went_is_kept_and_not_run_again(
    config: Config, server: Server, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, ran, go = slices.keep_slice, list[slices.StoredSlice](), Once(partial(_goes_away, server))

    def keep_after(connection: psycopg.Connection, stored: slices.StoredSlice) -> None:
        ran.append(stored)
        go()
        keep(connection, stored)

    monkeypatch.setattr("runners.run.keep_slice", keep_after)
    _is_whole(config, _ran(config, source, lambda connection: None))
    assert ran[0] is ran[1]


def test_a_postgres_that_stays_away_ends_the_run_with_one_line_and_the_next_completes_it(
    config: Config, server: Server, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runners.run.connect_again", partial(connect_again, timeout_s=1.0))
    with pytest.raises(DatabaseUnreachable, match=r"^postgres\.dsn: cannot connect to Postgres") as failed:
        _ran(config, source, Once(server.stop))
    assert "\n" not in str(failed.value)
    server.start()
    connect_again(Store(server.dsn), lambda reason, duration_s: None).close()
    assert _ran(config, source, lambda connection: None).totals["new"] == DOCUMENTS - 1


def _cut_off(store: Store) -> None:
    with store.connect() as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_a_slice_that_is_cut_off_each_time_is_given_up(
    make_config: Callable[..., Config],
    database: Store,
    source: MemorySource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[object] = []

    def cut_off(*given: object) -> None:
        tries.append(given)
        _cut_off(database)
        raise SinkUnavailable("Postgres failed 8 times")

    monkeypatch.setattr(slices, "run_bounded", cut_off)
    with pytest.raises(SinkUnavailable):
        _ran(_of_slices(make_config()), source, lambda connection: None)
    assert len(tries) == MOST_IN_A_ROW + 1


def test_a_slice_that_fails_while_postgres_is_well_is_not_tried_again(
    make_config: Callable[..., Config], source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[object] = []

    def fail(*given: object) -> None:
        tries.append(given)
        raise SinkUnavailable("Postgres failed 8 times")

    monkeypatch.setattr(slices, "run_bounded", fail)
    with pytest.raises(SinkUnavailable):
        _ran(_of_slices(make_config()), source, lambda connection: None)
    assert len(tries) == 1


def test_a_run_that_another_overtook_while_postgres_was_away_ends(
    make_config: Callable[..., Config], database: Store, source: MemorySource
) -> None:
    with ExitStack() as others:

        def overtake() -> None:
            _cut_off(database)
            others.enter_context(runs.only_writer(others.enter_context(database.connect()), "acme"))

        with pytest.raises(SetupError, match=r"^another run of client 'acme'"):
            _ran(_of_slices(make_config()), source, Once(overtake))
        with database.connect() as connection:
            assert connection.execute("SELECT status FROM runs").fetchall() == [("interrupted",)]
            assert connection.execute("SELECT sum(records)::int FROM run_counts").fetchone() == (1,)


def test_a_connection_that_answers_is_not_lost(database: Store) -> None:
    with database.connect() as connection:
        assert not is_lost(connection)
        _cut_off(database)
        assert is_lost(connection)
        assert is_lost(connection)

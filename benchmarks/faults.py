"""What a run on a real Flink cluster makes of faults in its middle: rows, duplicates, losses, and the ledger.

    python -m benchmarks.faults [--only workers postgres] [--issues 900] [--export FILE] [--prism] [--cache postgres]
        [--json FILE]

A cluster, a Postgres and an endpoint for embeddings are started for this alone, on free ports; nothing else on the
machine is touched. The endpoint is the fakes' own, over HTTP on loopback: it computes next to nothing, takes its
time, and counts requests and tokens, which the ledger is compared with. An undisturbed run in one process says which
rows are right. Then the same export is read through the cluster, undisturbed first, and with one fault each time as
soon as a third of the documents is stored. A run that ends with an error is started again, as a person would.

`lost` and `extra` are rows that the undisturbed run has and this one has not, and the other way round; `duplicates`
are documents or chunks stored twice. `requests` reached the endpoint; `in ledger` are rows for them, of which
`unfinished` say that a worker died in their middle. Where nothing disturbed a run, its ledger adds up to the token:
what was embedded and what equal texts saved are the tokens of all chunks, the same on every runner, and the endpoint
proved itself once.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import psutil
import psycopg
from psycopg.conninfo import make_conninfo
from rich.console import Console
from rich.table import Table

from benchmarks.hardware import ROOT, load_average, machine
from benchmarks.ledger_sums import LedgerSums, ledger_sums, shown_sums
from benchmarks.suite import save
from runners.fetch import fetch_flink
from runners.flink_cluster import Cluster, down, running, up
from schemas.config import load_config
from schemas.usage import UNFINISHED
from tests.fakes.embedding_provider import DIMENSIONS, KEY, MODEL, FakeProvider, always, late
from tests.fakes.serving import serve
from tests.runners.world import issue, rows_of, write_export
from transforms import embedded_postgres
from transforms.embedders.models import space_of
from transforms.postgres import Store

DSN, ENDPOINT_KEY = "HEADRACE_FAULTS_DSN", "HEADRACE_FAULTS_KEY"
DATABASE = "faults"
ANSWER_S = 2.0
"""Of the endpoint, so that a run takes long enough to be disturbed."""
AWAY_S = 20.0
BOUND_S = 900.0
MOST_RUNS = 3
CONFIG = """
client = "acme"
data_dir = "{data}"
postgres.dsn = "env:{dsn}"
privacy.redact = "off"
cache.kind = "{cache}"

[model]
integration = "endpoint"
name = "{model}"
dimensions = {dimensions}
max_tokens = 512
max_buffer_tokens = 2048

[[integrations]]
name = "endpoint"
provider = "gateway"
model = "{model}"
url = "{url}"
api_key = "env:{key}"
price_usd_per_million_tokens = 0.02
price_as_of = "2026-11-01"
performance.max_concurrency = 1

[flink]
url = "{flink}"
worker_pool = "{pool}"

[[sources]]
type = "export"
name = "tickets"
paths = ["{export}"]
"""


@dataclass(frozen=True, slots=True)
class World:
    """What a fault can be done to."""

    state: Path
    config: Path
    store: Store
    postgres: Path
    endpoint: FakeProvider

    @property
    def cluster(self) -> Cluster:
        found = running(self.state)
        assert found is not None
        return found

    def kill(self, name: str) -> None:
        psutil.Process(self.cluster.processes[name].pid).kill()


@dataclass(frozen=True, slots=True)
class Row:
    """How a run ended.

    Args:
        runs: times that `headrace run` was started until it ended well; 0 if it never did.
        said: what it said where it ended with an error.
        seconds: of all of these.
        tokens_billed: by the endpoint's own count.
    """

    fault: str
    runs: int
    said: str
    seconds: float
    documents: int
    chunks: int
    lost: int
    extra: int
    duplicates: int
    requests: int
    in_ledger: int
    unfinished: int
    tokens_billed: int
    tokens_in_ledger: int
    sums: LedgerSums

    @property
    def is_undisturbed(self) -> bool:
        return self.fault.startswith("none")

    @property
    def ok(self) -> bool:
        if self.is_undisturbed:
            billed = self.in_ledger == self.requests and self.tokens_in_ledger == self.tokens_billed
            accounted = billed and self.sums.add_up and self.sums.canaries == 1
        else:
            accounted = self.in_ledger >= self.requests and self.tokens_in_ledger >= self.tokens_billed
        return self.runs > 0 and accounted and not (self.lost or self.extra or self.duplicates)


def taskmanager(world: World) -> None:
    """One of two is killed and stays away; the other has slots for the job."""
    world.kill("taskmanager-1")


def workers(world: World) -> None:
    """The Python workers are killed; their pool is not."""
    for process in psutil.Process(world.cluster.processes["worker-pool"].pid).children():
        process.kill()


def jobmanager(world: World) -> None:
    """It is killed, and started again after a while; it remembers no job."""
    world.kill("jobmanager")
    time.sleep(AWAY_S / 2)
    up(world.state)


def postgres(world: World) -> None:
    """It is shut down at once, as by a crash, and started again after a while."""
    lines = (world.postgres / "postmaster.pid").read_text().splitlines()
    server = psutil.Process(int(lines[0]))
    command = shlex.split((world.postgres / "postmaster.opts").read_text())
    owner = (world.postgres / "PG_VERSION").stat().st_uid
    server.send_signal(signal.SIGQUIT)
    server.wait(60)
    time.sleep(AWAY_S)
    with (world.state / "log" / "postgres.out").open("ab") as said:
        subprocess.Popen(
            command,
            user=owner,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


FAULTS: dict[str, Callable[[World], None]] = {
    "none": lambda world: None,
    "taskmanager": taskmanager,
    "workers": workers,
    "jobmanager": jobmanager,
    "postgres": postgres,
}


@contextmanager
def started(folder: Path, export: Path, cache: str) -> Iterator[World]:
    """A world of its own, in a folder."""
    fetch_flink()
    database = folder / "data" / "postgres"
    dsn = embedded_postgres.start(database)
    os.environ[DSN] = make_conninfo(dsn, dbname=DATABASE)
    os.environ[ENDPOINT_KEY] = KEY  # both before the pool starts, whose workers inherit them
    endpoint = FakeProvider()
    with ExitStack() as stack:
        url = stack.enter_context(serve(endpoint))
        stack.callback(_end_postgres, database)
        cluster = up(folder / "flink", rest_port=0, pool_port=0)
        stack.callback(down, folder / "flink")
        config = folder / "headrace.toml"
        config.write_text(
            CONFIG.format(
                data=folder / "data",
                dsn=DSN,
                key=ENDPOINT_KEY,
                model=MODEL,
                dimensions=DIMENSIONS,
                url=f"{url}/v1",
                flink=cluster.url,
                pool=cluster.worker_pool,
                export=export,
                cache=cache,
            )
        )
        yield World(folder / "flink", config, Store(f"env:{DSN}"), database, endpoint)


def _end_postgres(folder: Path) -> None:
    with suppress(FileNotFoundError, psutil.NoSuchProcess):
        server = psutil.Process(int((folder / "postmaster.pid").read_text().splitlines()[0]))
        server.send_signal(signal.SIGINT)
        server.wait(60)


def _empty(world: World) -> None:
    """A new database, and an endpoint that has billed nothing."""
    with psycopg.connect(os.environ[DSN], dbname="postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {DATABASE}")
    for kept in world.config.parent.joinpath("data").glob("[!p]*"):  # all but postgres
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    world.endpoint.requests = world.endpoint.tokens_billed = 0


def _documents(world: World) -> int:
    try:
        with psycopg.connect(os.environ[DSN], connect_timeout=2) as connection:
            found = connection.execute("SELECT count(*) FROM documents").fetchone()
            return found[0] if found else 0
    except psycopg.Error:  # not there yet, or not there now
        return 0


def observe(world: World, runner: str, expected: int, do: Callable[[World], None]) -> tuple[int, str, float]:
    """Run until it ends well, with a fault in the middle of the first time.

    Returns:
        Runs (0 if none ended well), what the last that did not said, and the seconds of all.
    """
    said, began = "", time.monotonic()
    for number in range(1, MOST_RUNS + 1):
        command = [
            sys.executable,
            "-m",
            "runners.cli",
            "run",
            "-c",
            str(world.config),
            "--runner",
            runner,
            "--json",
        ]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            if number == 1:
                while process.poll() is None and _documents(world) < expected / 3:
                    time.sleep(0.1)
                do(world)
            _, errors = process.communicate(timeout=BOUND_S)
        finally:
            process.kill()
        if process.returncode == 0:
            return number, said, time.monotonic() - began
        said = next(
            (line for line in reversed(errors.splitlines()) if line.startswith("headrace:")), errors[-300:]
        )
    return 0, said, time.monotonic() - began


def measured(
    world: World, fault: str, rows: dict[str, list[tuple[object, ...]]], outcome: tuple[int, str, float]
) -> Row:
    """Compare what is stored with the rows that are right, and the ledger with what was billed."""
    found = rows_of(world.store, load_config(world.config))
    right, here = ({(table, repr(row)) for table in them for row in them[table]} for them in (rows, found))
    stored = Counter((table, repr(row[:2])) for table in ("documents", "chunks") for row in found[table])
    with world.store.connect() as connection:
        ledger = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE error_type = %s),"
            " coalesce(sum(coalesce(tokens_reported, tokens)), 0)::bigint"
            " FROM ai_usage_tracking WHERE input_count > 0",
            [UNFINISHED],
        ).fetchone()
        sums = ledger_sums(connection, space_of(load_config(world.config).model).space_id)
    calls, unfinished, tokens = ledger or (0, 0, 0)
    runs, said, seconds = outcome
    return Row(
        fault=fault,
        runs=runs,
        said=said,
        seconds=round(seconds, 1),
        documents=len(found["documents"]),
        chunks=len(found["chunks"]),
        lost=len(right - here),
        extra=len(here - right),
        duplicates=sum(number - 1 for number in stored.values()),
        requests=world.endpoint.requests,
        in_ledger=calls,
        unfinished=unfinished,
        tokens_billed=world.endpoint.tokens_billed,
        tokens_in_ledger=tokens,
        sums=sums,
    )


def shown(rows: Sequence[Row]) -> Table:
    """A table for people."""
    table = Table(box=None, padding=(0, 1))
    columns = ("fault", "runs", "seconds", "documents", "chunks", "lost", "extra", "duplicates", "requests")
    columns += ("in_ledger", "unfinished")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="left" if name == "fault" else "right")
    for row in rows:
        table.add_row(*(str(getattr(row, name)) for name in columns), style=None if row.ok else "red")
    return table


def _export(folder: Path, given: Path | None, issues: int) -> Path:
    """The first issues of a file, or as many made up."""
    export = folder / "issues.jsonl"
    if given is None:
        return write_export(export, map(issue, range(issues)))
    with gzip.open(given, "rb") if given.suffix == ".gz" else given.open("rb") as lines:
        export.write_bytes(b"".join(islice(lines, issues)))
    return export


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS), help="faults (all)")
    parser.add_argument("--issues", type=int, default=900, help="(%(default)s)")
    parser.add_argument("--export", type=Path, help="JSON lines of Jira, gzip or not; else made-up issues")
    parser.add_argument("--prism", action="store_true", help="an undisturbed run through Prism as well")
    parser.add_argument(
        "--cache", choices=["memory", "postgres"], default="memory", help="of vectors (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    console, before = Console(width=130), load_average()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="headrace-faults-") as name:
        folder = Path(name)
        with started(folder, _export(folder, options.export, options.issues), options.cache) as world:
            _empty(world)
            here = observe(world, "direct", 0, lambda world: None)
            right = rows_of(world.store, load_config(world.config))
            rows.append(measured(world, "none, no cluster", right, here))
            if options.prism:
                _empty(world)
                outcome = observe(world, "prism", 0, lambda world: None)
                rows.append(measured(world, "none, Prism", right, outcome))
            for fault in options.only:
                console.print(f"{fault} ...", highlight=False)
                up(world.state)
                _empty(world)
                world.endpoint.plan = (lambda number: None) if fault == "none" else always(late(ANSWER_S))
                outcome = observe(world, "flink", len(right["documents"]), FAULTS[fault])
                rows.append(measured(world, fault, right, outcome))
                if rows[-1].said:
                    console.print(f"  {rows[-1].said}", markup=False, highlight=False)
    console.print(shown(rows))
    console.print(shown_sums((row.fault, row.sums) for row in rows if row.is_undisturbed))
    save(
        options.json,
        {
            "benchmark": "faults",
            "machine": machine(),
            "load": [before, load_average()],
            "rows": [asdict(row) for row in rows],
        },
    )
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""From a change at the source to a row that a search finds: watching in this process, by Prism, and on Flink.

    python -m benchmarks.freshness [--runners direct flink] [--rates 1 10 100] [--json FILE]

A fake Jira in a process of its own changes its issues at a steady rate; `headrace watch`, as a user starts it,
follows it over HTTP. A change is `seen` when Postgres tells of the commit that stored it, and one change in some is
then looked for with a vector search in pgvector, `found` when that has it among the first ten. Half the interval
between polls is in every figure: it is how long a change waits for the next poll.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import psycopg
from rich.console import Console
from rich.table import Table

from benchmarks.freshness_site import title
from benchmarks.hardware import ROOT, machine
from benchmarks.suite import save
from pipelines.search import search
from runners import flink_cluster
from schemas.config import Config, load_config
from transforms import embedded_postgres
from transforms.notify import CHANNEL
from transforms.postgres import Store, open_store
from transforms.source_states import load_states

SOURCE = "tickets"
CLIENT = "acme"
READY_S = 180.0
LATE_S = 120.0
"""A change that is not seen so long after the last one counts as lost."""
SEARCH_EVERY_S = 1.0
NUMBER = re.compile(r"change (\d+):")


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of changes at one rate, seconds; `changes` were made."""

    rate: float
    changes: int
    seen: Sequence[float]
    found: Sequence[float]
    looked_for: int

    def row(self, runner: str, interval_s: float) -> dict[str, Any]:
        """As a row of the table."""
        return {
            "runner": runner,
            "changes_per_s": self.rate,
            "poll_interval_s": interval_s,
            "changes": self.changes,
            "lost": self.changes - len(self.seen),
            **_percentiles("seen", self.seen),
            "looked_for": self.looked_for,
            "not_found": self.looked_for - len(self.found),
            **_percentiles("found", self.found),
            "load_average": round(os.getloadavg()[0], 1),
        }


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float | None]:
    if len(values) < 2:
        return {f"{name}_p50_s": None, f"{name}_p95_s": None}
    cuts = statistics.quantiles(values, n=20, method="inclusive")
    return {f"{name}_p50_s": round(cuts[9], 2), f"{name}_p95_s": round(cuts[18], 2)}


@dataclass
class Watching:
    """What is known of changes while a watcher follows them."""

    config: Config
    site: httpx.Client
    listening: psycopg.Connection
    asking: psycopg.Connection
    seen_at: dict[int, float] = field(default_factory=dict)
    found_at: dict[int, float] = field(default_factory=dict)
    looked_for: set[int] = field(default_factory=set)
    searched_at: float = 0.0

    def measure(self, rate: float, changes: int) -> Latencies:
        """Let so many changes happen, and wait until all are seen."""
        first = self.site.post("/changes", json={"rate": rate, "changes": changes}).json()["first"]
        numbers = range(first, first + changes)
        deadline = time.monotonic() + changes / rate + LATE_S
        while time.monotonic() < deadline and not all(number in self.seen_at for number in numbers):
            for notice in self.listening.notifies(timeout=0.2, stop_after=1):
                self._hear(orjson.loads(notice.payload), time.time())
        changed_at = self.site.get("/changes").json()
        return Latencies(
            rate,
            changes,
            [self.seen_at[number] - changed_at[number] for number in numbers if number in self.seen_at],
            [self.found_at[number] - changed_at[number] for number in numbers if number in self.found_at],
            len(self.looked_for.intersection(numbers)),
        )

    def _hear(self, change: dict[str, Any], now: float) -> None:
        query = (
            "SELECT title FROM documents WHERE stored_at > now() - interval '1 minute'"
            if change["truncated"]
            else "SELECT title FROM documents WHERE document_id = ANY(%s)"
        )
        rows = self.asking.execute(query, [] if change["truncated"] else [change["document_ids"]]).fetchall()
        told = [int(found[1]) for (text,) in rows if (found := NUMBER.match(text))]
        fresh = [number for number in told if self.seen_at.setdefault(number, now) == now]
        if fresh and now - self.searched_at > SEARCH_EVERY_S:
            self.searched_at = now
            self._look_for(fresh[-1])

    def _look_for(self, number: int) -> None:
        self.looked_for.add(number)
        hits = search(self.config, title(number), client=CLIENT, mode="vector", index="pgvector", limit=10)
        if any(hit.title == title(number) for hit in hits):
            self.found_at[number] = time.time()


@contextmanager
def site(issues: int) -> Iterator[str]:
    """The fake, while the block runs; gives its address."""
    command = [sys.executable, "-m", "benchmarks.freshness_site", str(issues)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:  # closes its input at the end, which ends it
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@contextmanager
def cluster(runner: str, state: Path) -> Iterator[str]:
    """A Flink of this benchmark's own where it is needed; gives lines of configuration."""
    if runner != "flink":
        yield ""
        return
    try:
        found = flink_cluster.up(state, rest_port=0, pool_port=0)
        yield f'[flink]\nurl = "{found.url}"\nworker_pool = "{found.worker_pool}"\n'
    finally:
        flink_cluster.down(state)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A server of this benchmark's own; gives its connection string."""
    try:
        yield embedded_postgres.start(folder)
    finally:
        embedded_postgres.stop(folder)


@contextmanager
def watcher(path: Path, runner: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`headrace watch`, ended as by Ctrl-C."""
    command = [sys.executable, "-m", "runners.cli", "watch", "-c", str(path), "--runner", runner]
    with log.open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()


def wait_until_followed(store: Store, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the watcher has polled once more after it began.

    Raises:
        RuntimeError: it does not come to that.
    """
    deadline = time.monotonic() + READY_S
    with store.connect() as connection:
        before = {one.source: one.last_success_at for one in load_states(connection, CLIENT)}
        while time.monotonic() < deadline and process.poll() is None:
            now = {one.source: one.last_success_at for one in load_states(connection, CLIENT)}
            if now != before:
                return
            time.sleep(0.2)
    raise RuntimeError(f"headrace watch does not follow: {log.read_text(errors='replace')[-2000:]}")


def measured(
    runner: str, rates: Sequence[float], changes_s: float, interval_s: float, url: str
) -> Iterator[dict[str, Any]]:
    """A row for each rate."""
    with tempfile.TemporaryDirectory(prefix="headrace-freshness-") as made:
        folder = Path(made)
        with cluster(runner, folder / "flink") as flink, postgres(folder / "postgres") as found:
            path, dsn = folder / "headrace.toml", folder / "dsn"
            dsn.write_text(found, encoding="utf-8")
            path.write_text(
                f'client = "{CLIENT}"\ndata_dir = "{folder / "data"}"\npostgres.dsn = "file:{dsn}"\n'
                '[[sources]]\ntype = "jira"\n'
                f'name = "{SOURCE}"\nsite_url = "{url}"\npoll_interval_s = {interval_s}\noverlap_s = 10\n{flink}',
                encoding="utf-8",
            )
            loading = [sys.executable, "-m", "runners.cli", "run", "-c", str(path)]
            subprocess.run(loading, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            config = load_config(path)
            store, log = open_store(config), folder / "watch.log"
            with (
                watcher(path, runner, log) as process,
                httpx.Client(base_url=url, timeout=30) as client,
                store.connect() as listening,
                store.connect() as asking,
            ):
                wait_until_followed(store, process, log)
                listening.execute(f"LISTEN {CHANNEL}")
                watching = Watching(config, client, listening, asking)
                search(config, "the model is loaded", client=CLIENT, mode="vector")
                for rate in rates:
                    changes = max(20, round(rate * changes_s))
                    yield watching.measure(rate, changes).row(runner, interval_s)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title="freshness", title_justify="left", box=None, pad_edge=False)
    table.add_column("runner")
    for name in ("changes/s", "changes", "lost", "seen p50 s", "seen p95 s", "found p50 s", "found p95 s"):
        table.add_column(name, justify="right")
    for row in rows:
        latencies = [row[f"{what}_{share}_s"] for what in ("seen", "found") for share in ("p50", "p95")]
        table.add_row(
            row["runner"],
            f"{row['changes_per_s']:g}",
            f"{row['changes']:,}",
            str(row["lost"]),
            *("-" if value is None else f"{value:.2f}" for value in latencies),
        )
    Console(width=110).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runners", nargs="+", choices=("direct", "prism", "flink"), default=["direct", "flink"]
    )
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0, 10.0, 100.0], help="changes/s")
    parser.add_argument("--seconds", type=float, default=30.0, help="of changes at each rate (%(default)s)")
    parser.add_argument("--interval", type=float, default=1.0, help="between polls, s (%(default)s)")
    parser.add_argument("--issues", type=int, default=3000, help="of the site (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    result: dict[str, Any] = {"benchmark": "freshness", "machine": machine(), "rows": []}
    for runner in options.runners:
        with site(options.issues) as url:
            for row in measured(runner, options.rates, options.seconds, options.interval, url):
                result["rows"].append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
                save(options.json, result)
    print_table(result["rows"])
    return 1 if any(row["lost"] or row["not_found"] for row in result["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())

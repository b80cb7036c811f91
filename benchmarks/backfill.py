"""A million made-up issues through everything but the model, into a real Postgres: documents/s, and memory over time.

    python -m benchmarks.backfill [--documents 1000000] [--workers 1 2] [--indexes] [--json FILE]

Extraction, chunking, change detection and the Postgres sink are the product's own; an engine that costs next to
nothing takes the model's place. A worker is a process that loads its share as a client of its own, all into one
database; the second pass of each finds everything unchanged. Memory is that of each process, the server's together,
sampled each second and told by tenths of the load. Apart from that, what it costs to pass a vector on from step to
step.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import orjson
import psutil
from rich.console import Console

from benchmarks.hardware import ROOT, load_average, machine
from benchmarks.passing_on import passing_on
from benchmarks.stand_in import no_model
from benchmarks.suite import save
from extractors.base import Cursor, Extractor, OnWait, Page
from runners import run as runner
from runners.progress_bar import run_progress
from schemas.config import Config
from schemas.documents import Format, Kind, SourceRecord
from schemas.sources import ExportSource, Source

PAGE_RECORDS = 500
SAMPLE_S = 1.0
PARTS = 10
"""Of a load, whose memory is told apart."""
MEMORY_GROWTH = 1.10
"""Peak in any later part over that in the second that still counts as flat."""
LONG_LOAD = 100_000
"""Documents; a shorter load is still filling its memos and buffers in its second part."""
MOST_US_A_VECTOR = 10.0
BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
WORDS = """
gate sluice sensor level alarm turbine intake weir relay frost restart offset broker clock audit pump reading
gateway pod replica commit ledger queue retry timeout certificate token login operator dashboard export batch
""".split()  # noqa: SIM905 - easier to read


def payload(number: int) -> bytes:
    """A Jira issue of some 170 tokens, one in eight of some 700; the same for the same number."""
    sentences = [
        " ".join(
            WORDS[(number * 31 + line * 17 + place * (3 + number % 7)) % len(WORDS)] for place in range(9)
        )
        for line in range(60 if number % 8 == 0 else 14)
    ]
    updated = (BEGIN + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%S.000+0000")
    return orjson.dumps(
        {
            "id": str(number),
            "key": f"LOAD-{number}",
            "fields": {
                "summary": f"{sentences[0]} {number}",
                "description": ".\n".join(sentences),
                "updated": updated,
                "created": updated,
                "issuetype": {"name": "Bug"},
                "status": {"name": "Open"},
                "project": {"key": "LOAD", "name": "Load"},
                "comment": {
                    "total": 1,
                    "comments": [
                        {
                            "id": "1",
                            "body": f"seen again, see LOAD-{number // 2}",
                            "author": {"displayName": "Ada"},
                        }
                    ],
                },
            },
        }
    )


class MadeUp:
    """Implements `Extractor`: issues `first` to `last`, made as they are read."""

    def __init__(self, name: str, client: str, first: int, last: int) -> None:
        self.name = name
        self._client = client
        self._first = first
        self._last = last

    def pages(self, cursor: Cursor | None) -> Iterator[Page]:
        for start in range(self._first, self._last, PAGE_RECORDS):
            numbers = range(start, min(start + PAGE_RECORDS, self._last))
            yield Page(records=tuple(map(self._record, numbers)), cursor=None)

    def estimate(self, cursor: Cursor | None) -> int | None:
        return self._last - self._first

    def close(self) -> None:
        return

    def _record(self, number: int) -> SourceRecord:
        at = BEGIN + timedelta(seconds=number)
        return SourceRecord(
            self._client, self.name, Format.JIRA_ISSUE, Kind.ISSUE, str(number), payload(number), at, at
        )


def load(data_dir: Path, worker: int, first: int, last: int, indexes: bool) -> None:
    """Both passes of one worker, in this process; a JSON line after each slice, and one for each pass."""
    client = f"load-{worker}"
    config = Config(
        client=client,
        data_dir=data_dir,
        sources=(ExportSource(type="export", name="made-up", paths=("nowhere",)),),
    )

    def build(source: Source, client: str, data_dir: Path, on_wait: OnWait) -> Extractor:
        return MadeUp(source.name, client, first, last)

    left_out = nullcontext() if indexes else patch.object(runner, "refresh_indexes", lambda *_: {})
    with no_model(), left_out, run_progress(Console(quiet=True), visible=False) as bar:
        for step in ("first", "unchanged"):
            began, cpu = time.perf_counter(), time.process_time()
            told = _Teller(step, began)
            summary = runner.run(config, bar, build=build, after_slice=told.after_slice)
            assert summary.ok, summary.failures
            _tell(
                {
                    "pass": step,
                    "documents": summary.totals.total(),
                    "outcomes": dict(summary.totals),
                    "vectors": summary.quality.vectors,
                    "seconds": time.perf_counter() - began,
                    "cpu_s": time.process_time() - cpu,
                    "engine_s": summary.work.engine_s,
                    "chunk_s": summary.work.chunk_s,
                }
            )


class _Teller:
    def __init__(self, step: str, began: float) -> None:
        self._step = step
        self._began = began

    def after_slice(self, connection: object) -> None:
        _tell({"slice": self._step, "at_s": time.perf_counter() - self._began})


def _tell(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


@dataclass(slots=True)
class Memory:
    """Sizes of processes in MiB, sampled until `stop`: of each worker, and of all of Postgres.

    Proportional set sizes, as what Postgres shares would count once for each of its processes.
    """

    workers: dict[int, list[float]] = field(default_factory=dict)
    postgres: list[float] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def sample(self, processes: Sequence[psutil.Process]) -> None:
        while not self.is_over.wait(SAMPLE_S):
            for number, process in enumerate(processes):
                if (size := _mib(process)) is not None:
                    self.workers.setdefault(number, []).append(size)
            servers = [one for one in psutil.process_iter(["name"]) if one.info["name"] == "postgres"]
            self.postgres.append(sum(filter(None, map(_mib, servers))))


def _mib(process: psutil.Process) -> float | None:
    try:
        return float(process.memory_full_info().pss) / 2**20
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return None


def by_parts(samples: Sequence[float], parts: int = PARTS) -> list[int]:
    """The highest sample of each part of a series, as many parts as there are samples for."""
    parts = min(parts, len(samples))
    edges = [len(samples) * part // parts for part in range(parts + 1)] if parts else []
    return [round(max(samples[start:end])) for start, end in pairwise(edges)]


def is_flat(peaks: Sequence[int]) -> bool:
    """Whether memory stopped growing after the second part."""
    return len(peaks) < 3 or max(peaks[2:]) <= MEMORY_GROWTH * peaks[1]


def side_by_side(documents: int, workers: int, indexes: bool) -> dict[str, Any]:
    """Load with so many workers into a database of their own: a row for the table."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-backfill-"))
    edges = [documents * worker // workers for worker in range(workers + 1)]
    memory = Memory()
    processes = []
    try:
        for worker in range(workers):
            command = [
                sys.executable, "-m", "benchmarks.backfill", "--load", str(worker), "--data-dir", str(folder),
                "--first", str(edges[worker]), "--last", str(edges[worker + 1]), *["--indexes"] * indexes,
            ]  # fmt: skip
            processes.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        sampler = threading.Thread(
            target=memory.sample, args=[[psutil.Process(one.pid) for one in processes]], daemon=True
        )
        sampler.start()
        told = [[json.loads(line) for line in one.communicate()[0].splitlines()] for one in processes]
        failed = [one.returncode for one in processes if one.returncode]
        if failed:
            raise RuntimeError(f"a worker ended with {failed[0]}")
    finally:
        memory.is_over.set()
        for process in processes:
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)
    return row_of(documents, workers, told, memory)


def _end(process: subprocess.Popen[str]) -> None:
    """By an interrupt, so that its Postgres is stopped, too; one that does not end is killed."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def row_of(
    documents: int, workers: int, told: Sequence[Sequence[dict[str, Any]]], memory: Memory
) -> dict[str, Any]:
    """Figures of one load, of what each worker said.

    Args:
        told: of each worker, its lines.
    """
    passes = {
        step: [line for lines in told for line in lines if line.get("pass") == step]
        for step in ("first", "unchanged")
    }
    seconds = {step: max(line["seconds"] for line in lines) for step, lines in passes.items()}
    first = passes["first"]
    peaks = {f"worker {number}": by_parts(found) for number, found in sorted(memory.workers.items())}
    peaks["postgres"] = by_parts(memory.postgres)
    return {
        "documents": documents,
        "workers": workers,
        "vectors": sum(line["vectors"] for line in first),
        "seconds": round(seconds["first"], 1),
        "documents_per_s": round(documents / seconds["first"]),
        "vectors_per_s": round(sum(line["vectors"] for line in first) / seconds["first"]),
        "worker_cpu_us_a_document": round(1e6 * sum(line["cpu_s"] for line in first) / documents),
        "engine_s": round(sum(line["engine_s"] for line in first), 1),
        "chunk_s": round(sum(line["chunk_s"] for line in first), 1),
        "unchanged_documents_per_s": round(documents / seconds["unchanged"]),
        "peak_mib_by_tenth": peaks,
        "is_flat": {name: is_flat(found) for name, found in peaks.items() if name != "postgres"},
        "load_average": load_average(),
    }


def misses(rows: Sequence[dict[str, Any]], moved: dict[str, float]) -> list[str]:
    """What falls short of what is wanted, a line each."""
    short = [
        f"{row['workers']} workers: memory of {name} grows: {row['peak_mib_by_tenth'][name]} MiB"
        for row in rows
        for name, flat in row["is_flat"].items()
        if not flat and row["documents"] >= LONG_LOAD
    ]
    if moved["us_a_vector_and_step"] > MOST_US_A_VECTOR:
        short.append(
            f"a vector costs {moved['us_a_vector_and_step']} µs a step, wanted {MOST_US_A_VECTOR:.0f}"
        )
    return short


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=1_000_000, help="in all (%(default)s)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="a load for each (%(default)s)"
    )
    parser.add_argument(
        "--indexes", action="store_true", help="build HNSW and FAISS as well, in the time of a load"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument(
        "--load", type=int, metavar="WORKER", help="one worker, in this process; prints JSON lines"
    )
    parser.add_argument("--data-dir", type=Path, help="of that worker")
    parser.add_argument("--first", type=int, default=0, help="document of that worker")
    parser.add_argument("--last", type=int, default=0, help="document behind its last")
    options = parser.parse_args()
    if options.load is not None:
        load(options.data_dir, options.load, options.first, options.last, options.indexes)
        return 0
    moved = passing_on()
    result: dict[str, Any] = {"benchmark": "backfill", "machine": machine(), "passing_on": moved, "rows": []}
    for workers in options.workers:
        row = side_by_side(options.documents, workers, options.indexes)
        result["rows"].append(row)
        print(
            f"{row['documents']:,} documents, {workers} workers: {row['documents_per_s']:,} documents/s"
            f" ({row['vectors_per_s']:,} vectors/s), unchanged {row['unchanged_documents_per_s']:,} documents/s;"
            f" peak MiB by tenth {row['peak_mib_by_tenth']}",
            flush=True,
        )
        save(options.json, result)
    short = misses(result["rows"], moved)
    save(options.json, result | {"misses": short})
    print(f"passing on: {moved}")
    print("\n".join(short) or "as good as wanted")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())

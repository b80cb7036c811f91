"""What everything but the model costs, on real Jira issues.

    python -m benchmarks.overhead --data ../shared/data [--every 3] [--no-model] [--json FILE]

Two runs over one export: the first embeds everything (figure: time outside the engine as a share of the time inside
it), the second finds everything unchanged (figure: documents/s, from the start of the run to its end). With
`--no-model` a stand-in takes the model's place: the whole file in minutes, its accounting and its memory.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.memory import peak_memory
from benchmarks.stand_in import no_model
from runners.display import outcome_row
from runners.progress_bar import run_progress
from runners.slices import RunSummary, run
from schemas.config import Config, ExportSource

JIRA = Path("jira") / "jira_v2_tidev.jsonl.gz"
WANTED_OVERHEAD = 0.10
WANTED_UNCHANGED_PER_S = 3000


def measure(config: Config, console: Console) -> tuple[RunSummary, float, int]:
    """One run: its summary, wall seconds, and peak memory of the process tree in bytes."""
    with peak_memory() as peak, run_progress(console, visible=console.is_terminal) as bar:
        started = time.perf_counter()
        summary = run(config, bar)
        seconds = time.perf_counter() - started
    return summary, seconds, peak.bytes


def figures(config: Config, console: Console) -> dict[str, Any]:
    """Both runs."""
    first, seconds, peak = measure(config, console)
    second, unchanged_s, unchanged_peak = measure(config, console)
    engine_s = first.usage.latency_s
    return {
        "documents": first.totals.total(),
        "outcomes": outcome_row(first.totals),
        "chunks": first.quality.vectors,
        "tokens": first.usage.tokens,
        "tokens_truncated": first.tokens_truncated,
        "seconds": round(seconds, 1),
        "engine_seconds": round(engine_s, 1),
        "overhead_share": round((seconds - engine_s) / engine_s, 4),
        "embeddings_per_s": round(first.usage.inputs / seconds, 1),
        "peak_mib": round(peak / 2**20),
        "unchanged_outcomes": outcome_row(second.totals),
        "unchanged_seconds": round(unchanged_s, 2),
        "unchanged_documents_per_s": round(second.totals.total() / unchanged_s),
        "unchanged_peak_mib": round(unchanged_peak / 2**20),
        "load_average": os.getloadavg()[0],
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    names = ("apache-beam", "onnxruntime", "psycopg", "faiss-cpu", "semantic-text-splitter", "tokenizers")
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with jira/jira_v2_tidev.jsonl.gz")
    parser.add_argument("--every", type=int, default=1, help="take every so many-th issue")
    parser.add_argument("--no-model", action="store_true", help="a stand-in takes the model's place")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    console = Console(stderr=True)
    work = Path(tempfile.mkdtemp(prefix="headrace-overhead-"))
    try:
        export = options.data / JIRA
        if options.every > 1:
            export = work / "some.jsonl"
            with gzip.open(options.data / JIRA, "rb") as lines:
                export.write_bytes(b"".join(itertools.islice(lines, 0, None, options.every)))
        source = ExportSource(type="export", name="jira", paths=(str(export.resolve()),))
        with no_model() if options.no_model else nullcontext():
            found = figures(Config(data_dir=work, sources=(source,)), console)
    finally:
        from transforms import embedded_postgres

        embedded_postgres.stop(work / "postgres")
        shutil.rmtree(work, ignore_errors=True)
    result = {
        "benchmark": "overhead",
        "every": options.every,
        "model": not options.no_model,
        "machine": machine(),
        "figures": found,
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if options.no_model:
        return 0
    good = (
        found["overhead_share"] <= WANTED_OVERHEAD
        and found["unchanged_documents_per_s"] >= WANTED_UNCHANGED_PER_S
    )
    print(
        f"time outside the engine: {found['overhead_share']:.1%} of the time inside it (wanted: at most"
        f" {WANTED_OVERHEAD:.0%}); unchanged: {found['unchanged_documents_per_s']:,} documents/s (wanted: at least"
        f" {WANTED_UNCHANGED_PER_S:,})"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

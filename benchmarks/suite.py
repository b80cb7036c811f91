"""All benchmarks, one after the other; each keeps a JSON file, and what is there is not run again.

    headrace bench                                      # from a checkout; some minutes
    headrace bench --full --data ../shared/data         # every figure of the README
    python -m benchmarks.suite --only engines --only plots --again

Quick: ceiling, engines, growth. Full adds the batch budgets, encoders of 12 layers, live connectors against fakes,
a backfill of a million documents, and, where the folder of real payloads is given, retrieval quality and the whole
job in both precisions.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.hardware import ROOT

WORK = ROOT / ".headrace" / "benchmarks"
"""Models, vectors and results that are not kept in the repository."""

PEERS = {
    f"sentence-transformers {backend}": str(ROOT / f".venv-bench-{backend}" / "bin" / "python")
    for backend in ("onnx", "openvino")
}
"""Interpreters of the environments that `make install-peers` makes."""


@dataclass(frozen=True, slots=True)
class Step:
    """One benchmark.

    Args:
        name: also of its file of figures.
        module: inside `benchmarks`.
        arguments: but `--json`.
        resumes: the module itself goes on from its file, so it is started even when that is there.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    resumes: bool = False


def steps(
    full: bool,
    data: Path | None,
    largest: int,
    usd_per_hour: float | None,
    peer_python: Sequence[str],
    results: Path,
) -> list[Step]:
    """What a run consists of, in order; ends with the plots when it is a full one."""
    size = ("--full",) if full else ()
    payloads = ("--data", str(data)) if data else ()
    price = ("--usd-per-hour", str(usd_per_hour)) if usd_per_hour else ()
    peers = tuple(part for pair in peer_python for part in ("--peer-python", pair))
    found = [
        Step("ceiling", "ceiling", () if full else ("--seconds", "0.1")),
        Step("engines", "engines", (*size, *payloads, *price, *peers), resumes=True),
        Step("growth-exact", "growth", ("--precision", "exact", "--largest", str(largest)), resumes=True),
        Step("growth-fast", "growth", ("--precision", "fast", "--largest", str(largest)), resumes=True),
    ]
    if not full:
        return found
    found.append(Step("base_size", "base_size", size))
    found.append(Step("connectors", "connectors"))
    found.append(Step("backfill", "backfill"))
    for precision in ("exact", "fast") if data else ():
        reference = (*payloads, "--precision", precision)
        exact = ("--exact", str(results / "retrieval-exact.json")) if precision == "fast" else ()
        found.append(Step(f"retrieval-{precision}", "retrieval", (*reference, *exact)))
        found.append(Step(f"overhead-{precision}", "overhead", reference))
    return [*found, Step("plots", "plots")]


def save(path: Path | None, result: dict[str, Any]) -> None:
    """Write figures, as a whole or not at all; nowhere when there is no path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.rename(path)


def run(step: Step, results: Path, again: bool, quiet: bool) -> dict[str, Any]:
    """Run one step in a process of its own.

    Returns:
        `seconds` and exit code `code`; or `kept` when its file was there.
    """
    file = results / f"{step.name}.json"
    if again:
        file.unlink(missing_ok=True)
    if file.is_file() and not step.resumes:
        return {"kept": True, "code": 0}
    target = ("--results", str(results)) if step.module == "plots" else ("--json", str(file))
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{step.module}", *step.arguments, *target],
        cwd=ROOT,
        stdout=sys.stderr if quiet else None,
    )
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    return {"seconds": round(time.perf_counter() - started, 1), "code": code}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="every figure, a few hours on two cores")
    parser.add_argument("--data", type=Path, help="folder of real payloads, with jira/ and retrieval/")
    parser.add_argument(
        "--results", type=Path, default=WORK / "results", help="files of figures (%(default)s)"
    )
    parser.add_argument("--largest", type=int, help="texts of the growth run (quick: 10^4, full: 10^6)")
    parser.add_argument("--usd-per-hour", type=float, help="price of this machine")
    parser.add_argument("--peer-python", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument(
        "--only", action="append", default=[], metavar="STEP", help="this step; may be repeated"
    )
    parser.add_argument("--again", action="store_true", help="forget the figures that are there")
    parser.add_argument("--as-json", action="store_true", help="print the figures as JSON, tables on stderr")
    options = parser.parse_args()
    data = options.data.resolve() if options.data else None
    peers = {name: python for name, python in PEERS.items() if Path(python).is_file()}
    peers |= dict(pair.split("=", 1) for pair in options.peer_python)
    results = options.results.resolve()
    largest = options.largest or (1_000_000 if options.full else 10_000)
    plan = steps(
        options.full,
        data,
        largest,
        options.usd_per_hour,
        [f"{name}={python}" for name, python in peers.items()],
        results,
    )
    unknown = set(options.only) - {step.name for step in plan}
    if unknown:
        parser.error(
            f"--only: no step {', '.join(sorted(unknown))}; there are {', '.join(step.name for step in plan)}"
        )
    plan = [step for step in plan if not options.only or step.name in options.only]
    results.mkdir(parents=True, exist_ok=True)
    outcome = {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for number, step in enumerate(plan, start=1):
        print(f"[{number}/{len(plan)}] {step.name}", file=sys.stderr, flush=True)
        try:
            outcome[step.name] = run(step, results, options.again, options.as_json)
        except KeyboardInterrupt:
            print("interrupted; start again to go on", file=sys.stderr)
            return 130
        print(f"[{number}/{len(plan)}] {step.name}: {outcome[step.name]}", file=sys.stderr, flush=True)
    if options.as_json:
        files = {step.name: results / f"{step.name}.json" for step in plan}
        figures = {
            name: json.loads(file.read_text(encoding="utf-8"))
            for name, file in files.items()
            if file.is_file()
        }
        print(json.dumps({"steps": outcome, "figures": figures}, indent=2))
    return max((int(found["code"]) for found in outcome.values()), default=0)


if __name__ == "__main__":
    sys.exit(main())

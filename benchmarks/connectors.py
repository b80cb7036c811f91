"""Live connectors against fakes of 100,000 issues: requests beside the least there could be, issues/s, memory.

    python -m benchmarks.connectors [--issues 100000] [--pipeline-issues 10000] [--json FILE]

Each site is served over HTTP on loopback by a process of its own and read in another, so that a rate is that of
connector and fake together, on as many cores, and `cpu_s` and the peak memory are the connector's alone. `least` is
the number of requests that cannot be undercut with the pages that the API has, see `least_requests`.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.connector_sites import PRODUCTS, Holdings, Product
from benchmarks.growth import sizes_up_to
from benchmarks.hardware import ROOT, machine
from benchmarks.suite import save

ISSUES_PER_ANSWER = {"jira-cloud": 100, "jira-data-center": 1000, "github": 100}
IDS_PER_ANSWER = {"jira-cloud": 5000, "jira-data-center": 1000, "github": 100}
PULLS_PER_QUERY = 100
MEMORY_GROWTH = 1.10
"""Peak of the largest site over that of the one of 10,000 issues that still counts as flat."""
REQUESTS_OVER_LEAST = {"jira-cloud": 1.1, "jira-data-center": 3.5, "github": 1.1}
"""How many times the least a first reading may take.

On Data Center that is ids first, then 500 whole issues at a time: a thousand with all their comments is more than
some servers can answer in time.
"""


def least_requests(product: Product, step: str, held: Holdings) -> int:
    """Requests that a step takes at the least.

    A reading: every issue once, as many in an answer as the API gives at most with all that is read of them
    (Jira Cloud 100, Data Center 1,000 with all their comments, GitHub 100); on Cloud the comments beyond the 20
    that come with an issue, 100 an answer, an issue at a time; on GitHub the lists of comments and of review
    comments, 100 an answer, and one query for the branches and reviews of 100 pull requests. A list that has
    nothing takes one request, too.

    A census: as a reading on GitHub, whose reviews belong to it; on Jira the ids, 5,000 an answer on Cloud and
    1,000 on Data Center.

    A look at some again: on Jira as a reading; on GitHub one request each, since its 404 is the proof, and one
    query for the pull requests among them.

    Args:
        held: what the site holds, or what of it changed, or is looked at.
    """
    if product == "github" and step == "look again":
        return held.issues + math.ceil(held.pulls / PULLS_PER_QUERY)
    if product != "github" and step == "census":
        return _answers(held.issues, IDS_PER_ANSWER[product])
    issues = _answers(held.issues, ISSUES_PER_ANSWER[product])
    if product == "jira-data-center":
        return issues
    if product == "jira-cloud":
        return issues + held.comment_pages
    lists = issues + _answers(held.comments, 100) + _answers(held.review_comments, 100)
    return lists + math.ceil(held.pulls / PULLS_PER_QUERY)


def _answers(items: int, most: int) -> int:
    return max(1, math.ceil(items / most))


@contextmanager
def served(product: Product, issues: int) -> Iterator[tuple[str, Holdings]]:
    """A site in a process of its own while the block runs: its address, and what it holds."""
    command = [sys.executable, "-m", "benchmarks.connector_sites", product, str(issues)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:  # closes its input at the end, which ends it
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the fake of {product} ended with {process.wait()} before it served")
        told = json.loads(line)
        yield told["url"], Holdings(**told["holds"])


def read_by_another_process(product: str, url: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.connector_reading", product, url]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows_of(product: Product, held: Holdings, found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each step: its cost, the least requests, and issues/s where it read some."""
    changed, nothing = Holdings(**found["changed"]), Holdings()
    concerned = {
        "read": held,
        "first poll": nothing,
        "quiet poll": nothing,
        "poll of changes": changed,
        "look again": changed,
        "census": held,
    }
    rows = []
    for step, cost in found["steps"].items():
        row = {"product": product, "site_issues": held.issues, "step": step, **cost}
        row["least"] = least_requests(product, step, concerned[step])
        row["issues_per_s"] = round(cost["issues"] / cost["seconds"], 1) if cost.get("issues") else None
        row["issues_per_cpu_s"] = round(cost["issues"] / cost["cpu_s"]) if step == "read" else None
        rows.append(row | {"load_average": found["load_average"]})
    return rows


def pipeline_rows(issues: int, found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each run of the whole pipeline; issues/s of those that went through it."""
    rows = []
    for step, cost in found["steps"].items():
        through = sum(cost["outcomes"].values())
        rate = round(through / cost["seconds"], 1) if through >= issues else None
        row = {"step": step, "site_issues": issues, "read": through, "issues_per_s": rate, **cost}
        rows.append(row | {"load_average": found["load_average"]})
    return rows


def misses(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What falls short of what is wanted, a line each."""
    short = []
    for product in PRODUCTS:
        reads = [row for row in rows if row["product"] == product and row["step"] == "read"]
        short += [
            f"{product}: {row['requests']} requests for {row['site_issues']:,} issues, least {row['least']}"
            for row in reads[-1:]
            if row["requests"] > REQUESTS_OVER_LEAST[product] * row["least"] + 10
        ]
        settled = [row for row in reads if row["site_issues"] >= 10_000]
        if settled and settled[-1]["peak_mib"] > MEMORY_GROWTH * settled[0]["peak_mib"]:
            peaks = " MiB, ".join(str(row["peak_mib"]) for row in settled)
            short.append(f"{product}: memory grows with the number of issues: {peaks} MiB")
    return short


def print_table(rows: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]) -> None:
    console = Console(width=130)
    table = Table(title="live connectors", title_justify="left", box=None, pad_edge=False)
    for title in ("site", "step"):
        table.add_column(title)
    for title in ("issues", "requests", "least", "free", "s", "issues/s", "cpu s", "MiB read", "peak MiB"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row["product"],
            row["step"],
            f"{row['site_issues']:,}",
            f"{row['requests']:,}",
            f"{row['least']:,}",
            f"{row['free']:,}",
            f"{row['seconds']:.2f}",
            "-" if row["issues_per_s"] is None else f"{row['issues_per_s']:,.0f}",
            f"{row['cpu_s']:.2f}",
            f"{row['bytes'] / 2**20:,.1f}",
            f"{row['peak_mib']:,.0f}",
        )
    console.print(table)
    for run in runs:
        console.print(
            f"whole pipeline, {run['step']}: {run['read']:,} of {run['site_issues']:,} issues read in "
            f"{run['seconds']:.1f} s, {run['requests']:,} requests, peak {run['peak_mib']:,.0f} MiB with Postgres"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--issues", type=int, default=100_000, help="of the largest site (%(default)s)")
    parser.add_argument(
        "--pipeline-issues", type=int, default=10_000, help="of the whole run (%(default)s); 0 leaves it out"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what was started, too
    result: dict[str, Any] = {"benchmark": "connectors", "machine": machine(), "rows": [], "pipeline": []}
    for product in PRODUCTS:
        for issues in sizes_up_to(options.issues):
            with served(product, issues) as (url, held):
                rows = rows_of(product, held, read_by_another_process(product, url))
            result["rows"] += rows
            read = rows[0]
            print(
                f"{product} {issues:,} issues: {read['requests']:,} requests (least {read['least']:,}), "
                f"{read['issues_per_s']:,.0f} issues/s, peak {read['peak_mib']:.0f} MiB",
                file=sys.stderr,
                flush=True,
            )
            save(options.json, result)
    if options.pipeline_issues:
        with served("jira-cloud", options.pipeline_issues) as (url, _):
            found = read_by_another_process("pipeline", url)
        result["pipeline"] = pipeline_rows(options.pipeline_issues, found)
    short = misses(result["rows"])
    save(options.json, result | {"misses": short})
    print_table(result["rows"], result["pipeline"])
    print("\n".join(short) or "as good as wanted")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())

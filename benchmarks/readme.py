"""The README's tables and pictures, from files of figures: nothing is copied by hand.

    python -m benchmarks.readme [--results benchmarks/results]

Replaces what stands between the two markers; a table whose figures are not there is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.hardware import ROOT

BEGIN, END = "<!-- benchmark figures -->\n", "<!-- /benchmark figures -->"
PICTURES = {
    "throughput": "texts a second by engine and length",
    "budgets": "texts a second against the padded tokens of one call",
    "quality": "retrieval quality against speed",
}

Figures = Mapping[str, Any]


def throughput_table(engines: Figures) -> str:
    """A row for each contender: texts/s and the ratio on each corpus, cosine to fp32 on the mixed one."""
    corpora = list(engines["corpora"])
    titles = [f"{name}, {engines['corpora'][name]['tokens_mean']:.0f} tokens" for name in corpora]
    rows: dict[str, dict[str, Figures]] = {}
    for row in engines["rows"]:
        rows.setdefault(row["contender"], {})[row["corpus"]] = row
    by_speed = sorted(rows.items(), key=lambda item: -item[1].get("mixed", {}).get("texts_per_s", 0.0))
    lines = []
    for name, found in by_speed:
        mixed = found.get("mixed", {})
        arithmetic = mixed.get("arithmetic", "")
        share = f"{mixed['share_of_ceiling']:.0%}" if "share_of_ceiling" in mixed else ""
        cosine = f"{mixed['cosine_lowest']:.5f}" if "cosine_lowest" in mixed else ""
        cells = [_rate(found.get(corpus, {})) for corpus in corpora]
        lines.append([name, arithmetic, *cells, share, cosine])
    head = [
        "texts/s (times the best sentence-transformers)",
        "arithmetic",
        *titles,
        "of ceiling",
        "lowest cosine",
    ]
    return table(head, lines)


def base_table(base: Figures) -> str:
    """Encoders of 12 layers: texts/s and what the machine could at most."""
    lines = [
        [
            row["model"],
            row["contender"],
            row.get("arithmetic", ""),
            _rate(row),
            f"{row['ceiling_texts_per_s']:,}" if "ceiling_texts_per_s" in row else "",
        ]
        for row in base["rows"]
    ]
    return table(
        ["12 layers, 768 dimensions, short texts", "contender", "arithmetic", "texts/s", "ceiling"], lines
    )


def growth_table(growth: Mapping[str, Figures]) -> str:
    """Texts/s and peak memory by number of texts, for each precision."""
    head = ["short texts", *(f"{name}: {what}" for name in growth for what in ("texts/s", "peak MiB"))]
    by_size: dict[int, dict[str, Figures]] = {}
    for name, found in growth.items():
        for row in found["rows"]:
            by_size.setdefault(row["texts"], {})[name] = row
    lines = []
    for size, found in sorted(by_size.items()):
        cells = [found.get(name, {}) for name in growth]
        lines.append(
            [
                f"{size:,}",
                *(f"{cell[key]:,}" if cell else "" for cell in cells for key in ("texts_per_s", "peak_mib")),
            ]
        )
    return table(head, lines)


NAMES = {"jira-cloud": "Jira Cloud", "jira-data-center": "Jira Data Center", "github": "GitHub"}


def connectors_table(rows: Sequence[Figures]) -> str:
    """A row for each product: requests of each step on its largest site beside the least, rate, memory by size."""
    steps = list(dict.fromkeys(row["step"] for row in rows))
    lines = []
    for product in dict.fromkeys(row["product"] for row in rows):
        ours = [row for row in rows if row["product"] == product]
        largest = {row["step"]: row for row in ours if row["site_issues"] == ours[-1]["site_issues"]}
        read = largest["read"]
        peaks = ", ".join(f"{row['peak_mib']:,.0f}" for row in ours if row["step"] == "read")
        requests = [_requests(largest[step]) for step in steps]
        work = [f"{read['issues_per_s']:,.0f}", f"{read['cpu_s']:.1f}"]
        lines.append([NAMES[product], *requests, *work, peaks])
    sizes = ", ".join(f"{size:,}" for size in dict.fromkeys(row["site_issues"] for row in rows))
    return table(["requests / the least", *steps, "issues/s", "CPU s", f"peak MiB at {sizes} issues"], lines)


def runs_table(runs: Sequence[Figures]) -> str:
    """The whole pipeline on a fake Jira and with a stand-in for the model, run by run."""
    lines = [
        [
            run["step"],
            f"{run['read']:,}",
            f"{run['requests']:,}",
            f"{run['seconds']:.1f}",
            f"{run['cpu_s']:.1f}",
            "" if run["issues_per_s"] is None else f"{run['issues_per_s']:,.0f}",
            f"{run['peak_mib']:,.0f}",
        ]
        for run in runs
    ]
    size = runs[0]["site_issues"] if runs else 0
    head = [f"whole pipeline but the model, {size:,} issues", "read", "requests", "s", "CPU s", "issues/s"]
    return table([*head, "peak MiB, Postgres too"], lines)


def backfill_table(rows: Sequence[Figures]) -> str:
    """A row for each number of workers."""
    lines = [
        [
            f"{row['workers']}",
            f"{row['documents_per_s']:,}",
            f"{row['vectors_per_s']:,}",
            f"{row['unchanged_documents_per_s']:,}",
            f"{row['worker_cpu_us_a_document']:,}",
            *(
                "; ".join(
                    ", ".join(
                        f"{peak:,}" for peak in (found[1 % len(found)], found[len(found) // 2], max(found))
                    )
                    for name, found in row["peak_mib_by_tenth"].items()
                    if name.startswith(of)
                )
                for of in ("worker", "postgres")
            ),
        ]
        for row in rows
    ]
    size = rows[0]["documents"] if rows else 0
    head = [f"{size:,} documents, workers", "documents/s", "vectors/s", "unchanged/s", "CPU µs a document"]
    tenths = "peak MiB in the second tenth, the sixth and the highest"
    return table([*head, f"each worker: {tenths}", "Postgres: the same"], lines)


def _requests(row: Figures) -> str:
    free = f" ({row['free']} free)" if row["free"] else ""
    return f"{row['requests']:,}{free} / {row['least']:,}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown; figures to the right."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *lines))


def section(results: Path, plots: Path) -> str:
    """All tables and pictures there are figures for."""
    parts = []
    engines = _read(results / "engines.json")
    if engines is not None and "rows" in engines:
        machine = engines["machine"]
        sets = ", ".join(machine["instruction_sets"])
        parts.append(
            f"Measured on {machine['cores']} cores of {machine['processor']} ({sets}), commit `{machine['commit']}`:"
        )
        parts.append(throughput_table(engines))
    for name, words in PICTURES.items():
        if (plots / f"{name}.png").is_file():
            parts.append(f"![{words}](benchmarks/plots/{name}.png)")
    base = _read(results / "base_size.json")
    if base is not None:
        parts.append(base_table(base))
    growth = {name: found for name in ("exact", "fast") if (found := _read(results / f"growth-{name}.json"))}
    if growth:
        parts.append(growth_table(growth))
    connectors = _read(results / "connectors.json")
    if connectors is not None:
        machine = connectors["machine"]
        parts.append(
            f"Live connectors read fakes over HTTP on loopback, on {machine['cores']} cores of "
            f"{machine['processor']}, commit `{machine['commit']}`; requests beside the least that the API's pages "
            "allow, 100 issues changed and looked at again, those answered 304 free:"
        )
        parts.append(connectors_table(connectors["rows"]))
        parts.append(runs_table(connectors["pipeline"]))
    backfill = _read(results / "backfill.json")
    if backfill is not None:
        machine, moved = backfill["machine"], backfill["passing_on"]
        parts.append(
            f"A backfill of made-up issues with everything but the model, Postgres included, on {machine['cores']}"
            f" cores of {machine['processor']}, commit `{machine['commit']}`. A vector costs"
            f" {moved['us_a_vector_and_step']:.2f} µs for each fused step that it passes in a batch,"
            f" {moved['us_a_vector_and_step_one_by_one']:.1f} µs one by one:"
        )
        parts.append(backfill_table(backfill["rows"]))
    return "\n\n".join(parts)


def with_section(readme: str, content: str) -> str:
    """The README with `content` between the markers.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md: expected {BEGIN.strip()} and {END}, in this order")
    return f"{before}{begin}{content}\n{end}{after}"


def _rate(row: Figures) -> str:
    if "texts_per_s" not in row:
        return "not measured" if "not measured" in row else ""
    ratio = row.get("ratio_to_best_sentence_transformers")
    return f"{row['texts_per_s']:,.0f}" + (f" ({ratio:.2f})" if ratio is not None else "")


def _read(path: Path) -> Figures | None:
    if not path.is_file():
        return None
    found: Figures = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", help="files of figures"
    )
    options = parser.parse_args()
    readme = ROOT / "README.md"
    content = section(options.results, ROOT / "benchmarks" / "plots")
    readme.write_text(with_section(readme.read_text(encoding="utf-8"), content), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

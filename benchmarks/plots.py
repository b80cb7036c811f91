"""Pictures of the figures: rates by engine and length, rate against batch budget, quality against speed.

    python -m benchmarks.plots [--results FOLDER] [--folder benchmarks/plots]

Reads the JSON files of the other benchmarks; a picture whose figures are not there is left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.hardware import ROOT
from benchmarks.suite import WORK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Figures = Mapping[str, Any]

MAX_BYTES = 100_000
OURS, THEIRS = "#1f6f8b", "#b0b0b0"


def draw_throughput(engines: Figures, axes: Sequence[Axes]) -> None:
    """Texts/s of every contender, a panel for each corpus."""
    for panel, corpus in zip(axes, engines["corpora"], strict=True):
        rows = [row for row in engines["rows"] if row["corpus"] == corpus and "texts_per_s" in row]
        rows.sort(key=lambda row: row["texts_per_s"])
        colours = [OURS if row["contender"].startswith("headrace") else THEIRS for row in rows]
        bars = panel.barh([_label(row) for row in rows], [row["texts_per_s"] for row in rows], color=colours)
        panel.bar_label(bars, [f" {row['texts_per_s']:,.0f}" for row in rows], fontsize=7)
        panel.margins(x=0.18)
        tokens = engines["corpora"][corpus]["tokens_mean"]
        panel.set_title(f"{corpus}: {tokens:.0f} tokens on average", fontsize=9, loc="left")
        panel.set_xlabel("texts/s", fontsize=8)
        panel.tick_params(labelsize=7)


def draw_budgets(engines: Figures, axes: Sequence[Axes]) -> None:
    """Texts/s against the padded tokens of one call."""
    [panel] = axes
    for name, rates in engines["budgets"].items():
        panel.plot([int(budget) for budget in rates], list(rates.values()), marker="o", label=name)
    panel.set_xscale("log", base=2)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("padded tokens of one call")
    panel.set_ylabel("texts/s (mixed)")
    panel.legend(fontsize=8)


def draw_quality(points: Sequence[tuple[str, float, Mapping[str, float]]], axes: Sequence[Axes]) -> None:
    """Retrieval figures against texts/s, a panel for each figure.

    Args:
        points: name, texts/s on `mixed`, figure -> value.
    """
    names = list(points[0][2])
    for panel, name in zip(axes, names, strict=True):
        for label, rate, values in points:
            panel.scatter([rate], [values[name]], color=OURS)
            panel.annotate(label, (rate, values[name]), textcoords="offset points", xytext=(6, 4), fontsize=8)
        panel.margins(0.35)
        panel.set_title(name.replace("_", " "), fontsize=9, loc="left")
        panel.set_xlabel("texts/s (mixed)", fontsize=8)
        panel.tick_params(labelsize=8)


def quality_points(
    engines: Figures, retrieval: Mapping[str, Figures]
) -> list[tuple[str, float, Mapping[str, float]]]:
    """Precisions that have both a rate and retrieval figures.

    Args:
        retrieval: precision -> figures of `benchmarks.retrieval`.
    """
    wanted = ("stsb_spearman", "scifact_exhaustive_ndcg", "jira_exhaustive_ndcg")
    rates = {row["contender"]: row.get("texts_per_s") for row in engines["rows"] if row["corpus"] == "mixed"}
    return [
        (precision, rate, {name: found["figures"][name] for name in wanted})
        for precision, found in retrieval.items()
        if (rate := rates.get(f"headrace {precision}")) is not None
    ]


def write_plots(results: Path, folder: Path) -> list[Path]:
    """Draw what there are figures for."""
    engines = _read(results / "engines.json")
    if engines is None or "rows" not in engines:
        print(f"no pictures: {results / 'engines.json'} is not there or not finished", file=sys.stderr)
        return []
    folder.mkdir(parents=True, exist_ok=True)
    corpora = len(engines["corpora"])
    written = [
        _write(folder / "throughput.png", corpora, (4.2, 3.6), lambda axes: draw_throughput(engines, axes))
    ]
    if engines.get("budgets"):
        written.append(
            _write(folder / "budgets.png", 1, (5.5, 3.4), lambda axes: draw_budgets(engines, axes))
        )
    else:
        print("no picture of batch budgets: they are part of a full run", file=sys.stderr)
    files = {precision: _read(results / f"retrieval-{precision}.json") for precision in ("exact", "fast")}
    points = quality_points(engines, {name: found for name, found in files.items() if found is not None})
    if points:
        written.append(
            _write(
                folder / "quality.png", len(points[0][2]), (3.4, 3.0), lambda axes: draw_quality(points, axes)
            )
        )
    else:
        print("no picture of quality: retrieval was not measured", file=sys.stderr)
    return written


def _write(
    path: Path, panels: int, inches: tuple[float, float], draw: Callable[[Sequence[Axes]], None]
) -> Path:
    """One row of panels as a PNG of at most 100 kB."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, panels, figsize=(inches[0] * panels, inches[1]), squeeze=False)
    draw(list(axes[0]))
    for panel in axes[0]:
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    for dpi in (100, 80, 60):
        # The date and the library's version would change the file with every run.
        figure.savefig(path, dpi=dpi, metadata={"Software": None})
        if path.stat().st_size <= MAX_BYTES:
            break
    pyplot.close(figure)
    return path


def _label(row: Mapping[str, Any]) -> str:
    name: str = row["contender"]
    return f"{name} ({row['engine']} {row['arithmetic']})" if name.startswith("headrace") else name


def _read(path: Path) -> Figures | None:
    if not path.is_file():
        return None
    found: Figures = json.loads(path.read_text(encoding="utf-8"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=WORK / "results", help="files of figures")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "benchmarks" / "plots", help="where pictures go"
    )
    options = parser.parse_args()
    for path in write_plots(options.results, options.folder):
        print(f"{path} ({path.stat().st_size / 1000:.0f} kB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

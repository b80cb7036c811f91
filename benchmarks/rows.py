"""Answers of contenders as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.figures import (
    ceiling_texts_per_s,
    encoder_flops,
    median_ratio,
    share_of_ceiling,
    usd_per_million_tokens,
)
from benchmarks.workers import Contender
from transforms.embedders.encoder import EncoderShape

REFERENCE = "sentence-transformers batch "


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts, and the tokens of each as the model takes them."""

    name: str
    texts: list[str]
    lengths: list[int]


def row_of(
    contender: Contender,
    corpus: Corpus,
    answers: Mapping[str, dict[str, Any]],
    rounds: int,
    shape: EncoderShape,
    gflops: Mapping[str, float],
    agreement: Mapping[str, tuple[float, float]],
    usd_per_hour: float,
) -> dict[str, Any]:
    """Everything about one contender and one corpus; `not measured` instead of figures where there are none.

    Args:
        answers: `contender|corpus|round` -> answer; round 0 warmed up.
        gflops: arithmetic -> ceiling of the machine.
        agreement: corpus -> lowest and mean cosine to fp32.
    """
    row: dict[str, Any] = {"contender": contender.name, "corpus": corpus.name}
    warm = answers.get(f"{contender.name}|{corpus.name}|0", {"error": "not asked"})
    seconds = seconds_by_round(answers, contender.name, corpus.name, rounds)
    if "error" in warm or not seconds:
        return row | {"not measured": warm.get("error", "no timed round")}
    lengths = corpus.lengths[: contender.limit]
    tokens, flops = sum(lengths), encoder_flops(shape, lengths)
    middle = median(seconds.values())
    facts = warm.get("facts", {})
    arithmetic = facts.get("arithmetic", "fp32")
    row |= {
        "engine": facts.get("engine"),
        "arithmetic": arithmetic,
        "version": facts.get("version"),
        "texts": len(lengths),
        "rounds": len(seconds),
        "texts_per_s": round(len(lengths) / middle, 1),
        "texts_per_s_range": [
            round(len(lengths) / slowest, 1) for slowest in (max(seconds.values()), min(seconds.values()))
        ],
        "tokens_per_s": round(tokens / middle),
        "usd_per_million_tokens": round(usd_per_million_tokens(tokens / middle, usd_per_hour), 5),
        "peak_mib": warm.get("peak_mib"),
        "padding": warm.get("padding"),
        "load_average": max(
            answers[f"{contender.name}|{corpus.name}|{number}"].get("load", 0.0) for number in seconds
        ),
    }
    if arithmetic in gflops:
        row["share_of_ceiling"] = round(share_of_ceiling(flops, middle, gflops[arithmetic]), 3)
        row["ceiling_texts_per_s"] = round(ceiling_texts_per_s(flops, len(lengths), gflops[arithmetic]))
    if corpus.name in agreement:
        row["cosine_lowest"], row["cosine_mean"] = (round(value, 6) for value in agreement[corpus.name])
    best = best_reference(answers, corpus.name, rounds)
    if best is not None and contender.limit is None:
        ratio = median_ratio(seconds, seconds_by_round(answers, best, corpus.name, rounds))
        row["ratio_to_best_sentence_transformers"] = None if ratio is None else round(ratio, 2)
        row["is_reference"] = contender.name == best
    return row


def seconds_by_round(
    answers: Mapping[str, dict[str, Any]], contender: str, corpus: str, rounds: int
) -> dict[int, float]:
    """Round -> seconds, of those that were answered."""
    asked = {number: answers.get(f"{contender}|{corpus}|{number}", {}) for number in range(1, rounds + 1)}
    return {number: found["seconds"] for number, found in asked.items() if "seconds" in found}


def best_reference(answers: Mapping[str, dict[str, Any]], corpus: str, rounds: int) -> str | None:
    """sentence-transformers at the batch size that is fastest on this corpus."""
    names = {
        key.split("|")[0] for key in answers if key.startswith(REFERENCE) and key.split("|")[1] == corpus
    }
    medians = {
        name: median(found.values())
        for name in names
        if (found := seconds_by_round(answers, name, corpus, rounds))
    }
    return min(medians, key=lambda name: medians[name], default=None)


def print_table(rows: Sequence[Mapping[str, Any]], twins: Mapping[str, str]) -> None:
    """A table for each corpus, fastest first."""
    console = Console(width=150)
    for corpus in dict.fromkeys(row["corpus"] for row in rows):
        table = Table(title=f"{corpus} texts", title_justify="left", box=None, pad_edge=False)
        table.add_column("contender")
        table.add_column("arithmetic")
        for title in (
            "texts/s",
            "x best s-t",
            "tokens/s",
            "padding",
            "of ceiling",
            "peak MiB",
            "cosine lowest",
            "mean",
            "$/1M tokens",
        ):
            table.add_column(title, justify="right")
        ours = [row for row in rows if row["corpus"] == corpus]
        for row in sorted(ours, key=lambda row: -row.get("texts_per_s", 0.0)):
            if "not measured" in row:
                table.add_row(row["contender"], f"not measured: {row['not measured']}")
                continue
            table.add_row(
                row["contender"] + (" *" if row.get("is_reference") else ""),
                row["arithmetic"],
                f"{row['texts_per_s']:,}",
                _or_dash(row.get("ratio_to_best_sentence_transformers"), "{:.2f}"),
                f"{row['tokens_per_s']:,}",
                _or_dash(row["padding"], "{:.1%}"),
                _or_dash(row.get("share_of_ceiling"), "{:.0%}"),
                _or_dash(row["peak_mib"], "{:,}"),
                _or_dash(row.get("cosine_lowest"), "{:.5f}"),
                _or_dash(row.get("cosine_mean"), "{:.5f}"),
                f"{row['usd_per_million_tokens']:.4f}",
            )
        console.print(table)
        console.print()
    for name, twin in twins.items():
        console.print(f"{name}: the same as {twin}")


def _or_dash(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)

"""Encoders of 12 layers and 768 dimensions on short texts: how near to the machine's ceiling.

    python -m benchmarks.base_size [--full] [--json FILE] [--work FOLDER]

Shapes of bert-base and mpnet-base with random weights, which cost what trained ones cost. The ceiling is texts/s if
nothing but the matrix products took time, at the rate measured in that arithmetic.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, get_args

from benchmarks.ceiling import ceilings, measure
from benchmarks.corpora import short_texts
from benchmarks.figures import ceiling_texts_per_s, encoder_flops
from benchmarks.hardware import load_average, machine
from benchmarks.model_folders import SHAPES, write_random_folder
from benchmarks.suite import WORK, save
from benchmarks.workers import Contender, Worker
from schemas.config import Model
from schemas.spaces import Precision
from transforms.embedders.encoder import EncoderShape, read_shape
from transforms.embedders.loading import load_tokenizer

WANTED_TEXTS_PER_S = 1000


def contenders(name: str, folder: Path) -> list[Contender]:
    """headrace in each precision, and sentence-transformers at its default and a larger batch size."""
    model = {"name": f"benchmark/{name}", "folder": str(folder)}
    reference = {"kind": "sentence-transformers", "folder": str(folder), "max_tokens": 256}
    return [
        *(
            Contender(
                f"headrace {precision}", {"kind": "headrace", "model": model | {"precision": precision}}
            )
            for precision in get_args(Precision)
        ),
        *(Contender(f"sentence-transformers batch {size}", reference, size) for size in (32, 100)),
    ]


def measure_one(
    contender: Contender,
    texts: Path,
    lengths: list[int],
    shape: EncoderShape,
    gflops: dict[str, float],
    rounds: int,
) -> dict[str, Any]:
    """A row of the table: the median of some rounds after one that warms up."""
    worker = Worker(contender, texts.with_suffix(".log"))
    try:
        asked = [worker.ask(texts) for _ in range(rounds + 1)][1:]
    finally:
        worker.close()
    failure = next((found["error"] for found in asked if "error" in found), None)
    if failure is not None:
        return {"contender": contender.name, "not measured": failure}
    rate = len(lengths) / median(found["seconds"] for found in asked)
    arithmetic = worker.facts["arithmetic"]
    row = {
        "contender": contender.name,
        "engine": worker.facts["engine"],
        "arithmetic": arithmetic,
        "texts_per_s": round(rate, 1),
        "peak_mib": asked[-1]["peak_mib"],
        "load_average": load_average(),
    }
    if arithmetic in gflops:
        most = ceiling_texts_per_s(encoder_flops(shape, lengths), len(lengths), gflops[arithmetic])
        row |= {"ceiling_texts_per_s": round(most), "share_of_ceiling": round(rate / most, 3)}
    return row


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="more texts and rounds")
    parser.add_argument("--texts", type=int, help="how many (full: 1000, quick: 100)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--work", type=Path, default=WORK, help="where the models are kept, 880 MB")
    options = parser.parse_args()
    count = options.texts or (1000 if options.full else 100)
    options.work.mkdir(parents=True, exist_ok=True)
    texts = options.work / f"short-{count}.json"
    texts.write_text(json.dumps(list(islice(short_texts(), count))), encoding="utf-8")
    best = ceilings(measure(seconds=0.5 if options.full else 0.1))
    gflops = {arithmetic: rate.gflops for arithmetic, rate in best.items()}
    rows = []
    for name in SHAPES:
        folder = write_random_folder(name, options.work / name)
        tokenizer = load_tokenizer(Model(name=f"benchmark/{name}", folder=folder))
        lengths = [len(ids) for ids in tokenizer.encode(json.loads(texts.read_text(encoding="utf-8")))]
        shape = read_shape(folder / "config.json")
        for contender in contenders(name, folder):
            row = {"model": name} | measure_one(
                contender, texts, lengths, shape, gflops, 5 if options.full else 2
            )
            rows.append(row)
            print(_line(row), flush=True)
            time.sleep(0.3)
    save(
        options.json,
        {
            "benchmark": "base_size",
            "texts": count,
            "machine": machine(),
            "ceilings": {arithmetic: asdict(rate) for arithmetic, rate in best.items()},
            "wanted_texts_per_s": WANTED_TEXTS_PER_S,
            "rows": rows,
        },
    )
    return 0


def _line(row: dict[str, Any]) -> str:
    head = f"{row['model']:11} {row['contender']:32}"
    if "not measured" in row:
        return f"{head} not measured: {row['not measured']}"
    most = row.get("ceiling_texts_per_s")
    share = f" of at most {most:,} in {row['arithmetic']} ({row['share_of_ceiling']:.0%})" if most else ""
    return f"{head} {row['texts_per_s']:8,.1f} texts/s{share}, {row['engine']}"


if __name__ == "__main__":
    sys.exit(main())

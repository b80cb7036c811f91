"""A thousand texts or a million: the same rate, the same memory?

    python -m benchmarks.growth [--precision exact] [--largest 100000] [--json FILE]

Short texts from a generator, vectors dropped buffer by buffer; each size in a process of its own, so that its peak
is its own. A size whose figures are in the file already is not run again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from benchmarks.corpora import short_texts
from benchmarks.embedding import embed_stream
from benchmarks.hardware import ROOT, code_digest, load_average, machine
from benchmarks.suite import save
from schemas.config import Model
from schemas.spaces import Precision
from transforms.embedders.loading import load_engine, load_tokenizer

SMALLEST = 1000
MEMORY_GROWTH = 1.10
"""Peak of the largest size over that of 10,000 that still counts as flat."""


def one_size(model: Model, texts: int) -> dict[str, Any]:
    """Embed so many texts in this process."""
    engine, tokenizer = load_engine(model), load_tokenizer(model)
    for _ in embed_stream(engine, tokenizer, islice(short_texts(), 256), model.max_buffer_tokens):
        pass
    started = time.perf_counter()
    done = tokens = 0
    for result in embed_stream(engine, tokenizer, islice(short_texts(), texts), model.max_buffer_tokens):
        done += len(result.vectors) - len(result.failed)
        tokens += result.tokens
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "texts": texts,
        "embedded": done,
        "seconds": round(seconds, 2),
        "texts_per_s": round(done / seconds, 1),
        "tokens_per_s": round(tokens / seconds),
        "peak_mib": round(peak / 2**20),
        "load_average": load_average(),
    }


def sizes_up_to(largest: int) -> list[int]:
    """1,000 and ten times as many each, the largest included."""
    sizes, size = [], SMALLEST
    while size < largest:
        sizes.append(size)
        size *= 10
    return [*sizes, largest]


def is_flat(rows: list[dict[str, Any]]) -> bool:
    """Whether memory stopped growing with the number of texts once the first buffers had been full."""
    settled = [row["peak_mib"] for row in rows if row["texts"] >= 10 * SMALLEST]
    return not settled or settled[-1] <= MEMORY_GROWTH * settled[0]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--precision", choices=get_args(Precision), default="exact")
    parser.add_argument("--largest", type=int, default=100_000, help="texts (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument(
        "--one", type=int, metavar="TEXTS", help="this size only, in this process; prints JSON"
    )
    options = parser.parse_args()
    model = Model(precision=options.precision)
    if options.one:
        print(json.dumps(one_size(model, options.one)))
        return 0
    now, code = machine(), code_digest()
    saved = (
        json.loads(options.json.read_text(encoding="utf-8"))
        if options.json and options.json.is_file()
        else {}
    )
    same = saved.get("precision") == options.precision and saved.get("code") == code
    known = {row["texts"]: row for row in saved["rows"]} if same else {}
    rows: list[dict[str, Any]] = []
    for size in sizes_up_to(options.largest):
        if size not in known:
            command = [
                sys.executable,
                "-m",
                "benchmarks.growth",
                "--one",
                str(size),
                "--precision",
                options.precision,
            ]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            known[size] = json.loads(done.stdout.splitlines()[-1])
        row = known[size]
        rows.append(row)
        print(f"{size:9,} texts {row['texts_per_s']:9,.1f} texts/s, peak {row['peak_mib']:,} MiB", flush=True)
        save(
            options.json,
            {
                "benchmark": "growth",
                "precision": options.precision,
                "machine": now,
                "code": code,
                "rows": rows,
                "flat": is_flat(rows),
            },
        )
    print("memory is flat" if is_flat(rows) else "memory grows with the number of texts")
    return 0 if is_flat(rows) else 1


if __name__ == "__main__":
    sys.exit(main())

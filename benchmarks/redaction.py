"""What redaction costs, and what it takes for a secret in real issues.

    python -m benchmarks.redaction --data ../shared/data [--every 1] [--sample FILE] [--json FILE]

Redacts the text of every issue of a Jira export in one thread (figures: MB of text/s of processor time, its share of
the time a local engine needs for the same text, and findings by kind). The sample, at most 40 of a kind with what
stands around them, is for looking at on this machine: it holds what was found, so it is written to a file alone.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.corpora import JIRA, SEED
from benchmarks.hardware import machine
from benchmarks.suite import save
from extractors.exports import ExportFiles
from extractors.read import to_document
from schemas.errors import RecordError
from schemas.sources import ExportSource
from transforms.redaction import DETECTORS, merged, redact_text

ENGINE_BYTES_PER_S = 110_000
"""Of text that the fastest local engine embeds with two cores: 32,000 tokens/s."""
AROUND = 40
MAX_SAMPLE = 40


def issue_texts(export: Path) -> Iterator[str]:
    """Texts of all issues of an export, in order."""
    source = ExportSource(type="export", name="jira", paths=(str(export.resolve()),))
    for page in ExportFiles(source, "benchmark").pages(None):
        for record in page.records:
            try:
                yield to_document(record, source).text
            except RecordError:
                continue


def measure(texts: Sequence[str]) -> dict[str, Any]:
    """Speed of the whole and of each detector; findings by kind."""
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    redact_text(texts[0])  # what is loaded on first use
    began = time.process_time()
    counts = [redact_text(text)[1] for text in texts]
    seconds = time.process_time() - began
    alone = {}
    for detect in DETECTORS:
        began = time.process_time()
        for text in texts:
            for _ in detect(text):
                pass
        alone[detect.__name__] = round(size / (time.process_time() - began) / 1e6, 1)
    return {
        "texts": len(texts),
        "mb": round(size / 1e6, 1),
        "mb_per_s": round(size / seconds / 1e6, 1),
        "share_of_engine_time": round(seconds / (size / ENGINE_BYTES_PER_S), 4),
        "detectors_mb_per_s": alone,
        "texts_with_findings": sum(map(bool, counts)),
        "findings": dict(sorted(sum(counts, Counter()).items())),
    }


def sample(texts: Sequence[str]) -> dict[str, list[str]]:
    """Some findings of each kind, with what stands around them."""
    found: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        for kind, start, end in merged(one for detect in DETECTORS for one in detect(text)):
            before, after = text[max(0, start - AROUND) : start], text[end : end + AROUND]
            found[kind].append(f"{before}⟦{text[start:end]}⟧{after}")
    chance = random.Random(SEED)
    return {kind: chance.sample(some, min(MAX_SAMPLE, len(some))) for kind, some in sorted(found.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="folder of real payloads")
    parser.add_argument("--every", type=int, default=1, help="take every so many-th issue")
    parser.add_argument("--sample", type=Path, help="file to write findings to; keep it on this machine")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    texts = list(islice(issue_texts(options.data / JIRA), 0, None, options.every))
    figures = measure(texts)
    print(json.dumps(figures, indent=1))
    if options.sample:
        options.sample.write_text(json.dumps(sample(texts), indent=1, ensure_ascii=False), encoding="utf-8")
    if options.json:
        save(options.json, {"machine": machine(), "redaction": figures})


if __name__ == "__main__":
    main()

"""Texts to embed: the same on every machine, of lengths as people really have them.

`short` is the sentence that embedding benchmarks like (10 tokens); `mixed` has log-normal lengths (65 tokens on
average, of random words); `long` fills the model's 256 tokens; `jira` is the chunks of real
issues, where the file is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from extractors.exports import ExportFiles
from extractors.read import to_document
from schemas.config import Chunking, Model
from schemas.documents import Chunk, Document
from schemas.errors import RecordError
from schemas.sources import ExportSource
from transforms.chunk import chunk_document
from transforms.embedders.base import Tokenizer
from transforms.embedders.loading import load_tokenizer
from transforms.embedders.word_memo import WordMemo

JIRA = Path("jira") / "jira_v2_tidev.jsonl.gz"
"""Inside the folder of real payloads: REST v2 issues, one a line."""

JIRA_EVERY = 37
"""Every so many-th chunk is taken, so that a sample spans years of issues."""

SEED = 0


def vocabulary(tokenizer_json: Path) -> list[str]:
    """Whole words of the model's vocabulary: each is one token."""
    pieces = json.loads(tokenizer_json.read_text(encoding="utf-8"))["model"]["vocab"]
    return sorted(piece for piece in pieces if piece.isascii() and piece.isalpha() and len(piece) > 2)


def short_texts() -> Iterator[str]:
    """No two alike, without end."""
    number = 0
    while True:
        yield f"Sample text for embedding test {number}"
        number += 1


def mixed_texts(words: Sequence[str], seed: int = SEED) -> Iterator[str]:
    """4 to 230 words, log-normal (median 45), without end."""
    chance = random.Random(seed)
    while True:
        length = int(min(230, max(4, chance.lognormvariate(3.8, 0.9))))
        yield " ".join(chance.choices(words, k=length))


def long_texts(words: Sequence[str], tokens: int = 256, seed: int = SEED) -> Iterator[str]:
    """`tokens` each, the two special ones included, without end."""
    chance = random.Random(seed)
    while True:
        yield " ".join(chance.choices(words, k=tokens - 2))


def jira_texts(export: Path, tokenizer: Tokenizer, max_tokens: int) -> Iterator[str]:
    """Texts of chunks of an export, every 37th."""
    for chunk in islice(jira_chunks(export, tokenizer, max_tokens), 0, None, JIRA_EVERY):
        yield chunk.text


def jira_documents(export: Path) -> Iterator[Document]:
    """Documents of the issues of an export; issues without any are passed over."""
    source = ExportSource(type="export", name="jira", paths=(str(export.resolve()),))
    for page in ExportFiles(source, "benchmark").pages(None):
        for record in page.records:
            try:
                yield to_document(record, source)
            except RecordError:
                continue


def jira_chunks(export: Path, tokenizer: Tokenizer, max_tokens: int) -> Iterator[Chunk]:
    """Chunks of the issues of an export as a run would make them."""
    words = WordMemo(tokenizer)
    for document in jira_documents(export):
        yield from chunk_document(document, words, Chunking(), max_tokens).chunks


def make_corpora(
    sizes: dict[str, int], model: Model, tokenizer_json: Path, data: Path | None
) -> dict[str, list[str]]:
    """So many texts of each corpus; `jira` is left out where `data` does not have the file.

    Args:
        sizes: corpus -> texts.
        data: folder with `jira/`.
    """
    words = vocabulary(tokenizer_json)
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "short": short_texts,
        "mixed": lambda: mixed_texts(words),
        "long": lambda: long_texts(words),
    }
    if data is not None and (data / JIRA).is_file():
        makers["jira"] = lambda: jira_texts(data / JIRA, load_tokenizer(model), 256)
    return {name: list(islice(makers[name](), size)) for name, size in sizes.items() if name in makers}


def histogram(lengths: Sequence[int], edges: Sequence[int] = (8, 16, 32, 64, 128, 256)) -> dict[str, int]:
    """How many lengths are at most each edge and above the one before; `more` beyond the last."""
    counts: dict[str, int] = {}
    below = 0
    for edge in edges:
        counts[f"{below + 1}-{edge}"] = sum(below < length <= edge for length in lengths)
        below = edge
    counts["more"] = sum(length > below for length in lengths)
    return counts

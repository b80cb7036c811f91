"""A card's throughput on `mixed`, against sentence-transformers at its defaults on the same card.

    python -m benchmarks.gpu [--texts 20000] [--rounds 5] [--json FILE]

Every time includes tokenising. Rounds are interleaved: each runs all contenders once, one after the other, and ratios
are taken within a round. `share_of_bf16_rate` is of what the card itself does in large bf16 matrix products, measured
here; `engine_alone` leaves tokenising out. Without a card it says so and ends well.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.corpora import mixed_texts, vocabulary
from benchmarks.figures import Floats, cosines, encoder_flops, median_ratio
from benchmarks.hardware import machine
from schemas.config import Model
from schemas.spaces import EmbeddingSpace, Precision
from transforms.embedders.base import Engine, TokenIds, Tokenizer
from transforms.embedders.batching import embed_all
from transforms.embedders.cores import available_cores
from transforms.embedders.encoder import Encoder, read_encoder
from transforms.embedders.models import default_cache_dir, locate_model, space_of
from transforms.embedders.tokenizer import ModelTokenizer, cut

TEXTS_PER_BUFFER = 4096
"""Tokenized ahead while the card works on the buffer before."""

MATMUL = 8192
"""Rows, columns and inner dimension of the products that give the card's rate."""

WANTED_RATIO = 5.0

Embed = Callable[[Sequence[str]], Floats]


def token_buffers(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> Iterator[list[TokenIds]]:
    """Token ids of `texts` in their order, the next buffer made in another thread while one is used."""

    def tokenized(start: int) -> list[TokenIds]:
        return [cut(ids, max_tokens) for ids in tokenizer.encode(texts[start : start + TEXTS_PER_BUFFER])]

    with ThreadPoolExecutor(1, "tokenizer") as ahead:
        coming = ahead.submit(tokenized, 0)
        for start in range(TEXTS_PER_BUFFER, len(texts), TEXTS_PER_BUFFER):
            ready, coming = coming.result(), ahead.submit(tokenized, start)
            yield ready
        yield coming.result()


def embed_buffers(engine: Engine, buffers: Iterator[list[TokenIds]]) -> Floats:
    """Vectors in the order of the buffers.

    Raises:
        RuntimeError: one input could not be embedded.
    """
    results = [embed_all(engine, buffer) for buffer in buffers]
    failed = [reason for result in results for reason in result.failed.values()]
    if failed:
        raise RuntimeError(f"{len(failed)} texts could not be embedded: {failed[0]}")
    return np.concatenate([result.vectors for result in results])


def bf16_gflops(device: str, size: int = MATMUL, repeat: int = 20) -> float:
    """10^9 operations a second of a large bf16 product, the best of `repeat`."""
    import torch

    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    seconds = []
    for _ in range(repeat + 3):  # the first ones choose a kernel
        started = time.perf_counter()
        left @ right
        if device != "cpu":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds) / 1e9


def sentence_transformers_at_defaults(folder: Path, max_tokens: int, device: str) -> Embed:
    """As people call it: fp32, 32 texts a batch."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device=device, local_files_only=True)
    model.max_seq_length = max_tokens

    def embed(texts: Sequence[str]) -> Floats:
        vectors: Floats = model.encode(list(texts), show_progress_bar=False)
        return vectors

    return embed


def engines(encoder: Encoder, space: EmbeddingSpace, device: str) -> dict[str, Engine]:
    """Both precisions, with and without torch's compiler."""
    from transforms.embedders.torch_engine import encoder_engine

    classes: tuple[Precision, ...] = ("exact", "fast")
    return {
        f"{precision}, {'compiled' if compiled else 'as is'}": encoder_engine(
            encoder, replace(space, precision=precision), available_cores(), device, compiled=compiled
        )
        for precision in classes
        for compiled in (False, True)
    }


def compare(folder: Path, space: EmbeddingSpace, device: str, count: int, rounds: int) -> dict[str, Any]:
    """All contenders on the same texts.

    Args:
        folder: of the model.
        count: texts.
        rounds: timed ones, after one that is not.
    """
    import torch

    encoder = read_encoder(folder / "model.safetensors", folder / "config.json")
    tokenizer = ModelTokenizer(folder / "tokenizer.json")
    texts = list(islice(mixed_texts(vocabulary(folder / "tokenizer.json")), count))
    buffers = list(token_buffers(tokenizer, texts, space.max_tokens))
    lengths = [len(ids) for buffer in buffers for ids in buffer]
    ours = engines(encoder, space, device)

    def embed_with(engine: Engine) -> Embed:
        return lambda texts: embed_buffers(engine, token_buffers(tokenizer, texts, space.max_tokens))

    peer = "sentence-transformers, defaults"
    contenders: dict[str, Embed] = {peer: sentence_transformers_at_defaults(folder, space.max_tokens, device)}
    contenders |= {name: embed_with(engine) for name, engine in ours.items()}
    vectors = {
        name: embed(texts) for name, embed in contenders.items()
    }  # kernels are chosen and compiled here
    seconds: dict[str, dict[int, float]] = {name: {} for name in contenders}
    alone: dict[str, list[float]] = {name: [] for name in ours}
    for number in range(rounds):
        for name, embed in contenders.items():
            seconds[name][number] = seconds_of(lambda embed=embed: embed(texts))  # type: ignore[misc]
        for name, engine in ours.items():
            alone[name].append(seconds_of(lambda engine=engine: embed_buffers(engine, iter(buffers))))  # type: ignore[misc]
    rate = bf16_gflops(device)
    operations = encoder_flops(encoder.shape, lengths)
    rows = []
    for name, of_round in seconds.items():
        took = median(of_round.values())
        row: dict[str, Any] = {
            "contender": name,
            "texts_per_s": round(count / took, 1),
            "tokens_per_s": round(sum(lengths) / took, 1),
            "ratio": round(median_ratio(of_round, seconds[peer]) or 0, 2),
            "share_of_bf16_rate": round(operations / took / (rate * 1e9), 4),
        }
        if name in ours:
            agreement = cosines(vectors[name], vectors[peer])
            took_alone = median(alone[name])
            row |= {
                "arithmetic": ours[name].facts.arithmetic,
                "engine_alone_texts_per_s": round(count / took_alone, 1),
                "engine_alone_share_of_bf16_rate": round(operations / took_alone / (rate * 1e9), 4),
                "cosine_min": round(float(agreement.min()), 6),
                "cosine_mean": round(float(agreement.mean()), 6),
            }
        rows.append(row)
    return {
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "cpu",
        "bf16_gflops": round(rate, 1),
        "texts": count,
        "tokens": sum(lengths),
        "rounds": rounds,
        "rows": rows,
        "wanted_ratio": WANTED_RATIO,
        "reached": max(row["ratio"] for row in rows) >= WANTED_RATIO,
    }


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def why_not() -> str:
    """Why nothing can be measured here; empty when it can."""
    missing = [name for name in ("torch", "sentence_transformers") if find_spec(name) is None]
    if missing:
        return f"not measured: {' and '.join(missing)} not installed: pip install 'headrace[torch]'"
    import torch

    return "" if torch.cuda.is_available() else "not measured: no CUDA device"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures as JSON; 0 also where there is no card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {"benchmark": "gpu", "machine": machine()}
    reason = why_not()
    if reason:
        found["result"] = reason
    else:
        folder = locate_model(Model(), default_cache_dir())
        found |= compare(folder, space_of(Model()), "cuda", options.texts, options.rounds)
    text = json.dumps(found, indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

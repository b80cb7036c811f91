"""What stands between a text and an endpoint costs, beside embedding the same text here.

    python -m benchmarks.routing --data ../shared/data [--every 20] [--precision fast] [--json FILE]

Jira issues are redacted as the pipeline does it, whole and with their attributes; their chunks are looked up in a
cache and handed to the router, whose one endpoint answers at once: all that is measured is ours. Routing is packing,
breaker and gate; limits are a rate limit and a budget in Postgres, with its durability on, and the row of the ledger.
The local engine embeds the same chunks, by turns (figures: seconds for a million tokens, and shares of the local
engine's).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import numpy as np

from benchmarks.corpora import JIRA, jira_documents
from benchmarks.hardware import machine
from benchmarks.suite import save
from schemas.allowances import AllowanceSettings, Budget, RateLimit
from schemas.config import Cache, Chunking, Config, Model
from schemas.documents import Chunk, Document
from schemas.integrations import Integration
from schemas.spaces import EmbeddingSpace, Precision
from schemas.usage import Price
from transforms import embedded_postgres
from transforms.allowance.base import Allowance, Estimate, Reservation
from transforms.allowance.opening import open_allowance
from transforms.allowance.rules import set_rule
from transforms.caches.base import CacheScope, VectorCache, input_key
from transforms.caches.opening import open_cache
from transforms.chunk import chunk_document
from transforms.embedders.batching import embed_all
from transforms.embedders.loading import load_engine, load_tokenizer
from transforms.embedders.word_memo import WordMemo
from transforms.postgres import Store, open_store
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits
from transforms.providers.engine import RemoteEngine
from transforms.providers.inputs import RemoteWords, TextInput
from transforms.providers.metering import Account, LedgerMeter
from transforms.redact import redact_document
from transforms.routing.opening import open_router
from transforms.stored_integrations import write_integrations

WANTED_SHARE = 0.05
PARTS = ("routing", "limits", "cache", "redaction")
BUFFER_TOKENS = 32_768
BUFFERS_AT_ONCE = 2
CLIENT = "benchmark"
PRICE = Price(Decimal("0.02"), date(2026, 11, 21), "a benchmark")
INTEGRATION = Integration(name="at-once", provider="gateway", model="none", url="http://127.0.0.1:9/v1")


class AtOnce:
    """A provider that answers without a request."""

    def __init__(self, dimensions: int) -> None:
        limits = RequestLimits(2048, 300_000, 8192)
        self.info = ModelInfo("gateway", "none", dimensions, False, limits, PRICE)
        self._vectors = np.zeros((limits.max_inputs, dimensions), np.float32)
        self._vectors[:, 0] = 1

    def embed(self, texts: Sequence[str], purpose: Purpose) -> Reply:
        return Reply(self._vectors[: len(texts)], None, None)

    def validate_credentials(self) -> None: ...

    def available_models(self) -> tuple[str, ...]:
        return ()

    def model_info(self, model: str) -> ModelInfo:
        return self.info

    def close(self) -> None: ...


class Granted:
    """An allowance that counts nothing."""

    def reserve(self, estimate: Estimate) -> Reservation:
        return Reservation(uuid4(), estimate, counted=False)

    def settle(self, reservation: Reservation, tokens: int, usd: Decimal) -> None: ...

    def release(self, reservation: Reservation) -> None: ...

    def close(self) -> None: ...


def seconds_of(work: Callable[[], object]) -> float:
    """Wall seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def routed_s(store: Store, buffers: Sequence[Sequence[TextInput]], accounted: bool) -> float:
    """Seconds of routing the buffers, with limits and ledger or without."""
    space = EmbeddingSpace("none", "0" * 64, "exact", "remote", True, 384, 256)
    settings = AllowanceSettings()
    now = partial(datetime.now, UTC)
    allowance: Allowance = open_allowance(settings, store, now) if accounted else Granted()
    meter = LedgerMeter(store, Account(CLIENT, None, space.space_id))
    provider = AtOnce(space.dimensions)
    router = open_router(
        store,
        space,
        CLIENT,
        INTEGRATION.name,
        lambda integration: provider,
        allowance,
        meter if accounted else lambda call: None,
    )
    engine = RemoteEngine(space, router, "document")
    embed_all(engine, buffers[0][:1])  # the canaries
    try:
        return seconds_of(lambda: [embed_all(engine, buffer) for buffer in buffers])
    finally:
        router.close()
        allowance.close()
        meter.close()


def cached_s(cache: VectorCache, buffers: Sequence[Sequence[TextInput]]) -> float:
    """Seconds of looking all buffers up in a cache that knows none of them, and of keeping them."""
    scope = CacheScope(CLIENT, "0" * 16, 384)
    vector = np.full(384, 384**-0.5, np.float32)

    def work() -> None:
        for buffer in buffers:
            keys = [input_key(one) for one in buffer]
            cache.get_many(scope, keys)
            cache.put_many(scope, dict.fromkeys(keys, vector))

    return seconds_of(work)


def in_buffers(inputs: Sequence[Any]) -> list[list[Any]]:
    """As the job fills them."""
    buffers: list[list[Any]] = [[]]
    tokens = 0
    for one in inputs:
        buffers[-1].append(one)
        tokens += len(one)
        if tokens >= BUFFER_TOKENS:
            buffers.append([])
            tokens = 0
    return [buffer for buffer in buffers if buffer]


def in_turns(
    documents: Iterable[Document], words: WordMemo, max_tokens: int
) -> Iterator[tuple[list[Document], list[Chunk]]]:
    """So many documents with their chunks that these fill `BUFFERS_AT_ONCE` buffers: by turns, a machine that is busy
    for a while slows all that is measured."""
    those: list[Document] = []
    made: list[Chunk] = []
    for document in documents:
        those.append(document)
        made += chunk_document(document, words, Chunking(), max_tokens).chunks
        if sum(len(chunk.model_input) for chunk in made) >= BUFFER_TOKENS * BUFFERS_AT_ONCE:
            yield those, made
            those, made = [], []
    if made:
        yield those, made


def measure(export: Path, every: int, precision: Precision, store: Store) -> dict[str, Any]:
    """Seconds of each part for the same issues."""
    model = Model(precision=precision)
    engine, words = load_engine(model), RemoteWords()
    memo = WordMemo(load_tokenizer(model))
    caches = {
        kind: open_cache(Cache.model_validate({"kind": kind}), store, partial(datetime.now, UTC))
        for kind in ("memory", "postgres")
    }
    redact_document(next(jira_documents(export)))
    spent: Counter[str] = Counter()
    issues = chunks = tokens = 0
    for documents, made in in_turns(
        islice(jira_documents(export), 0, None, every), memo, engine.space.max_tokens
    ):
        ours = in_buffers([chunk.model_input for chunk in made])
        theirs = in_buffers([TextInput(chunk.text, words.count(chunk.text)) for chunk in made])
        if not chunks:
            embed_all(engine, ours[0][:64], model.max_batch_tokens)  # warms up
        issues, chunks = issues + len(documents), chunks + len(made)
        tokens += sum(len(one) for buffer in ours for one in buffer)
        routing_s = routed_s(store, theirs, accounted=False)
        spent["embedding"] += seconds_of(
            lambda ours=ours: [embed_all(engine, buffer, model.max_batch_tokens) for buffer in ours]
        )
        spent["routing"] += routing_s
        spent["limits"] += routed_s(store, theirs, accounted=True) - routing_s
        spent["cache"] += cached_s(caches["memory"], theirs)
        spent["redaction"] += seconds_of(
            lambda documents=documents: [redact_document(one) for one in documents]
        )
        spent["cache in postgres"] += cached_s(caches["postgres"], theirs)
    for cache in caches.values():
        cache.close()
    return {
        "issues": issues,
        "chunks": chunks,
        "tokens": tokens,
        "s_per_million_tokens": {name: round(s * 1e6 / tokens, 3) for name, s in spent.items()},
        **shares_of(spent),
        "load_average": os.getloadavg()[0],
    }


def shares_of(spent: Mapping[str, float]) -> dict[str, Any]:
    """What each part, and all of them together, take of the time that embedding takes."""
    shares = {name: spent[name] / spent["embedding"] for name in (*PARTS, "cache in postgres")}
    overhead = sum(shares[name] for name in PARTS)
    return {
        "shares": {name: round(share, 4) for name, share in shares.items()},
        "overhead_share": round(overhead, 4),
        "overhead_share_with_cache_in_postgres": round(
            overhead - shares["cache"] + shares["cache in postgres"], 4
        ),
    }


def verdict(figures: Mapping[str, Any]) -> int:
    """Say whether that is as good as wanted; the exit status."""
    missed = [
        f"{name} is {figures[name]}, wanted at most {WANTED_SHARE}"
        for name in ("overhead_share", "overhead_share_with_cache_in_postgres")
        if figures[name] > WANTED_SHARE
    ]
    if missed:
        print(*missed, sep="\n")
        return 1
    print("as good as wanted")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with jira/jira_v2_tidev.jsonl.gz")
    parser.add_argument("--every", type=int, default=20, help="take every so many-th issue")
    parser.add_argument("--precision", choices=get_args(Precision), default="fast")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="headrace-routing-"))
    try:
        store = open_store(Config(data_dir=work))
        with store.connect() as connection:
            write_integrations(connection, [INTEGRATION])
            set_rule(connection, RateLimit(client=CLIENT, requests_per_minute=10**9, tokens_per_hour=10**12))
            set_rule(connection, Budget(client=CLIENT, monthly_usd=Decimal(1_000_000)))
        found = measure(options.data / JIRA, options.every, options.precision, store)
    finally:
        embedded_postgres.stop(work / "postgres")
        shutil.rmtree(work, ignore_errors=True)
    result = {
        "benchmark": "routing",
        "every": options.every,
        "precision": options.precision,
        "machine": machine(),
        "figures": found,
    }
    print(json.dumps(result, indent=2))
    save(options.json, result)
    return verdict(found)


if __name__ == "__main__":
    sys.exit(main())

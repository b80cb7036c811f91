"""What row-level security costs a search: the owner with and without it, and a role that reads one client.

    python -m benchmarks.row_security --data ../shared/data [--chunks 50000] [--json FILE]

Two clients, each with so many chunks of real issues' text, vectors made by lot, in an embedded Postgres of its own.
The same searches are asked in turns by the owner with the policies off, by the owner with them on, and by a reader of
one client; a figure is the median of a search in ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.corpora import JIRA, SEED
from benchmarks.hardware import machine
from benchmarks.redaction import issue_texts
from benchmarks.suite import save
from pipelines.candidates import Scope
from pipelines.search import find
from schemas.spaces import EmbeddingSpace
from transforms import embedded_postgres
from transforms.migrate import migrate
from transforms.postgres import Store
from transforms.row_security import grant_reader
from transforms.spaces import analyze, build_vector_index, chunk_table, register_space

SPACE = EmbeddingSpace("benchmark", "0" * 64, "exact", "mean", True, dimensions=384, max_tokens=256)
CLIENTS = ("acme", "globex")
ROLE = "benchmark_reader"
CHUNK_CHARS = 1000
QUERIES = 60


def pieces(texts: Iterator[str]) -> Iterator[str]:
    """Texts in pieces of a chunk's length."""
    for text in texts:
        for start in range(0, len(text), CHUNK_CHARS):
            yield text[start : start + CHUNK_CHARS].replace("\0", "")


def fill(connection: psycopg.Connection, texts: Sequence[str]) -> None:
    """The same texts for both clients, three chunks a document."""
    chance = np.random.default_rng(SEED)
    table = chunk_table(SPACE.space_id)
    for client in CLIENTS:
        register_space(connection, SPACE, "vector", client)
        ids = [uuid4() for _ in range(0, len(texts), 3)]
        with connection.transaction(), connection.cursor() as cursor:
            with cursor.copy(
                "COPY documents (document_id, client, source, kind, native_id, updated_at, observed_at,"
                " payload_digest) FROM STDIN"
            ) as copy:
                for number, document_id in enumerate(ids):
                    copy.write_row((document_id, client, "jira", "issue", str(number), "now", "now", b""))
            columns = "document_id, ordinal, client, text, text_hash, start_char, end_char, tokens, embedding"
            with cursor.copy(sql.SQL(f"COPY {{}} ({columns}) FROM STDIN").format(table)) as copy:
                for number, text in enumerate(texts):
                    vector = "[" + ",".join(f"{x:.4f}" for x in chance.normal(size=SPACE.dimensions)) + "]"
                    copy.write_row(
                        (ids[number // 3], number % 3, client, text, b"", 0, len(text), 200, vector)
                    )
    build_vector_index(connection, SPACE.space_id)
    analyze(connection, SPACE.space_id)


def switch(connection: psycopg.Connection, on: bool) -> None:
    """Policies on or off, in the tables that a search reads."""
    word = sql.SQL("ENABLE" if on else "DISABLE")
    for table in (sql.Identifier("documents"), chunk_table(SPACE.space_id)):
        connection.execute(sql.SQL("ALTER TABLE {} {} ROW LEVEL SECURITY").format(table, word))


def search_ms(connection: psycopg.Connection, mode: str, query: str, vector: Any) -> float:
    """One search of the first client, in ms."""
    scope = Scope(SPACE.space_id, "vector", CLIENTS[0])
    began = time.perf_counter()
    with connection.transaction():
        find(connection, scope, query, vector if mode == "vector" else None, None, mode, 10)  # type: ignore[arg-type]
    return 1000 * (time.perf_counter() - began)


def measure(owner: psycopg.Connection, reader: psycopg.Connection, texts: Sequence[str]) -> dict[str, Any]:
    """Median ms of a search by who asks and how."""
    chance = np.random.default_rng(SEED + 1)
    took: dict[str, list[float]] = defaultdict(list)
    for number in range(QUERIES):
        vector = chance.normal(size=SPACE.dimensions).astype(np.float32)
        query = " ".join(texts[int(chance.integers(len(texts)))].split()[:8])
        asking = [("owner, policies off", owner, False), ("owner", owner, True), ("reader", reader, True)]
        for mode in ("vector", "text"):
            for who, connection, on in asking if number % 2 else reversed(asking):
                switch(owner, on)
                search_ms(connection, mode, query, vector)  # plans and pages are warm for all alike
                took[f"{mode}: {who}"].append(search_ms(connection, mode, query, vector))
        if number % 10 == 9:
            print({name: round(statistics.median(some), 1) for name, some in took.items()}, flush=True)
    return {f"{name}, ms": round(statistics.median(some), 2) for name, some in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, required=True, help="folder of real payloads")
    parser.add_argument("--chunks", type=int, default=50_000, help="of each client")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    texts = list(islice(pieces(issue_texts(options.data / JIRA)), options.chunks))
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        dsn = embedded_postgres.start(Path(folder) / "postgres")
        try:
            with Store(dsn).connect_plainly() as connection:
                migrate(connection)
            with Store(dsn).connect() as owner:
                fill(owner, texts)
                grant_reader(owner, ROLE, CLIENTS[0])
                with Store(make_conninfo(dsn, user=ROLE)).connect() as reader:
                    figures = {"chunks_of_each_client": len(texts), **measure(owner, reader, texts)}
        finally:
            embedded_postgres.stop(Path(folder) / "postgres")
    print(json.dumps(figures, indent=1))
    if options.json:
        save(options.json, {"machine": machine(), "row_security": figures})


if __name__ == "__main__":
    main()

"""Small exports of our own making, and what a database holds after they were read."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson
from psycopg import sql
from rich.console import Console

from runners.progress_bar import run_progress
from runners.run import RunSummary, run
from runners.targets import HERE
from schemas.config import Config
from transforms.embedders.models import space_of
from transforms.postgres import Store
from transforms.spaces import chunk_table

WORDS = [
    "gate",
    "sluice",
    "sensor",
    "level",
    "alarm",
    "turbine",
    "intake",
    "weir",
    "relay",
    "frost",
    "restart",
    "offset",
    "broker",
    "clock",
    "audit",
    "pump",
]
DSN = "HEADRACE_TEST_RUN_DSN"

Headrace = Callable[..., tuple[int, str, str]]
"""Runs a command line; gives exit code, stdout and stderr."""


def issue(number: int, day: int = 1, words: int = 30, comments: int = 2) -> dict[str, Any]:
    """A Jira issue that is the same whenever it is made with the same numbers."""
    chance = random.Random(f"{number} {day}")

    def text(length: int) -> str:
        return " ".join(chance.choices(WORDS, k=length)) + f" ref MILL-{number % 7}"

    updated = f"2026-01-{day:02d}T10:00:00.000+0000"
    return {
        "id": str(10_000 + number),
        "key": f"MILL-{number}",
        "fields": {
            "summary": text(5),
            "description": text(words),
            "updated": updated,
            "created": "2026-01-01T09:00:00.000+0000",
            "issuetype": {"name": "Bug"},
            "status": {"name": "Open"},
            "project": {"key": "MILL", "name": "Millpond"},
            "comment": {
                "total": comments,
                "comments": [
                    {"id": str(n), "body": text(12), "author": {"displayName": "Ada"}, "created": updated}
                    for n in range(comments)
                ],
            },
        },
    }


def write_export(path: Path, issues: Iterable[dict[str, Any]]) -> Path:
    """One issue a line."""
    path.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in issues))
    return path


def run_quietly(config: Config, pipeline_args: Sequence[str] = ()) -> RunSummary:
    """A run without a bar."""
    with run_progress(Console(quiet=True), visible=False) as bar:
        summary = run(config, bar, HERE.plus(pipeline_args))
    assert summary.ok, summary.failures
    return summary


def rows_of(store: Store, config: Config) -> dict[str, list[tuple[Any, ...]]]:
    """What a run is to leave behind, whatever way it took: all rows but times and labels given by sequence."""
    table = chunk_table(space_of(config.model).space_id)
    queries = {
        "documents": sql.SQL(
            "SELECT document_id, client, source, kind, native_id, updated_at, observed_at, payload_digest, project,"
            " key, title, url, author, attributes::text, comments_total, comments_kept, deleted_at FROM documents"
            " ORDER BY document_id"
        ),
        "chunks": sql.SQL(
            "SELECT document_id, ordinal, client, text, text_hash, start_char, end_char, tokens,"
            " (SELECT array_agg(round(v::numeric, 4)) FROM unnest(embedding::real[]) AS v)"
            " FROM {} ORDER BY document_id, ordinal"
        ).format(table),
        "indexed": sql.SQL(
            "SELECT document_id, space_id, fingerprint, chunks, tokens_seen, tokens_truncated FROM indexed_documents"
            " ORDER BY document_id"
        ),
        "links": sql.SQL("SELECT * FROM document_links ORDER BY 1, 2, 3, 4"),
        "dead_letters": sql.SQL(
            "SELECT document_id, stage, error_type, reason FROM dead_letters ORDER BY document_id, stage"
        ),
    }
    with store.connect() as connection:
        return {name: connection.execute(query).fetchall() for name, query in queries.items()}

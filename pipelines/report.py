"""What the commands that only look want to know, as plain rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from psycopg.rows import dict_row

from schemas.config import Config
from transforms.dead_letters import count_open, list_dead_letters
from transforms.postgres import open_store
from transforms.quality_reports import run_reports
from transforms.runs import counts_of_run, last_run, totals
from transforms.sinks.parquet import export_parquet
from transforms.spaces import space_of_client
from transforms.usage import daily_usage

Row = dict[str, Any]

_CURSORS = """
SELECT source, updated_at AS last_read FROM source_cursors WHERE client = %s AND space_id = %s ORDER BY source
"""


def read_status(config: Config, client: str) -> dict[str, Any]:
    """What is stored of a client, how fresh it is, and how its last run ended.

    Raises:
        UnknownName: nothing of that client is indexed.
    """
    with open_store(config).connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        space = space_of_client(connection, client)
        run = last_run(connection, client)
        return {
            "client": client,
            "space": {"space_id": space.space_id, "model": space.model, "precision": space.precision},
            "documents": [dataclasses.asdict(row) for row in totals(connection, client, space.space_id)],
            "sources": cursor.execute(_CURSORS, [client, space.space_id]).fetchall(),
            "last_run": dataclasses.asdict(run) if run else {},
            "last_run_outcomes": [
                {"source": source, **counts}
                for source, counts in counts_of_run(connection, run.run_id).items()
            ]
            if run
            else [],
            "open_dead_letters": count_open(connection, client),
        }


def read_usage(config: Config, client: str, days: int) -> list[Row]:
    """The ledger by day, provider, model and operation."""
    with open_store(config).connect() as connection:
        days_used = daily_usage(connection, client, days)
        return [{**dataclasses.asdict(row), "hit_rate": round(row.hit_rate, 4)} for row in days_used]


def read_quality(config: Config, client: str, runs: int) -> list[Row]:
    """Quality reports of the last runs."""
    with open_store(config).connect() as connection:
        return run_reports(connection, client, runs)


def read_dead_letters(config: Config, client: str, everything: bool, limit: int) -> list[Row]:
    """Dead letters, newest first."""
    with open_store(config).connect() as connection:
        letters = list_dead_letters(connection, client, resolved=everything, limit=limit)
        return [dataclasses.asdict(letter) for letter in letters]


def export_to_parquet(config: Config, client: str, path: Path) -> int:
    """Write the client's active space to a Parquet file; returns its number of rows."""
    with open_store(config).connect() as connection:
        return export_parquet(connection, space_of_client(connection, client), client, path)

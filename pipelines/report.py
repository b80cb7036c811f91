"""What the commands that only look want to know, as plain rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from schemas.config import Config
from transforms.dead_letters import count_open, count_parked, list_dead_letters
from transforms.postgres import open_store
from transforms.quality_reports import run_reports
from transforms.redaction_counts import count_redactions
from transforms.routing.health import endpoint_health
from transforms.runs import SourceTotals, counts_of_run, last_run, totals
from transforms.sinks.parquet import export_parquet
from transforms.source_states import SourceState, load_states
from transforms.spaces import space_of_client
from transforms.stored_sources import stored_sources

Row = dict[str, Any]


def source_row(state: SourceState, newest: datetime | None, now: datetime) -> Row:
    """How it stands with a source.

    Args:
        newest: latest source time among its documents.
    """
    lag_s = state.lag_s(now)
    return {
        "source": state.source,
        "condition": state.condition(now),
        "lag_s": None if lag_s is None else round(lag_s, 1),
        "newest_change": newest,
        "last_polled_at": state.last_polled_at,
        "last_success_at": state.last_success_at,
        "last_change_at": state.last_change_at,
        "last_reconciled_at": state.last_reconciled_at,
        "next_poll_at": state.next_poll_at,
        "busy_with": state.busy_with,
        "busy_since": state.busy_since,
        "waiting_until": state.waiting_until,
        "waiting_for": state.waiting_for,
        "consecutive_failures": state.consecutive_failures,
        "last_error": state.last_error,
        "reconcile_error": state.reconcile_error,
    }


def _source_rows(connection: psycopg.Connection, client: str, documents: Sequence[SourceTotals]) -> list[Row]:
    now = datetime.now(UTC)
    newest: dict[str, datetime] = {}
    for row in documents:
        if row.newest_change is not None:
            newest[row.source] = max(row.newest_change, newest.get(row.source, row.newest_change))
    return [source_row(state, newest.get(state.source), now) for state in load_states(connection, client)]


def _not_configured(connection: psycopg.Connection, config: Config, client: str) -> list[Row]:
    """Sources of which something is stored, and which nobody reads any more."""
    configured = {source.name for source in config.sources_of(client)}
    return [
        {"source": name, "delete_with": f"headrace forget {name}"}
        for name in stored_sources(connection, client)
        if name not in configured
    ]


def _remote_rows(connection: psycopg.Connection, client: str) -> dict[str, list[Row]]:
    """How endpoints do, and what waits for them; nothing where all is embedded here."""
    parts = {
        "endpoints": [dataclasses.asdict(row) for row in endpoint_health(connection)],
        "parked": [
            {"documents": number, "because": reason}
            for reason, number in count_parked(connection, client).items()
        ],
    }
    return {name: rows for name, rows in parts.items() if rows}


def read_status(config: Config, client: str) -> dict[str, Any]:
    """What is stored of a client, how fresh it is, and how its last run ended.

    Raises:
        UnknownName: nothing of that client is indexed.
    """
    with open_store(config).connect() as connection:
        space = space_of_client(connection, client)
        run = last_run(connection, client)
        documents = totals(connection, client, space.space_id)
        return {
            "client": client,
            "space": {"space_id": space.space_id, "model": space.model, "precision": space.precision},
            "documents": [dataclasses.asdict(row) for row in documents],
            "sources": _source_rows(connection, client, documents),
            "not_configured": _not_configured(connection, config, client),
            "last_run": dataclasses.asdict(run) if run else {},
            "last_run_outcomes": [
                {"source": source, **counts}
                for source, counts in counts_of_run(connection, run.run_id).items()
            ]
            if run
            else [],
            "open_dead_letters": count_open(connection, client),
            **_remote_rows(connection, client),
            "privacy": config.privacy.policy_of(client),
            "redactions": count_redactions(connection, client),
        }


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

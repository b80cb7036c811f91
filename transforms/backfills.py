"""Plans that backfills keep to, in Postgres: a backfill that was stopped goes on under its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row


@dataclass(frozen=True, slots=True)
class KeptPlan:
    """What a backfill that is not done may take.

    Args:
        max_tokens: that may be embedded from `planned_at` on.
    """

    planned_at: datetime
    max_tokens: int


def open_plan(
    connection: psycopg.Connection, client: str, space_id: str, definition: bytes
) -> KeptPlan | None:
    """The plan of the backfill that was begun and is not done; None if there is none of this definition."""
    with connection.cursor(row_factory=class_row(KeptPlan)) as cursor:
        return cursor.execute(
            "SELECT planned_at, max_tokens FROM backfills"
            " WHERE (client, space_id, definition) = (%s, %s, %s) AND finished_at IS NULL",
            [client, space_id, definition],
        ).fetchone()


def keep_plan(
    connection: psycopg.Connection,
    client: str,
    space_id: str,
    definition: bytes,
    planned_at: datetime,
    max_tokens: int,
    plan: bytes,
) -> None:
    """Note that a backfill begins; it takes the place of the one before.

    Args:
        plan: JSON.
    """
    connection.execute(
        "INSERT INTO backfills (client, space_id, definition, plan, max_tokens, planned_at)"
        " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (client, space_id) DO UPDATE SET"
        " definition = EXCLUDED.definition, plan = EXCLUDED.plan, max_tokens = EXCLUDED.max_tokens,"
        " planned_at = EXCLUDED.planned_at, finished_at = NULL",
        [client, space_id, definition, plan.decode(), max_tokens, planned_at],
    )


def note_finished(connection: psycopg.Connection, client: str, space_id: str) -> None:
    """All was loaded and indexed."""
    connection.execute(
        "UPDATE backfills SET finished_at = clock_timestamp() WHERE (client, space_id) = (%s, %s)",
        [client, space_id],
    )

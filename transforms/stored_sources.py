"""What is stored under the name of a source, and how it is forgotten when nobody reads that source any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import psycopg

from schemas.documents import Kind, Tombstone
from schemas.outcomes import Outcome
from transforms.sinks.tombstones import apply_tombstones

FORGOTTEN = "forgotten by a person"
AT_ONCE = 1000
"""Documents that go in one transaction."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is stored of a source, or of one of its projects.

    Args:
        documents: kind -> those that are not deleted.
        dead_letters: open ones; of a project, those whose document is stored.
    """

    documents: Mapping[str, int]
    dead_letters: int


def stored_sources(connection: psycopg.Connection, client: str) -> list[str]:
    """Names under which anything of a client is kept."""
    rows = connection.execute(
        "SELECT source FROM documents WHERE client = %(client)s"
        " UNION SELECT source FROM source_cursors WHERE client = %(client)s"
        " UNION SELECT source FROM source_states WHERE client = %(client)s"
        " UNION SELECT source FROM dead_letters WHERE client = %(client)s ORDER BY 1",
        {"client": client},
    )
    return [source for (source,) in rows]


def stored_projects(connection: psycopg.Connection, client: str, source: str) -> list[str]:
    """Projects or repositories of a source's documents."""
    rows = connection.execute(
        "SELECT DISTINCT project FROM documents WHERE client = %s AND source = %s AND project <> '' ORDER BY 1",
        [client, source],
    )
    return [project for (project,) in rows]


_OF = "client = %(client)s AND source = %(source)s AND (%(project)s::text IS NULL OR project = %(project)s)"
_LIVE = f"""
SELECT kind, count(*) FROM documents WHERE {_OF} AND deleted_at IS NULL GROUP BY kind ORDER BY kind
"""  # noqa: S608 - constants
# A time of the source's may lie ahead of ours, and a tombstone older than its document counts for nothing.
_SOME = f"""
SELECT document_id, kind, native_id, greatest(clock_timestamp(), updated_at, observed_at, deleted_at)
FROM documents WHERE {_OF} LIMIT %(at_once)s
"""  # noqa: S608 - constants
_LETTERS = """
SELECT count(*) FROM dead_letters AS letter
WHERE client = %(client)s AND source = %(source)s AND resolved_at IS NULL AND (%(project)s::text IS NULL
    OR EXISTS (SELECT FROM documents AS d WHERE d.document_id = letter.document_id AND d.project = %(project)s))
"""


def holdings(
    connection: psycopg.Connection, client: str, source: str, project: str | None = None
) -> Holdings:
    """What there is to forget."""
    which = {"client": client, "source": source, "project": project}
    rows = connection.execute(_LIVE, which).fetchall()
    letters = connection.execute(_LETTERS, which).fetchone()
    return Holdings(dict(rows), letters[0] if letters else 0)


def forget_some(
    connection: psycopg.Connection, client: str, source: str, project: str | None, run_id: UUID
) -> Counter[Outcome] | None:
    """Delete some documents as if their source had said so, then every trace of them, in one transaction.

    Returns:
        How each ended, as `apply_tombstones`; None when there were none left.
    """
    which = {"client": client, "source": source, "project": project, "at_once": AT_ONCE}
    with connection.transaction():
        rows = connection.execute(_SOME, which).fetchall()
        if not rows:
            return None
        stones = [
            Tombstone(client, source, Kind(kind), native_id, at, FORGOTTEN) for _, kind, native_id, at in rows
        ]
        counts = apply_tombstones(connection, stones, run_id)
        ids = [document_id for document_id, *_ in rows]
        connection.execute("DELETE FROM dead_letters WHERE document_id = ANY(%s)", [ids])
        connection.execute("DELETE FROM documents WHERE document_id = ANY(%s)", [ids])
    return counts


def forget_place(connection: psycopg.Connection, client: str, source: str) -> None:
    """Forget how far a source was read: should it be configured again, all of it is read anew."""
    connection.execute("DELETE FROM source_cursors WHERE client = %s AND source = %s", [client, source])


def forget_state(connection: psycopg.Connection, client: str, source: str) -> None:
    """Forget how it stood with a source, what could not be processed of it, and deliveries for it."""
    with connection.transaction():
        for table in ("dead_letters", "webhook_deliveries", "source_states"):
            connection.execute(
                f"DELETE FROM {table} WHERE client = %s AND source = %s",  # noqa: S608 - constants
                [client, source],
            )

"""What was redacted in the documents that are stored."""

from __future__ import annotations

import psycopg


def count_redactions(connection: psycopg.Connection, client: str) -> dict[str, int]:
    """Kind -> values that placeholders stand for in a client's documents, by kind."""
    rows = connection.execute(
        "SELECT found.kind, sum(found.number::bigint)::bigint FROM documents,"
        " jsonb_each_text(redactions) AS found (kind, number)"
        " WHERE client = %s AND deleted_at IS NULL GROUP BY found.kind ORDER BY found.kind",
        [client],
    )
    return dict(rows.fetchall())

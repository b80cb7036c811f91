"""Everything that a database holds, as text."""

from __future__ import annotations

from psycopg import sql

from transforms.postgres import Store

_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
_BYTES = (
    "SELECT table_name, column_name FROM information_schema.columns"
    " WHERE table_schema = 'public' AND data_type = 'bytea'"
)


def all_text(store: Store) -> str:
    """Every row of every table, one a line; bytes besides as the text in them."""
    with store.connect() as connection:
        parts = [
            "\n".join(
                row
                for (row,) in connection.execute(
                    sql.SQL("SELECT t::text FROM {} AS t").format(sql.Identifier(table))
                )
            )
            for (table,) in connection.execute(_TABLES).fetchall()
        ]
        for table, column in connection.execute(_BYTES).fetchall():
            query = sql.SQL("SELECT {} FROM {}").format(sql.Identifier(column), sql.Identifier(table))
            parts += [
                bytes(value).decode("utf-8", "replace") for (value,) in connection.execute(query) if value
            ]
    return "\n".join(parts)

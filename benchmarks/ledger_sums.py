"""What the ledger says of the embedding of documents, beside what it must come to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psycopg
from psycopg import sql
from rich.table import Table

from transforms.spaces import chunk_table


@dataclass(frozen=True, slots=True)
class LedgerSums:
    """Tokens are as counted here, so that they can be compared with those of chunks.

    Args:
        canaries: requests with the sentences by which an endpoint proves its space.
        tokens_embedded: of requests for documents that were answered.
        tokens_saved: of chunks whose input an equal one, in the same buffer or the cache, had answered.
        tokens_of_chunks: of all that is stored.
    """

    canaries: int
    tokens_embedded: int
    tokens_saved: int
    tokens_of_chunks: int

    @property
    def add_up(self) -> bool:
        """Whether each token of each chunk was either paid for once or saved: so after one undisturbed run."""
        return self.tokens_embedded + self.tokens_saved == self.tokens_of_chunks


def ledger_sums(connection: psycopg.Connection, space_id: str) -> LedgerSums:
    """Over all runs of a database with one space."""
    found = connection.execute(
        sql.SQL(
            "SELECT (count(*) FILTER (WHERE operation = 'embed_canaries'))::int,"
            " coalesce(sum(tokens) FILTER (WHERE operation = 'embed_documents' AND error_type IS NULL), 0)::bigint,"
            " coalesce(sum(tokens_saved), 0)::bigint, (SELECT coalesce(sum(tokens), 0)::bigint FROM {chunks})"
            " FROM ai_usage_tracking"
        ).format(chunks=chunk_table(space_id))
    ).fetchone()
    assert found is not None
    return LedgerSums(*found)


def shown_sums(sums: Iterable[tuple[str, LedgerSums]]) -> Table:
    """A table for people: a name and its sums on each line."""
    table = Table(box=None, padding=(0, 1))
    table.add_column("ledger, in tokens")
    for name in ("embedded", "saved", "together", "of all chunks", "canaries, requests"):
        table.add_column(name, justify="right")
    for name, one in sums:
        together = one.tokens_embedded + one.tokens_saved
        numbers = (one.tokens_embedded, one.tokens_saved, together, one.tokens_of_chunks, one.canaries)
        table.add_row(name, *(f"{number:,}" for number in numbers), style=None if one.add_up else "red")
    return table

"""What is stored of a live world, and how much of the world it has to know by now."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from psycopg import sql

from schemas.config import Config
from tests.runners.live_world import START, Doc, LiveWorld, Shown, words_in
from transforms.embedders.models import space_of
from transforms.postgres import Store
from transforms.spaces import chunk_table

Held = dict[Doc, tuple[str, frozenset[str]]]
"""Documents that live, with key and words."""

_TABLES = (
    "documents, source_cursors, source_states, webhook_deliveries, ai_usage_tracking, quality_reports, runs"
)


def forget_all(database: Store, config: Config) -> None:
    """As if nothing had ever been stored."""
    with database.connect() as connection:
        connection.execute(f"TRUNCATE {_TABLES}, dead_letters CASCADE")
        table = chunk_table(space_of(config.model).space_id)
        exists = connection.execute("SELECT to_regclass(%s)", [table.as_string()]).fetchone()
        if exists and exists[0]:
            connection.execute(sql.SQL("TRUNCATE {}").format(table))


def held(database: Store, config: Config) -> Held:
    """What Postgres holds: words are those of the chunks."""
    query = sql.SQL(
        "SELECT d.source, d.kind, d.native_id, d.key, array_agg(c.text) FROM documents AS d"
        " LEFT JOIN {} AS c USING (document_id) WHERE d.deleted_at IS NULL GROUP BY d.document_id"
    ).format(chunk_table(space_of(config.model).space_id))
    with database.connect() as connection:
        rows = connection.execute(query).fetchall()
    return {(source, kind, row): (key, words_in(texts)) for source, kind, row, key, texts in rows}


def buried(database: Store) -> set[Doc]:
    """Documents that were deleted."""
    with database.connect() as connection:
        return set(
            connection.execute(
                "SELECT source, kind, native_id FROM documents WHERE deleted_at IS NOT NULL"
            ).fetchall()
        )


def sums(database: Store) -> dict[str, Any]:
    """What the ledger says was given to the engine, and letters nobody should have written."""
    with database.connect() as connection:
        row = connection.execute(
            "SELECT coalesce(sum(input_count), 0)::int, coalesce(sum(tokens), 0)::int FROM ai_usage_tracking"
        ).fetchone()
        letters = connection.execute("SELECT error_type, reason FROM dead_letters").fetchall()
    assert row is not None
    return {"inputs": row[0], "tokens": row[1], "letters": letters}


class Duty:
    """What the index need not know yet; everything else it has to hold as the world shows it.

    - **A poll** owes every change that moved the time of the document, but for what Jira's search does not know yet
      and what a listing left out.
    - **A delivery** owes what it names, as it is when it is looked at.
    - **A sweep** (a poll, once in `sweep_interval_h`) owes changes that moved no time, too.
    - **A reconciliation** owes deletions, and whatever else left the source.

    A sync that dies or fails owes nothing new, and takes nothing back.
    """

    def __init__(self, world: LiveWorld) -> None:
        self._world = world
        self._shown: dict[Doc, Shown] = world.truth()
        self._unknown: set[Doc] = set(self._shown)
        self._silent: set[Doc] = set()  # of these, what polls need not see
        self._named: set[Doc] = set()
        self.ever_gone: set[Doc] = set()

    def note_change(self) -> None:
        """After anything happened at the source."""
        before, now = self._shown, self._world.truth()
        for doc in before.keys() | now.keys():
            old, new = before.get(doc), now.get(doc)
            if old == new:
                continue
            self._unknown.add(doc)
            self._named.discard(doc)
            if new is None:
                self.ever_gone.add(doc)
            if new is None or (old is not None and old.says_changed_at == new.says_changed_at):
                self._silent.add(doc)
            else:
                self._silent.discard(doc)
        self._shown = now

    def note_delivery(self, docs: Iterable[Doc]) -> None:
        """These were named by a delivery that the receiver kept."""
        self._named |= set(docs)

    def note_cut(self, docs: set[Doc]) -> None:
        """A poll began whose lists lack these; it may have gone past their changes."""
        self._silent |= docs & self._unknown

    def polled(self, cut: set[Doc]) -> None:
        self._know(self._unknown - self._silent - cut - self._late())

    def swept(self, cut: set[Doc]) -> None:
        self._know((self._unknown & self._shown.keys()) - cut - self._late())

    def delivered(self, cut: set[Doc]) -> None:
        """Every delivery was processed. Of an issue that Jira's search does not know, nothing can be said."""
        unsaid = {doc for doc in cut if doc[0] == "jira"}
        unsaid |= self._late() if self._world.jira.data_center else set()
        self._know(self._named - unsaid)
        self._named.clear()

    def reconciled(self) -> None:
        self._know(self._unknown - self._shown.keys() - self._late())

    def _know(self, docs: set[Doc]) -> None:
        self._unknown -= docs
        self._silent -= docs

    def _late(self) -> set[Doc]:
        moment, lag = self._world.clock.moment, timedelta(seconds=self._world.lag_s)
        changed_at = self._world.changed_at
        return {
            doc for doc in self._unknown if doc[0] == "jira" and changed_at.get(doc, START) + lag >= moment
        }

    def wrong(self, holds: Held) -> dict[Doc, tuple[Any, Any]]:
        """What is held otherwise than it has to be: (as shown, as held)."""
        return {
            doc: (self._shown.get(doc), holds.get(doc))
            for doc in (self._shown.keys() | holds.keys()) - self._unknown
            if not _same(self._shown.get(doc), holds.get(doc))
        }

    @property
    def is_all(self) -> bool:
        """Nothing may be otherwise than it is shown."""
        return not self._unknown


def _same(shown: Shown | None, holds: tuple[str, frozenset[str]] | None) -> bool:
    return holds == (None if shown is None else (shown.key, shown.words))

"""What a source holds against what is stored of it, and what to do about the difference.

A census alone deletes nothing: it may have been cut short, and whoever lost a permission sees less. Everything that
only one side has is looked at again, and goes when its source says so. The ids of both sides are compared in
Postgres, in temporary tables: memory does not grow with them. Nothing depends on having finished: killed anywhere,
another reconciliation compares anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

import psycopg

from extractors.base import Page, Verifiable
from schemas.documents import Kind, Reference
from schemas.errors import OutOfSight
from schemas.ids import document_id
from transforms.storable import storable_text

NOT_VERIFIABLE = "export files do not say what their source holds now"
FEW = 10
"""So many documents may always be deleted at once, whatever their share."""
LOOKED_AT_ONCE = 100
"""References handed to a source together."""

Side = Literal["source", "store"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A census against the store, in documents.

    Args:
        in_source: that the census listed, each counted once.
        in_store: that are stored and not deleted.
        missing_in_source: stored, not listed.
        missing_in_store: listed, not stored.
    """

    in_source: int
    in_store: int
    missing_in_source: int
    missing_in_store: int


@dataclass(slots=True)
class SourceReport:
    """A reconciliation of one source. What was missing on either side = gone + there + unanswered, once looked at.

    Args:
        difference: None where no census was completed.
        not_asked: why there was none; empty otherwise.
        refused: why not everything that is missing in the source was looked at, or said anything of; else empty.
        error: one line, of what ended it early.
        gone: of those looked at, how many their source says are gone.
        there: how many are there after all, or were missing in the store.
        unanswered: how many nothing was said of.
        outcomes: of all records and tombstones that looking brought.
    """

    source: str
    client: str
    difference: Difference | None = None
    not_asked: str = ""
    refused: str = ""
    error: str = ""
    gone: int = 0
    there: int = 0
    unanswered: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        return not (self.refused or self.error)


def refusal(difference: Difference, max_share: float) -> str:
    """Why so much may not be deleted at once; empty if it may.

    A census that lists nothing is not believed either, however few documents there are.

    Args:
        max_share: of the stored documents, 0 to 1. `FEW` may always go.
    """
    missing, stored = difference.missing_in_source, difference.in_store
    if missing <= max(FEW, max_share * stored) and (difference.in_source or not stored):
        return ""
    return (
        f"{missing:,} of {stored:,} documents ({missing / stored:.1%}) are missing in the source, more than"
        f" reconcile.max_share ({max_share:.1%}) allows at once: check the source, what its account may see and"
        " what is configured, then run `headrace reconcile --force`"
    )


_CENSUS = """
CREATE TEMPORARY TABLE census (document_id uuid, kind text, native_id text, key text)
"""
_MISSING = """
CREATE TEMPORARY TABLE missing (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    side text NOT NULL, kind text NOT NULL, native_id text NOT NULL, key text NOT NULL
)
"""
_STORED = "FROM documents AS d WHERE d.client = %(client)s AND d.source = %(source)s AND d.deleted_at IS NULL"
_MISSING_IN_SOURCE = f"""
INSERT INTO missing (side, kind, native_id, key) SELECT 'source', d.kind, d.native_id, d.key {_STORED}
AND NOT EXISTS (SELECT FROM census AS c WHERE c.document_id = d.document_id)
"""  # noqa: S608 - constants
_MISSING_IN_STORE = """
INSERT INTO missing (side, kind, native_id, key)
SELECT DISTINCT ON (document_id) 'store', c.kind, c.native_id, c.key FROM census AS c
WHERE NOT EXISTS (SELECT FROM documents AS d WHERE d.document_id = c.document_id AND d.deleted_at IS NULL)
ORDER BY document_id
"""


@contextmanager
def compared(
    connection: psycopg.Connection, client: str, source: str, census: Iterable[Sequence[Reference]]
) -> Iterator[Difference]:
    """Take the census and compare; `missing` reads what differs, inside the block.

    Args:
        connection: in autocommit mode; not used by others meanwhile.
    Raises:
        PipelineError: the census could not be completed.
    """
    connection.execute("DROP TABLE IF EXISTS pg_temp.census, pg_temp.missing")
    connection.execute(_CENSUS)
    connection.execute(_MISSING)
    try:
        for part in census:
            _add(connection, client, source, part)
        # Without it a plan made from stale statistics compares each with each.
        connection.execute("CREATE INDEX ON census (document_id)")
        connection.execute("ANALYZE census")
        owner = {"client": client, "source": source}
        absent = connection.execute(_MISSING_IN_SOURCE, owner).rowcount
        unknown = connection.execute(_MISSING_IN_STORE).rowcount
        connection.execute("ANALYZE missing")
        yield Difference(
            in_source=_count(connection, "SELECT count(DISTINCT document_id) FROM census"),
            in_store=_count(connection, f"SELECT count(*) {_STORED}", owner),
            missing_in_source=absent,
            missing_in_store=unknown,
        )
    finally:
        with suppress(psycopg.Error):  # they go with their connection at the latest
            connection.execute("DROP TABLE IF EXISTS pg_temp.census, pg_temp.missing")


def _add(connection: psycopg.Connection, client: str, source: str, part: Sequence[Reference]) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy("COPY census (document_id, kind, native_id, key) FROM STDIN") as copy,
    ):
        for one in part:
            identity = document_id(client, source, one.kind, one.native_id)
            copy.write_row((identity, one.kind, storable_text(one.native_id), storable_text(one.key)))


def _count(connection: psycopg.Connection, query: str, parameters: dict[str, str] | None = None) -> int:
    row = connection.execute(query, parameters).fetchone()
    return int(row[0]) if row else 0


def missing(connection: psycopg.Connection, side: Side) -> Iterator[list[Reference]]:
    """What one side lacks, by some hundred references; inside `compared`."""
    after = 0
    while True:
        rows = connection.execute(
            "SELECT place, kind, native_id, key FROM missing WHERE side = %s AND place > %s ORDER BY place LIMIT %s",
            [side, after, LOOKED_AT_ONCE],
        ).fetchall()
        if not rows:
            return
        after = rows[-1][0]
        yield [Reference(Kind(kind), native_id, key) for _, kind, native_id, key in rows]


def reconcile(
    connection: psycopg.Connection,
    extractor: Verifiable,
    report: SourceReport,
    max_share: float,
    *,
    force: bool = False,
    heard: Callable[[], None] = lambda: None,
) -> Iterator[Page]:
    """Take a census, compare, and look again at what only one side has.

    Args:
        connection: of this reconciliation alone, in autocommit mode.
        report: names source and client; is filled on the way.
        max_share: see `refusal`.
        force: delete whatever the source says is gone, however much.
        heard: called for each part of the census.
    Yields:
        Records and tombstones to be stored.
    Raises:
        PipelineError: the census is incomplete, or looking failed; what was yielded before stands.
    """
    census = _listened(extractor.census(), heard)
    with compared(connection, report.client, report.source, census) as difference:
        report.difference = difference
        report.refused = "" if force else refusal(difference, max_share)
        sides: list[Side] = ["store"] if report.refused else ["store", "source"]
        for side in sides:
            for references in missing(connection, side):
                try:
                    yield from _looked_at(extractor, references, report)
                except OutOfSight as error:  # of a part alone; its own word, when all that can be mended is
                    report.refused = report.refused or str(error)


def _listened(
    census: Iterable[Sequence[Reference]], heard: Callable[[], None]
) -> Iterator[Sequence[Reference]]:
    for part in census:
        heard()
        yield part


def _looked_at(
    extractor: Verifiable, references: Sequence[Reference], report: SourceReport
) -> Iterator[Page]:
    gone: set[UUID] = set()
    there: set[UUID] = set()
    try:
        for page in extractor.look_again(references):
            gone |= {tombstone.document_id for tombstone in page.tombstones}
            there |= {record.document_id for record in page.records}
            yield page
    finally:
        asked = {document_id(report.client, report.source, one.kind, one.native_id) for one in references}
        report.gone += len(asked & gone)
        report.there += len(asked & there - gone)
        report.unanswered += len(asked - gone - there)

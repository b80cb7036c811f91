"""Decide from a record's digest alone, before anything is parsed, whether there is work to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from uuid import UUID

import apache_beam as beam
import psycopg

from schemas.documents import SourceRecord, Version
from schemas.ids import fingerprint
from schemas.outcomes import Outcome
from transforms.outcomes import CountingFn, OfRun
from transforms.postgres import Store


@dataclass(frozen=True, slots=True)
class Stored:
    """What Postgres has of a document.

    Args:
        fingerprint: of what the space holds; None if that is nothing, as after a deletion.
        deleted_at: when it was found gone; None while it lives.
    """

    version: Version
    fingerprint: bytes | None
    deleted_at: datetime | None = None


def decide(version: Version, stored: Stored | None, processing: bytes) -> Outcome | None:
    """UNCHANGED, STALE, or None where there is work to do.

    Args:
        version: of the record that arrived.
        processing: digest of what would be done to it.
    """
    if stored is None:
        return None
    if stored.deleted_at is not None:
        return None if version.known_at > stored.deleted_at else Outcome.STALE
    same_payload = version.payload_digest == stored.version.payload_digest
    if same_payload and stored.fingerprint == fingerprint(version.payload_digest, processing):
        return Outcome.UNCHANGED
    if version.as_tuple() < stored.version.as_tuple():
        return Outcome.STALE
    return None


def stored_states(
    connection: psycopg.Connection, space_id: str, document_ids: Sequence[UUID]
) -> dict[UUID, Stored]:
    """What is stored of some documents, deleted ones included; one query."""
    rows = connection.execute(
        "SELECT d.document_id, d.updated_at, d.observed_at, d.payload_digest, i.fingerprint, d.deleted_at"
        " FROM documents AS d"
        " LEFT JOIN indexed_documents AS i ON i.space_id = %s AND i.document_id = d.document_id"
        " WHERE d.document_id = ANY(%s)",
        [space_id, list(document_ids)],
        binary=True,
    )
    return {
        document_id: Stored(Version(updated_at, observed_at, payload_digest), indexed, deleted_at)
        for document_id, updated_at, observed_at, payload_digest, indexed, deleted_at in rows
    }


def split_page(
    connection: psycopg.Connection, space_id: str, processing: bytes, records: Sequence[SourceRecord]
) -> tuple[list[SourceRecord], Counter[Outcome]]:
    """Records of a page that need work, and what became of the others.

    An unchanged record seen again at a later time moves its document's version on, so that what was true between
    the two stays older, in whatever order it arrives.
    """
    arrived = [(record, record.document_id, record.version) for record in records]
    stored = stored_states(connection, space_id, [document_id for _, document_id, _ in arrived])
    work: list[SourceRecord] = []
    counts: Counter[Outcome] = Counter()
    seen_again: dict[UUID, Version] = {}
    for record, document_id, version in arrived:
        state = stored.get(document_id)
        outcome = decide(version, state, processing)
        if outcome is None:
            work.append(record)
            continue
        counts[outcome] += 1
        newest = seen_again.get(document_id, state.version if state else version)
        if outcome is Outcome.UNCHANGED and version.as_tuple() > newest.as_tuple():
            seen_again[document_id] = version
    if seen_again:
        _move_on(connection, seen_again)
    return work, counts


def _move_on(connection: psycopg.Connection, versions: Mapping[UUID, Version]) -> None:
    connection.execute(
        "UPDATE documents AS d SET updated_at = seen.updated_at, observed_at = seen.observed_at"
        " FROM (SELECT seen.* FROM unnest(%s::uuid[], %s::timestamptz[], %s::timestamptz[], %s::bytea[])"
        "         AS seen (document_id, updated_at, observed_at, payload_digest)"
        "       JOIN documents USING (document_id) ORDER BY document_id FOR UPDATE OF documents) AS seen"
        " WHERE d.document_id = seen.document_id AND d.payload_digest = seen.payload_digest"
        " AND (d.updated_at, d.observed_at) < (seen.updated_at, seen.observed_at)",
        [
            list(versions),
            [version.updated_at for version in versions.values()],
            [version.observed_at for version in versions.values()],
            [version.payload_digest for version in versions.values()],
        ],
    )


class SkipUnchanged(beam.PTransform):  # type: ignore[misc]
    """`PCollection[tuple[SourceRecord, ...]]`, pages -> `PCollection[SourceRecord]` that need work.

    The others are counted as `unchanged` or `stale`.
    """

    def __init__(self, store: Store, space_id: str, processing: bytes, kept: OfRun | None = None) -> None:
        super().__init__()
        self._fn = _SkipFn(store, space_id, processing, kept)

    def expand(self, pages: beam.PCollection[tuple[SourceRecord, ...]]) -> beam.PCollection[SourceRecord]:
        return pages | "Compare" >> beam.ParDo(self._fn)


class _SkipFn(CountingFn):
    def __init__(self, store: Store, space_id: str, processing: bytes, kept: OfRun | None) -> None:
        super().__init__(store, kept)
        self._space_id = space_id
        self._processing = processing

    def process(self, page: Sequence[SourceRecord]) -> Iterator[SourceRecord]:
        if not page:
            return
        split = partial(split_page, space_id=self._space_id, processing=self._processing, records=page)
        work, counts = self._session.run(split)
        self.count(counts)
        yield from work

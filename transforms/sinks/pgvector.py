"""Documents and their vectors into Postgres, each batch in one transaction.

Whatever order versions arrive in, however often, the same rows result: a newer version replaces an older one, and
a deletion is a version too. Writers lock a batch's documents first, in the order of their ids, so that they wait
for each other instead of deadlocking, and chunks can be copied straight into their table: nobody else writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from uuid import UUID

import apache_beam as beam
import psycopg

from schemas.documents import DeadLetter, EmbeddedBatch, Tombstone
from schemas.errors import InvalidPayload
from schemas.ids import fingerprint
from schemas.outcomes import Outcome
from transforms.dead_letters import resolve_dead_letters, write_dead_letters
from transforms.notify import Change, announce
from transforms.outcomes import CountingFn, OfRun
from transforms.postgres import Store, is_about_values
from transforms.redact import redact_letter
from transforms.sinks.chunk_rows import Incoming, replace_chunks
from transforms.sinks.tombstones import apply_tombstones
from transforms.spaces import vector_type_of
from transforms.storable import storable_json, storable_text

MAX_TOMBSTONES = 1000
"""Deletions gathered for one transaction."""


def write_batch(
    connection: psycopg.Connection, batch: EmbeddedBatch, processing: bytes, run_id: UUID | None = None
) -> Counter[Outcome]:
    """Write a batch in one transaction, and announce it.

    A chunk whose ordinal and text are as stored keeps its row id and vector; any other gets a new row id.

    Args:
        processing: digest of what was done to the records; part of every fingerprint.
        run_id: of the run that this is part of.
    Returns:
        How each document of the batch ended: NEW, CHANGED, UNCHANGED or STALE.
    Raises:
        UnknownName: the batch's space was never registered.
        psycopg.Error: nothing was written.
    """
    incoming, counts = _newest(_documents_with_rows(batch))
    if not incoming:
        return counts
    with connection.transaction():
        vector_type = vector_type_of(connection, batch.space_id)
        accepted = _upsert_documents(connection, incoming)
        indexed = _fingerprints(connection, batch.space_id, accepted)
        written: list[Incoming] = []
        changes: list[Change] = []
        for item in incoming:
            if item.document_id not in accepted:
                counts[Outcome.STALE] += 1
            elif indexed.get(item.document_id) == fingerprint(item.version.payload_digest, processing):
                counts[Outcome.UNCHANGED] += 1
            else:
                outcome = Outcome.CHANGED if item.document_id in indexed else Outcome.NEW
                counts[outcome] += 1
                written.append(item)
                record = item.chunked.document.record
                changes.append(Change(record.client, record.source, item.document_id, outcome))
        if written:
            replace_chunks(connection, batch, written, vector_type)
            _replace_links(connection, written)
            _note_indexed(connection, batch.space_id, written, processing)
        current = [item for item in incoming if item.document_id in accepted]
        resolve_dead_letters(connection, [(item.document_id, item.version) for item in current])
        announce(connection, changes, batch.space_id, run_id)
    return counts


def _documents_with_rows(batch: EmbeddedBatch) -> Iterator[Incoming]:
    ends = list(accumulate(len(chunked.chunks) for chunked in batch.documents))
    for chunked, end in zip(batch.documents, ends, strict=True):
        record = chunked.document.record
        rows = range(end - len(chunked.chunks), end)
        yield Incoming(chunked, record.document_id, record.version, rows)


def _newest(documents: Iterator[Incoming]) -> tuple[list[Incoming], Counter[Outcome]]:
    """The newest version of each document, and what became of the others."""
    newest: dict[UUID, Incoming] = {}
    counts: Counter[Outcome] = Counter()
    for item in documents:
        other = newest.setdefault(item.document_id, item)
        if other is item:
            continue
        older = item.version.as_tuple() < other.version.as_tuple()
        newer = item.version.as_tuple() > other.version.as_tuple()
        counts[Outcome.STALE if older or newer else Outcome.UNCHANGED] += 1
        if newer:
            newest[item.document_id] = item
    return list(newest.values()), counts


_UPSERT_DOCUMENTS = """
INSERT INTO documents AS stored (
    document_id, client, source, kind, native_id, updated_at, observed_at, payload_digest, project, key, title, url,
    author, created_at, attributes, comments_total, comments_kept, comments_dropped, redactions
)
SELECT * FROM unnest(
    %s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::bytea[],
    %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::jsonb[], %s::int[], %s::int[],
    %s::jsonb[], %s::jsonb[]
) AS incoming (document_id)
ORDER BY document_id
ON CONFLICT (document_id) DO UPDATE SET
    updated_at = EXCLUDED.updated_at, observed_at = EXCLUDED.observed_at, payload_digest = EXCLUDED.payload_digest,
    project = EXCLUDED.project, key = EXCLUDED.key, title = EXCLUDED.title, url = EXCLUDED.url,
    author = EXCLUDED.author, created_at = EXCLUDED.created_at, attributes = EXCLUDED.attributes,
    comments_total = EXCLUDED.comments_total, comments_kept = EXCLUDED.comments_kept,
    comments_dropped = EXCLUDED.comments_dropped, redactions = EXCLUDED.redactions,
    deleted_at = NULL, delete_reason = NULL, stored_at = now()
WHERE CASE WHEN stored.deleted_at IS NULL
    THEN (EXCLUDED.updated_at, EXCLUDED.observed_at, EXCLUDED.payload_digest)
         >= (stored.updated_at, stored.observed_at, stored.payload_digest)
    ELSE greatest(EXCLUDED.updated_at, EXCLUDED.observed_at) > stored.deleted_at
END
RETURNING document_id
"""


def _upsert_documents(connection: psycopg.Connection, incoming: Sequence[Incoming]) -> set[UUID]:
    """Lock and bring up to date the documents' rows; returns those whose stored version is not newer.

    The statement locks every row it conflicts with, newer ones too.
    """
    rows = []
    for item in incoming:
        document = item.chunked.document
        record = document.record
        rows.append(
            (
                item.document_id,
                *map(storable_text, (record.client, record.source, record.kind, record.native_id)),
                *item.version.as_tuple(),
                *map(storable_text, (document.project, document.key, document.title)),
                *map(storable_text, (document.url, document.author)),
                document.created_at,
                storable_json(document.attributes),
                document.comments_total,
                document.comments_kept,
                storable_json(document.comments_dropped),
                storable_json(document.redactions),
            )
        )
    columns = [list(column) for column in zip(*rows, strict=True)]
    return {document_id for (document_id,) in connection.execute(_UPSERT_DOCUMENTS, columns)}


def _fingerprints(
    connection: psycopg.Connection, space_id: str, document_ids: set[UUID]
) -> dict[UUID, bytes]:
    rows = connection.execute(
        "SELECT document_id, fingerprint FROM indexed_documents WHERE space_id = %s AND document_id = ANY(%s)",
        [space_id, list(document_ids)],
    )
    return {document_id: bytes(stored) for document_id, stored in rows}


def _replace_links(connection: psycopg.Connection, written: Sequence[Incoming]) -> None:
    connection.execute(
        "DELETE FROM document_links WHERE document_id = ANY(%s)", [[item.document_id for item in written]]
    )
    links = [
        (item.document_id, *map(storable_text, (link.relation, link.target_kind, link.target_key)))
        for item in written
        for link in item.chunked.document.links
    ]
    if links:
        connection.execute(
            "INSERT INTO document_links (document_id, relation, target_kind, target_key)"
            " SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[]) ON CONFLICT DO NOTHING",
            [list(column) for column in zip(*links, strict=True)],
        )


def _note_indexed(
    connection: psycopg.Connection, space_id: str, written: Sequence[Incoming], processing: bytes
) -> None:
    rows = [
        (
            space_id,
            item.document_id,
            fingerprint(item.version.payload_digest, processing),
            len(item.rows),
            item.chunked.tokens_seen,
            item.chunked.tokens_embedded,
            item.chunked.tokens_truncated,
        )
        for item in written
    ]
    connection.execute(
        "INSERT INTO indexed_documents"
        " (space_id, document_id, fingerprint, chunks, tokens_seen, tokens_embedded, tokens_truncated)"
        " SELECT * FROM unnest(%s::text[], %s::uuid[], %s::bytea[], %s::int[], %s::int[], %s::int[], %s::int[])"
        " ON CONFLICT (space_id, document_id) DO UPDATE SET fingerprint = EXCLUDED.fingerprint,"
        " chunks = EXCLUDED.chunks, tokens_seen = EXCLUDED.tokens_seen,"
        " tokens_embedded = EXCLUDED.tokens_embedded, tokens_truncated = EXCLUDED.tokens_truncated,"
        " indexed_at = now()",
        [list(column) for column in zip(*rows, strict=True)],
    )


def halves(batch: EmbeddedBatch) -> tuple[EmbeddedBatch, EmbeddedBatch]:
    """Two batches with half of the documents each."""
    middle = len(batch.documents) // 2
    first, second = batch.documents[:middle], batch.documents[middle:]
    rows = sum(len(chunked.chunks) for chunked in first)
    return (
        EmbeddedBatch(batch.space_id, first, batch.chunks.slice(0, rows)),
        EmbeddedBatch(batch.space_id, second, batch.chunks.slice(rows)),
    )


class WriteToPgvector(beam.PTransform):  # type: ignore[misc]
    """`PCollection[EmbeddedBatch]` -> nothing; outcomes are counted.

    A document that Postgres refuses becomes a dead letter; the rest of its batch is written.

    Args:
        processing: digest of what was done to the records; part of every fingerprint.
        run_id: of the run that this is part of.
        redacts_letters: payloads of dead letters, before they are written.
        kept: as `CountingFn`.
    """

    def __init__(
        self,
        store: Store,
        processing: bytes,
        run_id: UUID | None = None,
        redacts_letters: bool = False,
        kept: OfRun | None = None,
    ) -> None:
        super().__init__()
        self._fn = _WriteFn(store, processing, run_id, redacts_letters, kept)

    def expand(self, batches: beam.PCollection[EmbeddedBatch]) -> beam.PCollection[None]:
        return batches | "Write" >> beam.ParDo(self._fn)


class _WriteFn(CountingFn):
    def __init__(
        self,
        store: Store,
        processing: bytes,
        run_id: UUID | None,
        redacts_letters: bool,
        kept: OfRun | None,
    ) -> None:
        super().__init__(store, kept)
        self._processing = processing
        self._run_id = run_id
        self._redacts_letters = redacts_letters

    def process(self, batch: EmbeddedBatch) -> None:
        try:
            write = partial(write_batch, batch=batch, processing=self._processing, run_id=self._run_id)
            counts = self._session.run(write)
        except psycopg.Error as error:
            if not is_about_values(error):
                raise
            if len(batch.documents) > 1:
                for half in halves(batch):
                    self.process(half)
                return
            refused = _refused(batch, error)
            letter = redact_letter(refused) if self._redacts_letters else refused
            self._session.run(partial(write_dead_letters, letters=[letter]))
            counts = Counter({Outcome.DEAD_LETTERED: 1})
        self.count(counts)


class DeleteFromPgvector(beam.PTransform):  # type: ignore[misc]
    """`PCollection[Tombstone]` -> nothing; outcomes are counted.

    Args:
        run_id: of the run that this is part of.
        kept: as `CountingFn`.
    """

    def __init__(self, store: Store, run_id: UUID | None = None, kept: OfRun | None = None) -> None:
        super().__init__()
        self._fn = _DeleteFn(store, run_id, kept)

    def expand(self, tombstones: beam.PCollection[Tombstone]) -> beam.PCollection[None]:
        return tombstones | "Delete" >> beam.ParDo(self._fn)


class _DeleteFn(CountingFn):
    def __init__(self, store: Store, run_id: UUID | None, kept: OfRun | None) -> None:
        super().__init__(store, kept)
        self._run_id = run_id

    def start_bundle(self) -> None:
        self._gathered: list[Tombstone] = []

    def process(self, tombstone: Tombstone) -> None:
        self._gathered.append(tombstone)
        if len(self._gathered) >= MAX_TOMBSTONES:
            self._flush()

    def finish_bundle(self) -> None:
        self._flush()

    def _flush(self) -> None:
        tombstones, self._gathered = self._gathered, []
        if tombstones:
            counts = self._session.run(partial(apply_tombstones, tombstones=tombstones, run_id=self._run_id))
            self.count(counts)


def _refused(batch: EmbeddedBatch, error: psycopg.Error) -> DeadLetter:
    reason = f"Postgres refused it ({error.sqlstate}, {type(error).__name__})"
    return DeadLetter(
        batch.documents[0].document.record, "store", InvalidPayload.__name__, reason, retriable=False
    )

"""Whatever order versions and deletions come in, and however often, the same rows result."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import apache_beam as beam
import numpy as np
import psycopg
import pyarrow as pa
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from schemas.documents import (
    Chunk,
    ChunkedDocument,
    Document,
    EmbeddedBatch,
    Format,
    Kind,
    Link,
    SourceRecord,
    Tombstone,
)
from schemas.errors import UnknownName
from schemas.ids import text_hash
from schemas.outcomes import Outcome
from schemas.spaces import EmbeddingSpace, chunk_schema
from transforms.outcomes import NAMESPACE
from transforms.postgres import Session, Store
from transforms.sinks.pgvector import DeleteFromPgvector, WriteToPgvector, apply_tombstones, write_batch
from transforms.spaces import chunk_table, register_space

SPACE = EmbeddingSpace("tests/tiny", "0" * 64, "exact", "mean", True, dimensions=4, max_tokens=64)
OTHER = EmbeddingSpace("tests/other", "0" * 64, "exact", "mean", True, dimensions=4, max_tokens=64)
PROCESSING = b"p" * 16
DAY_0 = datetime(2026, 1, 1, tzinfo=UTC)


def day(number: int) -> datetime:
    return DAY_0 + timedelta(days=number)


def vector_of(text: str) -> np.ndarray:
    """A vector that depends on the text alone, so that swapped rows are seen."""
    raw = np.frombuffer(text_hash(text), np.uint8)[:4].astype(np.float32) + 1
    return raw / np.linalg.norm(raw)


def document(
    native_id: str,
    texts: Sequence[str],
    *,
    updated: int = 0,
    observed: int = 0,
    shift: int = 0,
    payload: bytes | None = None,
    **facts: Any,
) -> ChunkedDocument:
    """A document whose chunks are `texts`; `shift` moves their offsets."""
    record = SourceRecord(
        "acme",
        "jira",
        Format.JIRA_ISSUE,
        Kind.ISSUE,
        native_id,
        payload if payload is not None else repr((texts, updated)).encode(),
        day(updated),
        day(observed),
    )
    chunks = tuple(
        Chunk(n, text, text_hash(text), n * 10 + shift, n * 10 + 9 + shift, np.zeros(3, np.int32))
        for n, text in enumerate(texts)
    )
    known = {"key": f"ABC-{native_id}", "project": "ABC", "title": " ".join(texts)[:80], "text": ""} | facts
    return ChunkedDocument(Document(record, **known), chunks, tokens_seen=len(texts), tokens_truncated=0)


def batch(*documents: ChunkedDocument, space: EmbeddingSpace = SPACE) -> EmbeddedBatch:
    rows = [(doc.document.record.document_id.bytes, chunk) for doc in documents for chunk in doc.chunks]
    vectors = np.array([vector_of(chunk.text) for _, chunk in rows], np.float32).reshape(-1)
    columns = [
        pa.array([key for key, _ in rows], pa.binary(16)),
        pa.array([chunk.ordinal for _, chunk in rows], pa.int32()),
        pa.array([chunk.text for _, chunk in rows], pa.string()),
        pa.array([chunk.text_hash for _, chunk in rows], pa.binary(16)),
        pa.array([chunk.start_char for _, chunk in rows], pa.int32()),
        pa.array([chunk.end_char for _, chunk in rows], pa.int32()),
        pa.array([3] * len(rows), pa.int32()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors, pa.float32()), space.dimensions),
    ]
    schema = chunk_schema(space.dimensions)
    return EmbeddedBatch(space.space_id, documents, pa.RecordBatch.from_arrays(columns, schema=schema))


def tombstone(native_id: str, at: int) -> Tombstone:
    return Tombstone("acme", "jira", Kind.ISSUE, native_id, day(at), "gone from the census")


def write(connection: psycopg.Connection, *documents: ChunkedDocument) -> Counter[Outcome]:
    return write_batch(connection, batch(*documents), PROCESSING)


def chunk_rows(connection: psycopg.Connection, space: EmbeddingSpace = SPACE) -> list[tuple[Any, ...]]:
    """(native id, ordinal, row id, text, start) of every chunk."""
    statement = sql.SQL(
        "SELECT native_id, ordinal, row_id, text, start_char FROM {} JOIN documents USING (document_id)"
        " ORDER BY native_id, ordinal"
    ).format(chunk_table(space.space_id))
    return connection.execute(statement).fetchall()


def everything(connection: psycopg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """All rows but for their row ids and the times at which they were stored."""
    chunks = sql.SQL(
        "SELECT document_id, ordinal, client, text, text_hash, start_char, end_char, tokens, search::text,"
        " embedding::text FROM {} ORDER BY document_id, ordinal"
    ).format(chunk_table(SPACE.space_id))
    return {
        "chunks": connection.execute(chunks).fetchall(),
        "documents": connection.execute(
            "SELECT document_id, client, source, kind, native_id, updated_at, observed_at, payload_digest, project,"
            " key, title, url, author, created_at, attributes::text, comments_total, comments_kept,"
            " comments_dropped::text, deleted_at, delete_reason FROM documents ORDER BY document_id"
        ).fetchall(),
        "indexed": connection.execute(
            "SELECT space_id, document_id, fingerprint, chunks, tokens_seen, tokens_embedded, tokens_truncated"
            " FROM indexed_documents ORDER BY document_id"
        ).fetchall(),
        "links": connection.execute("SELECT * FROM document_links ORDER BY 1, 2, 3, 4").fetchall(),
    }


@pytest.fixture
def space(connection: psycopg.Connection) -> psycopg.Connection:
    """A connection to a database where `SPACE` is registered."""
    register_space(connection, SPACE, "vector", "acme")
    return connection


def test_a_new_document_is_stored_with_vectors_search_words_and_links(space: psycopg.Connection) -> None:
    doc = document(
        "1",
        ["pumps are failing", "second"],
        links=(Link("mentions", "jira_issue", "ABC-2"), Link("mentions", "jira_issue", "ABC-2")),
        attributes={"status": "Open", "labels": ["a"]},
        author="ada",
        comments_total=3,
        comments_dropped={"bot": 1},
    )
    assert write(space, doc) == {Outcome.NEW: 1}
    row = space.execute(
        sql.SQL(
            "SELECT client, text_hash, start_char, end_char, tokens, search @@ to_tsquery('english', 'pump & fail'),"
            " embedding FROM {} WHERE ordinal = 0"
        ).format(chunk_table(SPACE.space_id))
    ).fetchone()
    assert row is not None
    assert row[:6] == ("acme", text_hash("pumps are failing"), 0, 9, 3, True)
    np.testing.assert_array_equal(np.asarray(row[6], np.float32), vector_of("pumps are failing"))
    assert space.execute(
        "SELECT key, attributes, author, comments_total, comments_dropped, deleted_at FROM documents"
    ).fetchall() == [("ABC-1", {"status": "Open", "labels": ["a"]}, "ada", 3, {"bot": 1}, None)]
    assert space.execute("SELECT relation, target_key FROM document_links").fetchall() == [
        ("mentions", "ABC-2")
    ]
    assert space.execute("SELECT chunks, tokens_seen, tokens_embedded FROM indexed_documents").fetchall() == [
        (2, 2, 6)
    ]


def test_the_same_batch_again_is_unchanged_and_touches_no_chunk(space: psycopg.Connection) -> None:
    docs = [document("1", ["a", "b"]), document("2", [])]
    assert write(space, *docs) == {Outcome.NEW: 2}
    before = chunk_rows(space)
    assert write(space, *docs) == {Outcome.UNCHANGED: 2}
    assert chunk_rows(space) == before


def test_a_changed_chunk_gets_a_new_row_id_and_the_others_keep_theirs(space: psycopg.Connection) -> None:
    write(space, document("1", ["a", "b", "c"]))
    before = chunk_rows(space)
    assert write(space, document("1", ["a", "B", "c"], updated=1)) == {Outcome.CHANGED: 1}
    after = chunk_rows(space)
    assert [row[3] for row in after] == ["a", "B", "c"]
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1][2] > max(row[2] for row in before)


def test_a_shorter_new_version_removes_its_old_tail(space: psycopg.Connection) -> None:
    write(space, document("1", ["a", "b", "c"]), document("2", ["x", "y"]))
    write(space, document("1", ["a"], updated=1))
    assert [row[:2] for row in chunk_rows(space)] == [("1", 0), ("2", 0), ("2", 1)]


def test_a_chunk_that_only_moved_keeps_its_vector_and_gets_its_new_offsets(space: psycopg.Connection) -> None:
    write(space, document("1", ["a", "b"]))
    before = chunk_rows(space)
    write(space, document("1", ["a", "b"], updated=1, shift=5))
    assert [(row[2], row[4]) for row in chunk_rows(space)] == [(row[2], row[4] + 5) for row in before]


def test_an_older_version_arriving_late_is_ignored(space: psycopg.Connection) -> None:
    write(space, document("1", ["new"], updated=2))
    before = everything(space)
    assert write(space, document("1", ["old"], updated=1)) == {Outcome.STALE: 1}
    assert everything(space) == before


def test_of_one_document_twice_in_a_batch_the_newest_is_written(space: psycopg.Connection) -> None:
    new, old = document("1", ["new"], updated=2), document("1", ["old", "older"], updated=1)
    assert write(space, old, new, new) == {Outcome.NEW: 1, Outcome.STALE: 1, Outcome.UNCHANGED: 1}
    assert [row[3] for row in chunk_rows(space)] == ["new"]


def test_other_processing_of_the_same_version_is_a_change(space: psycopg.Connection) -> None:
    doc = document("1", ["a"])
    write(space, doc)
    assert write_batch(space, batch(doc), b"q" * 16) == {Outcome.CHANGED: 1}


def test_equal_texts_of_two_documents_are_two_rows(space: psycopg.Connection) -> None:
    write(space, document("1", ["same"]), document("2", ["same"]))
    write(space, document("1", [], updated=1))
    assert [row[:2] for row in chunk_rows(space)] == [("2", 0)]


def test_a_deleted_document_leaves_every_space_and_may_come_back(space: psycopg.Connection) -> None:
    register_space(space, OTHER, "halfvec", "acme")
    doc = document("1", ["a"], links=(Link("mentions", "jira_issue", "ABC-2"),), author="ada")
    write(space, doc, document("2", ["b"]))
    write_batch(space, batch(doc, space=OTHER), PROCESSING)
    assert len(chunk_rows(space, OTHER)) == 1

    assert apply_tombstones(space, [tombstone("1", at=3)]) == {Outcome.DELETED: 1}
    assert [row[0] for row in chunk_rows(space)] == ["2"]
    assert chunk_rows(space, OTHER) == []
    assert space.execute("SELECT count(*) FROM document_links").fetchone() == (0,)
    assert space.execute(
        "SELECT title, author, deleted_at, delete_reason FROM documents WHERE native_id = '1'"
    ).fetchone() == ("", "", day(3), "gone from the census")

    assert write(space, document("1", ["late"], updated=2)) == {Outcome.STALE: 1}
    assert apply_tombstones(space, [tombstone("1", at=3), tombstone("1", at=2)]) == {Outcome.UNCHANGED: 2}
    assert write(space, document("1", ["again"], updated=4)) == {Outcome.NEW: 1}
    assert apply_tombstones(space, [tombstone("1", at=3)]) == {Outcome.STALE: 1}
    assert [row[3] for row in chunk_rows(space)] == ["again", "b"]


def test_a_document_that_was_gone_and_is_seen_again_lives_though_it_was_not_edited(
    space: psycopg.Connection,
) -> None:
    write(space, document("1", ["a"], updated=1, observed=2))
    assert apply_tombstones(space, [tombstone("1", at=5)]) == {Outcome.DELETED: 1}
    assert write(space, document("1", ["a"], updated=1, observed=4)) == {Outcome.STALE: 1}
    assert write(space, document("1", ["a"], updated=1, observed=6)) == {Outcome.NEW: 1}
    assert apply_tombstones(space, [tombstone("1", at=5)]) == {Outcome.STALE: 1}
    assert [row[3] for row in chunk_rows(space)] == ["a"]


def test_a_deletion_that_comes_first_is_remembered(space: psycopg.Connection) -> None:
    assert apply_tombstones(space, [tombstone("1", at=3)]) == {Outcome.UNCHANGED: 1}
    assert write(space, document("1", ["a"], updated=1)) == {Outcome.STALE: 1}
    assert chunk_rows(space) == []


def test_half_vectors_are_stored_to_their_precision(connection: psycopg.Connection) -> None:
    register_space(connection, SPACE, "halfvec", "acme")
    write(connection, document("1", ["a"]))
    row = connection.execute(
        sql.SQL("SELECT embedding::vector FROM {}").format(chunk_table(SPACE.space_id))
    ).fetchone()
    assert row is not None
    np.testing.assert_array_equal(np.asarray(row[0]), vector_of("a").astype(np.float16).astype(np.float32))


def test_what_postgres_refuses_in_text_is_taken_out(space: psycopg.Connection) -> None:
    doc = document(
        "1\0",
        ["text"],
        title="a\0b\ud800",
        author="\0",
        attributes={"k\0": ["\0v", {"deep": "\udfff"}]},
        links=(Link("mentions", "jira_issue", "ABC-2\0"), Link("mentions", "jira_issue", "ABC-2")),
        comments_dropped={"bot\0": 1},
    )
    assert write(space, doc) == {Outcome.NEW: 1}
    assert space.execute("SELECT native_id, title, author, attributes FROM documents").fetchone() == (
        "1",
        "ab\ufffd",
        "",
        {"k": ["v", {"deep": "\ufffd"}]},
    )


def test_a_batch_of_an_unknown_space_is_refused(connection: psycopg.Connection) -> None:
    with pytest.raises(UnknownName):
        write(connection, document("1", ["a"]))
    assert connection.execute("SELECT count(*) FROM documents").fetchone() == (0,)


def state(native_id: str, texts: list[str], seen: tuple[int, int]) -> ChunkedDocument:
    """A version whose payload decides its text, as payloads do."""
    updated, observed = seen
    return document(native_id, texts, updated=updated, observed=observed, payload=repr(texts).encode())


ids = st.sampled_from(["1", "2"])
texts = st.lists(st.sampled_from(["a", "b"]), max_size=3)
seen = st.tuples(st.sampled_from([10, 20, 30]), st.none() | st.integers(0, 9)).map(
    lambda edit: (edit[0], 0 if edit[1] is None else edit[0] + edit[1])
)
"""When edited, and when seen so, if known: what is seen after an edit is that edit or a later one."""
events = st.lists(
    st.one_of(
        st.builds(state, ids, texts, seen),
        st.builds(tombstone, ids, at=st.integers(5, 39)),
    ),
    min_size=1,
    max_size=6,
)


@given(events=events, data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_and_repetition_ends_in_the_same_rows(
    space: psycopg.Connection, events: list[ChunkedDocument | Tombstone], data: st.DataObject
) -> None:
    def play(events: Sequence[ChunkedDocument | Tombstone]) -> dict[str, list[tuple[Any, ...]]]:
        space.execute("DELETE FROM documents")
        for event in events:
            if isinstance(event, Tombstone):
                apply_tombstones(space, [event])
            else:
                write(space, event)
        return everything(space)

    expected = play(events)
    shuffled = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events), max_size=4))))
    assert play(shuffled) == expected


def test_writers_with_overlapping_documents_all_get_done(database: Store, space: psycopg.Connection) -> None:
    failures: list[BaseException] = []

    def writer(seed: int) -> None:
        session = Session(database, max_wait_s=0.2)
        order = np.random.default_rng(seed)
        try:
            for version in range(8):
                picked = order.permutation(30)[:20]
                docs = [document(str(n), [f"v{version}", f"{n}"], updated=version) for n in picked]
                session.run(lambda connection, docs=docs: write(connection, *docs))
                session.run(lambda connection: apply_tombstones(connection, [tombstone("7", at=3)]))
        except BaseException as error:
            failures.append(error)
        session.close()

    threads = [threading.Thread(target=writer, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert_whole(space)


def assert_whole(connection: psycopg.Connection) -> None:
    """Every document has the chunks it says it has, and no chunk is without its document."""
    torn = connection.execute(
        sql.SQL(
            "SELECT document_id FROM indexed_documents FULL JOIN"
            " (SELECT document_id, count(*) AS stored FROM {} GROUP BY 1) AS c USING (document_id)"
            " WHERE coalesce(chunks, -1) <> coalesce(stored, 0)"
        ).format(chunk_table(SPACE.space_id))
    ).fetchall()
    assert torn == []


def test_a_writer_killed_in_mid_transaction_leaves_nothing_half_written(
    database: Store, space: psycopg.Connection
) -> None:
    def documents(version: int) -> list[ChunkedDocument]:
        return [document(str(n), [f"{version} {m}" for m in range(40)], updated=version) for n in range(60)]

    backend: list[int] = []
    ready = threading.Event()

    def victim() -> None:
        with database.connect() as connection:
            backend.append(connection.info.backend_pid)
            ready.set()
            with suppress(psycopg.OperationalError):
                for version in range(1, 1000):
                    write(connection, *documents(version))

    write(space, *documents(0))
    thread = threading.Thread(target=victim)
    thread.start()
    ready.wait(10)
    threading.Event().wait(0.4)
    space.execute("SELECT pg_terminate_backend(%s)", backend)
    thread.join()
    assert_whole(space)


def run_pipeline(build: Any, *flags: str) -> Counter[str]:
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner", *flags]))
    build(pipeline)
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]
    return Counter({counter.key.metric.name: counter.committed for counter in counters})


def test_a_pipeline_that_runs_every_bundle_thrice_writes_the_same_rows(
    database: Store, space: psycopg.Connection
) -> None:
    batches = [
        batch(document("1", ["a", "b"]), document("2", ["x"])),
        batch(document("1", ["a"], updated=1), document("3", [])),
    ]

    def build(pipeline: beam.Pipeline) -> None:
        written = pipeline | "Batches" >> beam.Create(batches, reshuffle=False)
        written | "Write" >> WriteToPgvector(database, PROCESSING)
        gone = pipeline | "Gone" >> beam.Create([tombstone("2", at=5)], reshuffle=False)
        gone | "Delete" >> DeleteFromPgvector(database)

    counts = run_pipeline(build)
    assert counts.total() == 5
    expected = everything(space)
    space.execute("DELETE FROM documents")
    run_pipeline(build, "--direct_runner_bundle_repeat=2")
    assert everything(space) == expected


def test_a_document_that_postgres_refuses_becomes_a_dead_letter_and_the_rest_is_written(
    database: Store, space: psycopg.Connection
) -> None:
    too_long = "".join(text_hash(str(n)).hex() for n in range(400))
    docs = [document(str(n), ["a", "b"]) for n in range(5)] + [document("bad", ["a"], key=too_long)]

    def build(pipeline: beam.Pipeline) -> None:
        pipeline | beam.Create([batch(*docs)], reshuffle=False) | WriteToPgvector(database, PROCESSING)

    assert run_pipeline(build) == {"new": 5, "dead_lettered": 1}
    assert space.execute("SELECT stage, error_type, retriable FROM dead_letters").fetchall() == [
        ("store", "InvalidPayload", False)
    ]
    assert_whole(space)


@pytest.mark.parametrize("redacts", [True, False])
def test_the_letter_of_what_postgres_refuses_is_redacted_where_letters_are(
    redacts: bool, database: Store, space: psycopg.Connection
) -> None:
    too_long = "".join(text_hash(str(n)).hex() for n in range(400))
    refused = batch(document("bad", ["a"], key=too_long, payload=b'{"mail":"ada@navy.example"}'))

    def build(pipeline: beam.Pipeline) -> None:
        write = WriteToPgvector(database, PROCESSING, redacts_letters=redacts)
        pipeline | beam.Create([refused], reshuffle=False) | write

    assert run_pipeline(build) == {"dead_lettered": 1}
    wanted = b'{"mail":"[EMAIL]"}' if redacts else b'{"mail":"ada@navy.example"}'
    assert space.execute("SELECT payload FROM dead_letters").fetchall() == [(wanted,)]

"""A record that fails is kept whole, counted, and can be tried again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import apache_beam as beam
import psycopg
import pyarrow as pa
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from schemas.documents import (
    ChunkedDocument,
    DeadLetter,
    Document,
    EmbeddedBatch,
    Format,
    Kind,
    SourceRecord,
    Tombstone,
)
from schemas.errors import UnknownName
from schemas.spaces import EmbeddingSpace, chunk_schema
from transforms.dead_letters import (
    MAX_PARKED_REASONS,
    count_parked,
    dead_letter_id,
    list_dead_letters,
    load_for_retry,
    parked_again,
    parked_letters,
    resolve_dead_letters,
    write_dead_letters,
)
from transforms.postgres import Store
from transforms.sinks.ledger import WriteDeadLetters
from transforms.sinks.pgvector import apply_tombstones, write_batch
from transforms.spaces import register_space

SPACE = EmbeddingSpace("tests/tiny", "0" * 64, "exact", "mean", True, dimensions=4, max_tokens=64)
DAY_0 = datetime(2026, 1, 1, tzinfo=UTC)


def letter(
    native_id: str = "1",
    *,
    updated: int = 0,
    stage: str = "extract",
    reason: str = "fields.updated: expected a date",
    payload: bytes = b"\x00\xff not JSON",
    client: str = "acme",
) -> DeadLetter:
    record = SourceRecord(
        client,
        "jira",
        Format.JIRA_ISSUE,
        Kind.ISSUE,
        native_id,
        payload,
        DAY_0 + timedelta(days=updated),
        locator="a.jsonl:1",
    )
    return DeadLetter(record, stage, "InvalidPayload", reason, False)


def store(connection: psycopg.Connection, record: SourceRecord) -> None:
    register_space(connection, SPACE, "vector", record.client)
    documents = (ChunkedDocument(Document(record, "ABC-1", "ABC", "", ""), (), 0, 0),)
    empty = pa.RecordBatch.from_pylist([], schema=chunk_schema(SPACE.dimensions))
    write_batch(connection, EmbeddedBatch(SPACE.space_id, documents, empty), b"p" * 16)


def test_a_letter_comes_back_as_the_record_it_was(connection: psycopg.Connection) -> None:
    kept = letter()
    write_dead_letters(connection, [kept])
    assert list(load_for_retry(connection, "acme")) == [kept.record]
    assert list(load_for_retry(connection, "other")) == []


def test_failing_again_counts_an_attempt_and_says_the_last_reason(connection: psycopg.Connection) -> None:
    write_dead_letters(connection, [letter(reason="first")])
    write_dead_letters(connection, [letter(reason="second", updated=1), letter(stage="embed")])
    listed = {one.stage: one for one in list_dead_letters(connection, "acme")}
    assert (listed["extract"].attempts, listed["extract"].reason) == (2, "second")
    assert (listed["embed"].attempts, listed["embed"].payload_bytes) == (1, 11)


def test_a_late_letter_of_an_older_version_does_not_replace_a_newer_one(
    connection: psycopg.Connection,
) -> None:
    newer = letter(updated=2, payload=b"new")
    write_dead_letters(connection, [newer])
    write_dead_letters(connection, [letter(updated=1, payload=b"old")])
    assert list(load_for_retry(connection, "acme")) == [newer.record]


def test_storing_the_document_resolves_its_letters(connection: psycopg.Connection) -> None:
    write_dead_letters(connection, [letter(updated=1), letter("2")])
    store(connection, letter(updated=1).record)
    assert [one.native_id for one in list_dead_letters(connection, "acme")] == ["2"]
    assert len(list_dead_letters(connection, "acme", resolved=True)) == 2


def test_storing_an_older_version_leaves_the_failure_of_a_newer_one_open(
    connection: psycopg.Connection,
) -> None:
    write_dead_letters(connection, [letter(updated=5)])
    store(connection, letter(updated=1).record)
    assert len(list_dead_letters(connection, "acme")) == 1


def test_failing_after_success_opens_the_letter_again_and_leaves_the_document(
    connection: psycopg.Connection,
) -> None:
    write_dead_letters(connection, [letter()])
    store(connection, letter().record)
    write_dead_letters(connection, [letter(updated=1)])
    assert len(list_dead_letters(connection, "acme")) == 1
    assert connection.execute("SELECT key, updated_at FROM documents").fetchall() == [("ABC-1", DAY_0)]


def test_deleting_the_document_resolves_its_letters(connection: psycopg.Connection) -> None:
    write_dead_letters(connection, [letter()])
    gone = Tombstone("acme", "jira", Kind.ISSUE, "1", DAY_0 + timedelta(days=9), "gone")
    apply_tombstones(connection, [gone])
    assert list_dead_letters(connection, "acme") == []


def test_the_text_of_a_deleted_document_is_in_no_letter(connection: psycopg.Connection) -> None:
    write_dead_letters(connection, [letter(), letter(stage="embed"), letter("2")])
    store(connection, letter().record)
    gone = Tombstone("acme", "jira", Kind.ISSUE, "1", DAY_0 + timedelta(days=9), "gone")
    apply_tombstones(connection, [gone])
    kept = connection.execute("SELECT DISTINCT native_id, payload FROM dead_letters ORDER BY 1").fetchall()
    assert kept == [("1", b""), ("2", letter().record.payload)]


def test_chosen_letters_are_tried_again_once_for_each_document(connection: psycopg.Connection) -> None:
    letters = [letter("1"), letter("1", stage="embed", updated=1), letter("2"), letter("3")]
    write_dead_letters(connection, letters)
    chosen = [dead_letter_id(one) for one in letters[:3]]
    records = list(load_for_retry(connection, "acme", chosen))
    assert sorted((one.native_id, one.updated_at) for one in records) == [
        ("1", DAY_0 + timedelta(days=1)),
        ("2", DAY_0),
    ]
    assert list(load_for_retry(connection, "acme", [])) == []


def test_an_unknown_letter_is_named(connection: psycopg.Connection) -> None:
    unknown = uuid4()
    with pytest.raises(UnknownName, match=str(unknown)):
        list(load_for_retry(connection, "acme", [unknown]))


def test_what_postgres_refuses_in_text_is_taken_out_of_a_letter(connection: psycopg.Connection) -> None:
    write_dead_letters(connection, [letter("1\0", reason="bad \0 and \ud800")])
    assert [one.reason for one in list_dead_letters(connection, "acme")] == ["bad  and \ufffd"]


def test_the_step_counts_every_letter(database: Store, connection: psycopg.Connection) -> None:
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    letters = [letter(str(number), payload=b"x" * 10_000) for number in range(250)]
    pipeline | beam.Create(letters, reshuffle=False) | WriteDeadLetters(database)
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_name("dead_lettered"))["counters"]
    assert [counter.committed for counter in counters] == [250]
    assert connection.execute("SELECT count(*) FROM dead_letters").fetchone() == (250,)


def parked(native_id: str, reason: str, client: str = "acme") -> DeadLetter:
    return replace(letter(native_id, stage="embed", reason=reason, client=client), error_type="Parked")


def test_parked_letters_are_told_from_others_and_counted_by_reason(connection: psycopg.Connection) -> None:
    write_dead_letters(
        connection,
        [
            *(parked(str(number), "a: HTTP 503") for number in range(3)),
            parked("3", "acme has used up its budget"),
            parked("4", "a: HTTP 503", client="globex"),
            letter("5", stage="embed"),
        ],
    )
    assert count_parked(connection, "acme") == {"a: HTTP 503": 3, "acme has used up its budget": 1}
    letters = parked_letters(connection, "acme", "jira")
    assert list(letters.values()) == [1, 1, 1, 1]
    given = {record.native_id for record in load_for_retry(connection, "acme", list(letters))}
    assert given == {"0", "1", "2", "3"}
    assert parked_letters(connection, "acme", "another source") == {}
    write_dead_letters(connection, [letter("2", stage="embed")])
    assert not parked_again(connection, letters), "it has met another end"
    write_dead_letters(connection, [parked("1", "a: HTTP 503")])
    assert parked_again(connection, letters)
    write_dead_letters(connection, [parked("2", "a: HTTP 503")])
    stored = parked("3", "").record
    resolve_dead_letters(connection, [(stored.document_id, stored.version)])
    assert count_parked(connection, "acme") == {"a: HTTP 503": 3}


def test_rare_reasons_of_parked_letters_are_counted_together(connection: psycopg.Connection) -> None:
    write_dead_letters(connection, [parked(str(number), f"reason {number}") for number in range(9)])
    counts = count_parked(connection, "acme")
    assert len(counts) == MAX_PARKED_REASONS + 1
    assert counts["other reasons"] == 9 - MAX_PARKED_REASONS

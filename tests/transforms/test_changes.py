"""Whether there is work is decided from digests alone, in one query a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import apache_beam as beam
import psycopg
import pyarrow as pa
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.documents import (
    ChunkedDocument,
    Document,
    EmbeddedBatch,
    Format,
    Kind,
    SourceRecord,
    Tombstone,
    Version,
)
from schemas.ids import fingerprint
from schemas.outcomes import Outcome
from schemas.spaces import EmbeddingSpace, chunk_schema
from transforms.changes import SkipUnchanged, Stored, decide, split_page
from transforms.outcomes import NAMESPACE
from transforms.postgres import Store
from transforms.sinks.pgvector import apply_tombstones, write_batch
from transforms.spaces import register_space

SPACE = EmbeddingSpace("tests/tiny", "0" * 64, "exact", "mean", True, dimensions=4, max_tokens=64)
PROCESSING = b"p" * 16
DAY_0 = datetime(2026, 1, 1, tzinfo=UTC)


def record(native_id: str, payload: bytes = b"x", updated: int = 0, observed: int = 0) -> SourceRecord:
    return SourceRecord(
        "acme",
        "jira",
        Format.JIRA_ISSUE,
        Kind.ISSUE,
        native_id,
        payload,
        DAY_0 + timedelta(days=updated),
        DAY_0 + timedelta(days=observed),
    )


def store_records(connection: psycopg.Connection, records: Sequence[SourceRecord]) -> None:
    """As documents without text."""
    documents = tuple(
        ChunkedDocument(Document(one, one.native_id, "", one.payload.decode(), ""), (), 0, 0)
        for one in records
    )
    empty = pa.RecordBatch.from_pylist([], schema=chunk_schema(SPACE.dimensions))
    write_batch(connection, EmbeddedBatch(SPACE.space_id, documents, empty), PROCESSING)


@pytest.fixture
def space(connection: psycopg.Connection) -> psycopg.Connection:
    register_space(connection, SPACE, "vector", "acme")
    return connection


def version(updated: int, payload: bytes = b"x", observed: int = 0) -> Version:
    return record("1", payload, updated, observed).version


def stored(at: Version, processing: bytes = PROCESSING) -> Stored:
    return Stored(at, fingerprint(at.payload_digest, processing))


@pytest.mark.parametrize(
    ("arrived", "present", "outcome"),
    [
        (version(1), None, None),
        (version(1), stored(version(1)), Outcome.UNCHANGED),
        (version(1, observed=5), stored(version(1)), Outcome.UNCHANGED),
        (version(1), stored(version(1, observed=5)), Outcome.UNCHANGED),
        (version(2, b"y"), stored(version(1)), None),
        (version(1, b"y", observed=5), stored(version(1)), None),
        (version(1, b"y"), stored(version(2)), Outcome.STALE),
        (version(1), stored(version(1), b"other" * 4), None),
        (version(1), Stored(version(2, b""), None, DAY_0 + timedelta(days=2)), Outcome.STALE),
        (version(3), Stored(version(2, b""), None, DAY_0 + timedelta(days=2)), None),
        (version(1, observed=3), Stored(version(2, b""), None, DAY_0 + timedelta(days=2)), None),
    ],
    ids=[
        "never seen",
        "the same again",
        "the same, seen later",
        "the same, seen earlier",
        "newer",
        "changed without a new time",
        "older",
        "processed in another way",
        "older than its deletion",
        "newer than its deletion",
        "seen after its deletion",
    ],
)
def test_work_is_decided_from_versions_and_fingerprints(
    arrived: Version, present: Stored | None, outcome: Outcome | None
) -> None:
    assert decide(arrived, present, PROCESSING) is outcome


def test_a_page_lets_through_only_what_needs_work(space: psycopg.Connection) -> None:
    store_records(space, [record("1"), record("2", updated=5), record("3")])
    page = [record("1"), record("2", b"old", updated=4), record("3", b"new", updated=1), record("4")]
    work, counts = split_page(space, SPACE.space_id, PROCESSING, page)
    assert [one.native_id for one in work] == ["3", "4"]
    assert counts == {Outcome.UNCHANGED: 1, Outcome.STALE: 1}


def test_another_space_has_its_own_work(space: psycopg.Connection) -> None:
    store_records(space, [record("1")])
    work, _ = split_page(space, "f" * 16, PROCESSING, [record("1")])
    assert len(work) == 1


events = st.lists(
    st.one_of(
        st.builds(
            lambda native_id, payload, edited, lag: record(
                native_id, payload, edited, 0 if lag is None else edited + lag
            ),
            st.sampled_from(["1", "2"]),
            st.sampled_from([b"x", b"y"]),
            st.sampled_from([10, 20, 30]),
            st.none() | st.integers(0, 9),
        ),
        st.builds(
            lambda native_id, at: Tombstone(
                "acme", "jira", Kind.ISSUE, native_id, DAY_0 + timedelta(days=at), "gone"
            ),
            st.sampled_from(["1", "2"]),
            st.integers(5, 39),
        ),
    ),
    min_size=1,
    max_size=6,
)


@given(events=events, data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_skipping_what_is_unchanged_never_changes_the_outcome_of_any_order(
    space: psycopg.Connection, events: list[SourceRecord | Tombstone], data: st.DataObject
) -> None:
    def play(events: Sequence[SourceRecord | Tombstone]) -> list[tuple[Any, ...]]:
        space.execute("DELETE FROM documents")
        for event in events:
            if isinstance(event, Tombstone):
                apply_tombstones(space, [event])
            else:
                work, _ = split_page(space, SPACE.space_id, PROCESSING, [event])
                store_records(space, work)
        return space.execute(
            "SELECT native_id, updated_at, observed_at, payload_digest, title, deleted_at, fingerprint"
            " FROM documents LEFT JOIN indexed_documents USING (document_id) ORDER BY native_id"
        ).fetchall()

    expected = play(events)
    assert play(data.draw(st.permutations(events + events[:2]))) == expected


def test_the_step_counts_what_it_holds_back(database: Store, space: psycopg.Connection) -> None:
    store_records(space, [record("1"), record("2", updated=5)])
    page = (record("1"), record("2", b"old"), record("3"))
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    changed = (
        pipeline
        | beam.Create([page, ()], reshuffle=False)
        | SkipUnchanged(database, SPACE.space_id, PROCESSING)
        | beam.Map(lambda one: one.native_id)
    )
    assert_that(changed, equal_to(["3"]))
    result = pipeline.run()
    result.wait_until_finish()
    counters = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))["counters"]
    assert Counter({counter.key.metric.name: counter.committed for counter in counters}) == {
        "unchanged": 1,
        "stale": 1,
    }

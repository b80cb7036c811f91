"""What deliveries name ends in the store as the source has it, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors.base import Cursor, Page
from runners.deliveries import process_deliveries
from schemas.documents import Format, Kind, Reference, SourceRecord, Tombstone
from schemas.errors import SourceTimeout
from transforms import deliveries
from transforms.deliveries import NewDelivery

START = datetime(2026, 1, 1, tzinfo=UTC)


class FakeSource:
    """Issues in memory, with a clock that moves with every look and every change."""

    name = "repos"

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.updated: dict[str, datetime] = {}
        self.asked: list[list[str]] = []
        self.keys: list[str] = []
        self.unreachable: set[str] = set()
        self.clock = START

    def change(self, native_id: str, text: str | None, *, silently: bool = False) -> None:
        self.clock += timedelta(seconds=1)
        if text is None:
            self.texts.pop(native_id, None)
            return
        self.texts[native_id] = text
        if not silently or native_id not in self.updated:
            self.updated[native_id] = self.clock

    def pages(self, cursor: Cursor | None) -> Iterator[Page]:
        since = datetime.fromisoformat(cursor["since"]) if cursor else START
        changed = [one for one in self.texts if self.updated[one] >= since]
        yield Page(tuple(map(self._record, changed)), cursor={"since": self.clock.isoformat()})

    def estimate(self, cursor: Cursor | None) -> int | None:
        return None

    def close(self) -> None:
        return

    def census(self) -> Iterator[Sequence[Reference]]:
        yield [Reference(Kind.ISSUE, native_id) for native_id in self.texts]

    def look_again(self, references: Sequence[Reference]) -> Iterator[Page]:
        self.asked.append([one.native_id for one in references])
        self.keys += [one.key for one in references]
        for reference in references:
            if reference.native_id in self.unreachable:
                raise SourceTimeout("the source did not answer")
            self.clock += timedelta(seconds=1)
            if reference.native_id in self.texts:
                yield Page((self._record(reference.native_id),))
            else:
                stone = Tombstone("acme", "repos", reference.kind, reference.native_id, self.clock, "deleted")
                yield Page(tombstones=(stone,))

    def _record(self, native_id: str) -> SourceRecord:
        payload = orjson.dumps({"id": native_id, "title": self.texts[native_id]})
        return SourceRecord(
            "acme", "repos", Format.GITHUB_ISSUE, Kind.ISSUE, native_id, payload,
            self.updated[native_id], self.clock,
        )  # fmt: skip


class Store:
    """What the pipeline stores, by the same rule: the greatest version wins, a tombstone by its moment."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Any, bytes | None]] = {}
        self.crash_at: int | None = None

    def ingest(self, pages: Iterable[Page]) -> None:
        for number, page in enumerate(pages):
            if number == self.crash_at:
                raise KeyboardInterrupt
            for record in page.records:
                at = max(record.updated_at, record.observed_at)
                if record.native_id not in self.rows or self.rows[record.native_id][0] <= at:
                    self.rows[record.native_id] = (at, record.payload)
            for stone in page.tombstones:
                if stone.native_id not in self.rows or self.rows[stone.native_id][0] <= stone.updated_at:
                    self.rows[stone.native_id] = (stone.updated_at, None)

    @property
    def texts(self) -> dict[str, str]:
        return {
            native_id: orjson.loads(payload)["title"]
            for native_id, (_, payload) in self.rows.items()
            if payload is not None
        }


def _reference(native_id: str) -> Reference:
    return Reference(Kind.ISSUE, native_id, f"acme/mill#{native_id}")


def _deliver(connection: psycopg.Connection, provider_id: str, *native_ids: str) -> None:
    named = tuple(map(_reference, native_ids))
    deliveries.store(connection, [NewDelivery("acme", "repos", provider_id, "issues.edited", named)])


def _process(connection: psycopg.Connection, source: FakeSource, store: Store) -> dict[str, int]:
    return dict(process_deliveries(connection, "acme", "repos", source, store.ingest, lambda: None))


def test_what_deliveries_name_is_asked_for_once_and_stored(connection: psycopg.Connection) -> None:
    source, store = FakeSource(), Store()
    source.change("1", "Gate jams")
    _deliver(connection, "a", "1")
    _deliver(connection, "b", "1", "2")
    assert _process(connection, source, store) == {"done": 2}
    assert store.texts == {"1": "Gate jams"}
    assert source.asked == [["1", "2"]]
    assert _process(connection, source, store) == {}


@pytest.mark.parametrize("keys", [("ABC-1", "XYZ-1", ""), ("", "XYZ-1"), ("XYZ-1", "")])
def test_a_document_is_asked_for_by_the_latest_key_that_any_delivery_gave(
    keys: tuple[str, ...], connection: psycopg.Connection
) -> None:
    source, store = FakeSource(), Store()
    for number, key in enumerate(keys):
        named = (Reference(Kind.ISSUE, "1", key),)
        deliveries.store(connection, [NewDelivery("acme", "repos", str(number), "issuelink_deleted", named)])
    _process(connection, source, store)
    assert source.keys == ["XYZ-1"]


def test_a_forged_deletion_deletes_nothing(connection: psycopg.Connection) -> None:
    source, store = FakeSource(), Store()
    source.change("1", "Gate jams")
    named = (_reference("1"),)
    deliveries.store(connection, [NewDelivery("acme", "repos", "x", "issues.deleted", named)])
    _process(connection, source, store)
    assert store.texts == source.texts


def test_killed_before_it_was_noted_the_delivery_is_processed_again(connection: psycopg.Connection) -> None:
    source, store = FakeSource(), Store()
    source.change("1", "Gate jams")
    _deliver(connection, "a", "1")
    store.crash_at = 0
    with pytest.raises(KeyboardInterrupt):
        _process(connection, source, store)
    assert len(deliveries.pending(connection, "acme", "repos", 10)) == 1
    store.crash_at = None
    assert _process(connection, source, store) == {"done": 1}


def test_one_that_fails_is_put_off_and_holds_up_no_other(connection: psycopg.Connection) -> None:
    source, store = FakeSource(), Store()
    source.change("1", "Gate jams")
    source.unreachable = {"2"}
    _deliver(connection, "a", "2")
    _deliver(connection, "b", "1")
    assert _process(connection, source, store) == {"failed": 2}
    assert _process(connection, source, store) == {}, "not due yet"
    connection.execute("UPDATE webhook_deliveries SET due_at = clock_timestamp()")
    assert _process(connection, source, store) == {"failed": 1, "done": 1}
    assert store.texts == {"1": "Gate jams"}
    assert source.asked == [["2", "1"], ["2"], ["1"]]


def test_a_defect_is_passed_on_and_not_met_again_at_once(connection: psycopg.Connection) -> None:
    def broken(pages: Iterable[Page]) -> None:
        raise KeyError("the text of a record")

    _deliver(connection, "a", "1")
    with pytest.raises(KeyError):
        process_deliveries(connection, "acme", "repos", FakeSource(), broken, lambda: None)
    assert deliveries.pending(connection, "acme", "repos", 10) == []
    rows = connection.execute("SELECT status, failure FROM webhook_deliveries").fetchall()
    assert rows == [("pending", "KeyError")]


def test_a_delivery_that_names_nothing_polls_the_source_once(connection: psycopg.Connection) -> None:
    polls: list[None] = []
    _deliver(connection, "a")
    _deliver(connection, "b")
    ended = process_deliveries(
        connection, "acme", "repos", FakeSource(), Store().ingest, lambda: polls.append(None)
    )
    assert (dict(ended), len(polls)) == ({"done": 2}, 1)


def test_more_than_a_batch_is_processed_in_one_call(connection: psycopg.Connection) -> None:
    source, store = FakeSource(), Store()
    named = [(_reference(str(n)),) for n in range(450)]
    deliveries.store(
        connection,
        [NewDelivery("acme", "repos", f"d{n}", "issues.opened", one) for n, one in enumerate(named)],
    )
    assert _process(connection, source, store) == {"done": 450}
    assert [len(one) for one in source.asked] == [200, 200, 50]


def test_comments_of_an_issue_that_is_gone_are_looked_at_before_it_is_deleted(
    connection: psycopg.Connection,
) -> None:
    for native_id, kind, key in (("1", "issue", "acme/mill#1"), ("7", "comment", "acme/mill#1 (comment 7)")):
        connection.execute(
            "INSERT INTO documents (document_id, client, source, kind, native_id, updated_at, observed_at,"
            " payload_digest, key) VALUES (gen_random_uuid(), 'acme', 'repos', %s, %s, now(), now(), '', %s)",
            [kind, native_id, key],
        )
    connection.execute(
        "INSERT INTO document_links SELECT document_id, 'parent', 'github', 'acme/mill#1' FROM documents"
        " WHERE kind = 'comment'"
    )
    source, seen = FakeSource(), list[tuple[Kind, str]]()
    _deliver(connection, "a", "1")
    process_deliveries(
        connection,
        "acme",
        "repos",
        source,
        lambda pages: seen.extend((one.kind, one.native_id) for page in pages for one in page.tombstones),
        lambda: None,
    )
    assert seen == [(Kind.COMMENT, "7"), (Kind.ISSUE, "1")]


_IDS = st.sampled_from(["1", "2", "3"])
_STEPS = st.one_of(
    st.tuples(st.just("change"), _IDS, st.sampled_from(["A", "B", "C", None]), st.booleans()),
    st.tuples(st.just("deliver"), st.integers(0, 30)),
    st.tuples(st.just("process")),
    st.tuples(st.just("killed at page"), st.integers(0, 2)),
    st.tuples(st.just("poll")),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(_STEPS, max_size=30), last=st.randoms(use_true_random=False))
def test_any_order_of_deliveries_and_polls_ends_in_what_the_source_has(
    connection: psycopg.Connection, steps: list[tuple[Any, ...]], last: Any
) -> None:
    connection.execute("TRUNCATE webhook_deliveries")
    source, store = FakeSource(), Store()
    sent: list[str] = []
    cursor: Cursor | None = None
    for step in steps:
        match step:
            case ("change", native_id, text, silently):
                source.change(native_id, text, silently=silently)
                sent.append(native_id)
            case ("deliver", number) if sent:
                number %= len(sent)  # again, later than others, or never until the end
                _deliver(connection, f"d{number}", sent[number])
            case ("process",):
                _process(connection, source, store)
            case ("killed at page", number):
                store.crash_at = number
                with suppress(KeyboardInterrupt):
                    _process(connection, source, store)
                store.crash_at = None
            case ("poll",):
                for page in source.pages(cursor):
                    store.ingest([page])
                    cursor = page.cursor
    order = list(enumerate(sent))
    last.shuffle(order)
    for number, native_id in order:
        _deliver(connection, f"d{number}", native_id)
    _process(connection, source, store)
    assert store.texts == source.texts

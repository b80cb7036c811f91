"""Whoever listens hears of every committed change set, and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from schemas.ids import document_id
from schemas.outcomes import Outcome
from tests.transforms.sinks.test_pgvector import PROCESSING, SPACE, batch, document, tombstone
from transforms import notify
from transforms.notify import CHANNEL, MAX_PAYLOAD_BYTES, Change, payload
from transforms.postgres import Store
from transforms.sinks.pgvector import write_batch
from transforms.sinks.tombstones import apply_tombstones
from transforms.spaces import register_space

RUN_ID = uuid4()

Heard = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def heard(database: Store, connection: psycopg.Connection) -> Iterator[Heard]:
    """Every message since it was last asked; waits for none, as Postgres delivers them with the next answer."""
    register_space(connection, SPACE, "vector", "acme")
    with psycopg.connect(database.dsn, autocommit=True) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        yield lambda: [json.loads(notice.payload) for notice in listener.notifies(timeout=0.2)]


def identity(native_id: str) -> str:
    return str(document_id("acme", "jira", "issue", native_id))


def test_a_written_batch_is_announced_once_with_its_ids_and_counts(
    connection: psycopg.Connection, heard: Heard
) -> None:
    first = batch(document("1", ["a", "b"]), document("2", ["c"]))
    write_batch(connection, first, PROCESSING, RUN_ID)
    write_batch(connection, batch(document("2", ["d"], updated=1)), PROCESSING, RUN_ID)
    write_batch(connection, first, PROCESSING, RUN_ID)  # its bundle is tried again
    new, changed = heard()
    assert (new["client"], new["source"], new["space_id"]) == ("acme", "jira", SPACE.space_id)
    assert (new["new"], new["changed"], new["deleted"], new["truncated"]) == (2, 0, 0, False)
    assert UUID(new["run_id"]) == RUN_ID
    assert sorted(new["document_ids"]) == sorted([identity("1"), identity("2")])
    assert (changed["new"], changed["changed"], changed["document_ids"]) == (0, 1, [identity("2")])
    assert new["high_water_row_id"] < changed["high_water_row_id"]


def test_a_deletion_is_announced_and_one_that_finds_nothing_is_not(
    connection: psycopg.Connection, heard: Heard
) -> None:
    write_batch(connection, batch(document("1", ["a"])), PROCESSING, RUN_ID)
    heard()
    for _ in range(2):
        apply_tombstones(connection, [tombstone("1", at=5), tombstone("never seen", at=5)], RUN_ID)
    (message,) = heard()
    assert (message["deleted"], message["document_ids"], message["space_id"]) == (1, [identity("1")], None)


def test_nothing_is_said_of_what_was_rolled_back(connection: psycopg.Connection, heard: Heard) -> None:
    with connection.transaction(force_rollback=True):
        write_batch(connection, batch(document("1", ["a"])), PROCESSING, RUN_ID)
        apply_tombstones(connection, [tombstone("1", at=5)], RUN_ID)
    assert heard() == []


@pytest.mark.parametrize("written", [0, 1])
def test_nothing_is_stored_that_could_not_be_announced(
    written: int, connection: psycopg.Connection, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told in the transaction of the change, or a crash between the two would leave a change that nobody hears of."""

    def cut_off(*given: object) -> str:
        raise KeyboardInterrupt

    write = partial(write_batch, connection, batch(document("1", ["a"])), PROCESSING, RUN_ID)
    bury = partial(apply_tombstones, connection, [tombstone("1", at=5)], RUN_ID)
    if written:
        write()
    monkeypatch.setattr(notify, "payload", cut_off)
    with pytest.raises(KeyboardInterrupt):
        (bury if written else write)()
    stored = connection.execute("SELECT count(*) FROM documents WHERE deleted_at IS NULL").fetchone()
    assert stored == (written,)


def test_what_is_announced_can_be_seen(database: Store, connection: psycopg.Connection, heard: Heard) -> None:
    write_batch(connection, batch(document("1", ["a"])), PROCESSING)
    (message,) = heard()
    with database.connect() as other:
        stored = other.execute(
            "SELECT count(*) FROM documents WHERE document_id = ANY(%s::uuid[])", [message["document_ids"]]
        ).fetchone()
    assert stored == (1,)


@pytest.mark.parametrize("documents", [1, 190, 5000])
@pytest.mark.parametrize("client", ["acme", "ä" * 100])
def test_a_message_fits_however_many_documents_changed(client: str, documents: int) -> None:
    changes = [Change(client, "jira", UUID(int=n), Outcome.CHANGED) for n in range(documents)]
    text = payload(changes, SPACE.space_id, RUN_ID, 2**63 - 1)
    message = json.loads(text)
    assert len(text.encode()) <= MAX_PAYLOAD_BYTES
    assert message["changed"] == documents
    assert message["truncated"] == (len(message["document_ids"]) < documents)
    assert documents > 190 or not message["truncated"]

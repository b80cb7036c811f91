"""The queue of deliveries: kept on disk, handed out in order, put off after a failure, forgotten in the end."""

from __future__ import annotations

from datetime import timedelta

import orjson
import psycopg

from schemas.documents import Kind, Reference
from transforms import deliveries
from transforms.deliveries import NewDelivery
from transforms.postgres import Store

ISSUE = Reference(Kind.ISSUE, "1", "acme/mill#1")


def _new(number: int, *references: Reference, source: str = "repos", client: str = "acme") -> NewDelivery:
    return NewDelivery(client, source, f"delivery-{number}", "issues.edited", references)


def _due_now(connection: psycopg.Connection) -> None:
    connection.execute("UPDATE webhook_deliveries SET due_at = clock_timestamp()")


def test_deliveries_come_out_in_order_with_what_they_name(connection: psycopg.Connection) -> None:
    said = Reference(Kind.COMMENT, "7", "acme/mill#1 (comment 7)")
    assert deliveries.store(connection, [_new(1, ISSUE, said), _new(2)]) == 2
    first, second = deliveries.pending(connection, "acme", "repos", 10)
    assert first.references == (ISSUE, said)
    assert [one.key for one in first.references] == ["acme/mill#1", "acme/mill#1 (comment 7)"]
    assert second.asks_for_poll
    assert len(deliveries.pending(connection, "acme", "repos", 1)) == 1


def test_sources_and_clients_do_not_see_each_others(connection: psycopg.Connection) -> None:
    deliveries.store(connection, [_new(1), _new(1, source="other"), _new(1, client="else")])
    assert [len(deliveries.pending(connection, "acme", name, 10)) for name in ("repos", "other")] == [1, 1]


def test_a_delivery_that_comes_twice_is_kept_once(connection: psycopg.Connection) -> None:
    deliveries.store(connection, [_new(1, ISSUE)])
    assert deliveries.store(connection, [_new(1, ISSUE)]) == 0
    [one] = deliveries.pending(connection, "acme", "repos", 10)
    deliveries.mark_done(connection, [one.delivery_id])
    assert deliveries.store(connection, [_new(1, ISSUE)]) == 0
    assert deliveries.pending(connection, "acme", "repos", 10) == []


def test_a_failed_delivery_waits_twice_as_long_each_time_and_ends_in_time(
    connection: psycopg.Connection,
) -> None:
    deliveries.store(connection, [_new(1, ISSUE)])
    [one] = deliveries.pending(connection, "acme", "repos", 10)
    delays = []
    for _ in range(deliveries.MAX_ATTEMPTS - 1):
        deliveries.mark_failed(connection, [one.delivery_id], "SourceTimeout: no answer")
        assert deliveries.pending(connection, "acme", "repos", 10) == []
        row = connection.execute(
            "SELECT round(extract(epoch FROM due_at - clock_timestamp())) FROM webhook_deliveries"
        ).fetchone()
        assert row
        delays.append(int(row[0]))
        _due_now(connection)
    assert delays == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600]
    deliveries.mark_failed(connection, [one.delivery_id], "SourceTimeout: no answer")
    _due_now(connection)
    assert deliveries.pending(connection, "acme", "repos", 10) == []
    assert deliveries.store(connection, [_new(1, ISSUE)]) == 1, "delivered again, it has another chance"
    assert deliveries.pending(connection, "acme", "repos", 10)[0].attempts == 0


def test_whoever_listens_is_told_of_new_deliveries_alone(
    database: Store, connection: psycopg.Connection
) -> None:
    with database.connect() as listener:
        listener.execute(f"LISTEN {deliveries.CHANNEL}")
        deliveries.store(connection, [_new(1, source='a "quoted" name')])
        deliveries.store(connection, [_new(1, source='a "quoted" name')])
        heard = list(listener.notifies(timeout=0.2))
    assert [orjson.loads(notice.payload) for notice in heard] == [
        {"client": "acme", "source": 'a "quoted" name'}
    ]


def test_a_delivery_is_written_to_disk_whatever_the_servers_default(connection: psycopg.Connection) -> None:
    connection.execute("SET synchronous_commit = off")
    query = deliveries._STORE.replace(
        "FROM stored", "FROM stored, current_setting('synchronous_commit') AS now"
    )
    query = query.replace("SELECT pg_notify", "SELECT now, pg_notify")
    row = connection.execute(
        query, [["acme"], ["repos"], ["1"], ["push"], [psycopg.types.json.Jsonb([])], deliveries.CHANNEL]
    ).fetchone()
    assert row
    assert row[0] == "on"


def test_old_deliveries_are_forgotten(connection: psycopg.Connection) -> None:
    deliveries.store(connection, [_new(1), _new(2), _new(3)])
    first, second, _ = deliveries.pending(connection, "acme", "repos", 10)
    deliveries.mark_done(connection, [first.delivery_id, second.delivery_id])
    connection.execute(
        "UPDATE webhook_deliveries SET ended_at = ended_at - interval '8 days' WHERE delivery_id = %s",
        [first.delivery_id],
    )
    week, month = timedelta(days=7), timedelta(days=30)
    assert deliveries.prune(connection, week, month) == 1
    assert deliveries.queue_state(connection).pending == 1
    connection.execute("UPDATE webhook_deliveries SET received_at = received_at - interval '31 days'")
    assert deliveries.prune(connection, week, month) == 2
    assert deliveries.queue_state(connection) == deliveries.QueueState(0, None)

"""Connecting says clearly what is wrong, and a broken connection is made anew."""

from __future__ import annotations

import gc
import pickle
import threading
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg.adapt import Dumper, Loader
from psycopg.conninfo import make_conninfo

from schemas.errors import BadConfig, DatabaseUnreachable, ExtensionMissing, SinkUnavailable
from transforms.postgres import Session, Store


def test_a_store_travels_without_its_secret(monkeypatch: pytest.MonkeyPatch, postgres_dsn: str) -> None:
    monkeypatch.setenv("PG", make_conninfo(postgres_dsn, password="hunter2"))
    store = Store("env:PG")
    assert b"hunter2" not in pickle.dumps(store)
    with pickle.loads(pickle.dumps(store)).connect_plainly() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_unreachable_server_is_named_and_its_password_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG", "postgresql://ada:hunter2@127.0.0.1:1/history")
    with pytest.raises(DatabaseUnreachable) as caught:
        Store("env:PG").connect()
    message = str(caught.value)
    assert "\n" not in message
    assert "hunter2" not in message
    for part in ("postgres.dsn", "127.0.0.1", "port 1", "history", "ada"):
        assert part in message
    assert caught.value.__cause__ is None


def test_what_is_no_connection_string_is_not_repeated(tmp_path: Path) -> None:
    secret = tmp_path / "dsn"
    secret.write_text("my secret pass phrase")
    with pytest.raises(BadConfig, match="no connection string") as caught:
        Store(f"file:{secret}").connect()
    assert "phrase" not in str(caught.value)


def test_a_reference_that_leads_nowhere_is_named() -> None:
    with pytest.raises(BadConfig, match="NO_SUCH_VARIABLE_HERE"):
        Store("env:NO_SUCH_VARIABLE_HERE").connect()


def test_a_database_without_pgvector_is_refused(empty_database: Store) -> None:
    with pytest.raises(ExtensionMissing, match="CREATE EXTENSION vector"):
        empty_database.connect()


def test_connecting_again_leaves_nothing_behind(database: Store) -> None:
    def classes_for_values() -> int:
        gc.collect()
        # Not `issubclass`: objects there may only look like classes.
        return sum(
            not {Dumper, Loader}.isdisjoint(thing.__mro__)
            for thing in gc.get_objects()
            if issubclass(type(thing), type)
        )

    database.connect().close()
    before = classes_for_values()
    for _ in range(3):
        with database.connect() as connection:
            given = connection.execute(
                "SELECT %s::vector, array_agg(%s)", [np.zeros(3), np.ones(2)]
            ).fetchone()
    assert classes_for_values() == before
    assert given is not None
    assert [given[0].tolist(), [one.tolist() for one in given[1]]] == [[0.0, 0.0, 0.0], [[1.0, 1.0]]]


def test_dates_of_the_year_one_survive_a_server_west_of_greenwich(database: Store) -> None:
    with database.connect() as connection:
        connection.execute("ALTER DATABASE " + connection.info.dbname + " SET timezone = 'America/Lima'")
    with database.connect() as connection:
        row = connection.execute("SELECT '0001-01-01 00:00+00'::timestamptz").fetchone()
    assert row is not None
    assert row[0].isoformat() == "0001-01-01T00:00:00+00:00"


def test_a_statement_ends_at_its_timeout_and_is_not_tried_again(database: Store) -> None:
    session = Session(Store(database.dsn, statement_timeout_s=1))
    with pytest.raises(SinkUnavailable, match="statement timeout"):
        session.run(lambda connection: connection.execute("SELECT pg_sleep(30)"))
    session.close()


def test_a_connection_killed_in_mid_work_is_made_anew(database: Store) -> None:
    session = Session(database)
    pids: list[int] = []

    def work(connection: psycopg.Connection) -> int:
        pids.append(connection.info.backend_pid)
        if len(pids) == 1:
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return len(pids)

    assert session.run(work) == 2
    assert len(set(pids)) == 2
    session.close()


def test_two_that_deadlock_both_get_done(database: Store) -> None:
    with database.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
        connection.execute("INSERT INTO t VALUES (1, 0), (2, 0)")
        connection.execute("ALTER DATABASE " + connection.info.dbname + " SET deadlock_timeout = '50ms'")
    both = threading.Barrier(2)

    def crosswise(first: int, second: int) -> None:
        tries: list[int] = []

        def work(connection: psycopg.Connection) -> None:
            tries.append(1)
            with connection.transaction():
                connection.execute("UPDATE t SET n = n + 1 WHERE id = %s", [first])
                if len(tries) == 1:
                    both.wait(10)
                connection.execute("UPDATE t SET n = n + 1 WHERE id = %s", [second])

        session = Session(database)
        session.run(work)
        session.close()

    threads = [threading.Thread(target=crosswise, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.connect() as connection:
        assert connection.execute("SELECT sum(n) FROM t").fetchone() == (4,)


def test_work_that_always_breaks_is_given_up(database: Store) -> None:
    session = Session(database, attempts=3, max_wait_s=0.01)
    tries: list[int] = []

    def work(connection: psycopg.Connection) -> None:
        tries.append(1)
        raise psycopg.errors.DeadlockDetected

    with pytest.raises(SinkUnavailable, match="DeadlockDetected"):
        session.run(work)
    assert len(tries) == 3
    session.close()


def test_a_wrong_statement_is_not_tried_again(database: Store) -> None:
    session = Session(database)
    with pytest.raises(psycopg.errors.UndefinedTable):
        session.run(lambda connection: connection.execute("SELECT * FROM no_such_table"))
    session.close()

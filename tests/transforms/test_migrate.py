"""Migrations run once, whole or not at all, whoever starts at the same time."""

from __future__ import annotations

import threading

import pytest
from psycopg.conninfo import make_conninfo

from schemas.errors import ExtensionMissing, SetupError
from transforms.migrate import LOCK, applied_migrations, known_migrations, migrate
from transforms.postgres import Store


def test_a_database_is_migrated_once(empty_database: Store) -> None:
    with empty_database.connect_plainly() as connection:
        assert migrate(connection) == sorted(known_migrations())
        assert migrate(connection) == []
        assert applied_migrations(connection) == known_migrations()
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == (0,)


def test_two_that_start_at_once_both_find_it_migrated(empty_database: Store) -> None:
    applied: list[list[str]] = []
    both = threading.Barrier(2)

    def begin() -> None:
        with empty_database.connect_plainly() as connection:
            both.wait(10)
            applied.append(migrate(connection))

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [[], sorted(known_migrations())]


def test_a_migration_that_fails_leaves_nothing(empty_database: Store) -> None:
    with empty_database.connect_plainly() as connection:
        connection.execute("CREATE TABLE quality_reports (mine int)")
        with pytest.raises(SetupError, match="quality_reports"):
            migrate(connection)
        assert applied_migrations(connection) == set()
        assert connection.execute("SELECT to_regclass('documents')").fetchone() == (None,)
        connection.execute("DROP TABLE quality_reports")
        assert migrate(connection) == sorted(known_migrations())


def test_a_database_of_a_newer_headrace_is_refused(database: Store) -> None:
    with database.connect() as connection:
        connection.execute(
            "INSERT INTO _yoyo_migration (migration_hash, migration_id) VALUES ('x', '9999_future')"
        )
        with pytest.raises(SetupError, match="9999_future"):
            migrate(connection)


def test_a_user_without_rights_is_told_what_an_administrator_must_do(empty_database: Store) -> None:
    with empty_database.connect_plainly() as administrator:
        administrator.execute("CREATE ROLE headrace_guest LOGIN")
        try:
            guest = Store(make_conninfo(empty_database.dsn, user="headrace_guest"))
            with (
                guest.connect_plainly() as connection,
                pytest.raises(ExtensionMissing, match="administrator"),
            ):
                migrate(connection)
        finally:
            administrator.execute("DROP ROLE headrace_guest")


def test_the_lock_of_a_killed_process_does_not_block(empty_database: Store) -> None:
    killed = empty_database.connect_plainly()
    killed.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    with empty_database.connect_plainly() as connection:
        connection.execute("SELECT pg_terminate_backend(%s)", [killed.info.backend_pid])
        assert migrate(connection) == sorted(known_migrations())
    killed.close()

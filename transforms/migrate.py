"""Bring a database to the tables this version of headrace knows."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

import psycopg

from schemas.errors import ExtensionMissing, SetupError

if TYPE_CHECKING:
    from yoyo.migrations import Migration

OLDEST_SERVER = 140000
OLDEST_PGVECTOR = (0, 8)
LOCK = 0x68656164_72616365
"""Advisory lock held while migrating ("headrace" in ASCII); it ends with its holder, unlike a row in a table."""


def migrate(connection: psycopg.Connection) -> list[str]:
    """Apply the migrations that are missing, each in one transaction with the note that it was applied.

    Args:
        connection: in autocommit mode.
    Returns:
        Names of the migrations applied now.
    Raises:
        ExtensionMissing: pgvector is absent or too old, and cannot be had by us.
        SetupError: the server is too old, or was migrated by a newer headrace.
    """
    missing = known_migrations() - applied_migrations(connection)
    if not missing:
        _check_not_newer(connection)
        return []
    _check_server(connection)
    connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    try:
        return _apply(connection)
    finally:
        if not connection.broken:
            connection.execute("SELECT pg_advisory_unlock(%s)", [LOCK])


def known_migrations() -> set[str]:
    """Names of the migrations in this version."""
    folder = resources.files("schemas.migrations")
    return {
        entry.name.removesuffix(".sql")
        for entry in folder.iterdir()
        if entry.name.endswith(".sql") and not entry.name.endswith(".rollback.sql")
    }


def applied_migrations(connection: psycopg.Connection) -> set[str]:
    """Names of the migrations that the database has; one query."""
    try:
        return {name for (name,) in connection.execute("SELECT migration_id FROM _yoyo_migration")}
    except psycopg.errors.UndefinedTable:
        return set()


def _check_not_newer(connection: psycopg.Connection) -> None:
    unknown = applied_migrations(connection) - known_migrations()
    if unknown:
        raise SetupError(
            f"the database has migrations that this headrace does not know ({', '.join(sorted(unknown))}):"
            " use the newer headrace that made them"
        )


def _check_server(connection: psycopg.Connection) -> None:
    if connection.info.server_version < OLDEST_SERVER:
        raise SetupError(
            f"postgres.dsn: the server is Postgres {connection.info.server_version // 10000}: use 14 or newer"
        )
    row = connection.execute(
        "SELECT default_version, installed_version FROM pg_available_extensions WHERE name = 'vector'"
    ).fetchone()
    if row is None:
        raise ExtensionMissing(
            "postgres.dsn: the server has no pgvector: install it there (package postgresql-<version>-pgvector,"
            " image pgvector/pgvector), or leave postgres.dsn out to use the embedded server"
        )
    version = row[1] or row[0]
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PGVECTOR:
        raise ExtensionMissing(
            f"postgres.dsn: the server has pgvector {version}: headrace needs 0.8 or newer; install it and run"
            " ALTER EXTENSION vector UPDATE in the database"
        )


def _apply(connection: psycopg.Connection) -> list[str]:
    from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
    from yoyo.connections import parse_uri
    from yoyo.migrations import default_migration_table, read_migrations

    class OurConnection(PostgresqlPsycopgBackend):  # type: ignore[misc]
        """yoyo on a connection that is there already.

        yoyo commits a migration and notes it afterwards, and keeps a lock in a table: killed in between, either
        blocks every later start. So both happen in one transaction, and the advisory lock stands for the table.
        """

        _is_locked = True

        def connect(self, dburi: Any) -> psycopg.Connection:
            return connection

        def apply_one(self, migration: Migration, force: bool = False, mark: bool = True) -> None:
            self.ensure_internal_schema_updated()
            with self.transaction():
                migration.process_steps(self, "apply", force=force)
                self.mark_one(migration, log=False)

    backend = OurConnection(parse_uri("postgresql+psycopg://"), default_migration_table)
    with resources.as_file(resources.files("schemas.migrations")) as folder:
        try:
            missing = backend.to_apply(read_migrations(str(folder)).filter(lambda m: m.is_raw_sql()))
            backend.apply_migrations(missing)
        except psycopg.errors.InsufficientPrivilege as error:
            raise ExtensionMissing(
                "postgres.dsn: this user may not make what headrace needs"
                f" ({error.diag.message_primary}): let an administrator run CREATE EXTENSION vector in the database,"
                " or grant the user CREATE on it and on its schema"
            ) from error
        except psycopg.Error as error:
            raise SetupError(
                f"the database cannot be brought up to date: {error.diag.message_primary}: give headrace a database"
                " of its own"
            ) from error
    return [migration.id for migration in missing]

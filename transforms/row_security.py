"""Database roles that see one client's rows and no other's, whatever SQL they send.

Postgres itself holds it, by policies on every table (migration `0010_row_security`). They ask which clients a role is
a reader of, in a table that readers cannot write: a role can SET every setting of its session, but no membership.
The owner of the tables, as whom headrace runs, is under no policy and pays nothing for them; neither are superusers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from schemas.errors import NotAllowed, SetupError, UnknownName

READABLE = (
    "_yoyo_migration",
    "ai_usage_tracking",
    "change_channels",
    "client_readers",
    "client_usage_daily",
    "dead_letters",
    "document_links",
    "documents",
    "embedding_spaces",
    "index_aliases",
    "indexed_documents",
)
"""What a search, an export, the ledger and dead letters need, besides tables of chunks. Runs are left out: one may be
of several clients' sources, and names them."""

SETUP_LOCK = 0x68656164_73706163
"""Advisory lock ("headspac" in ASCII) while a space is registered or a reader is granted, so that every reader gets
every table of chunks."""

MAX_NAME_BYTES = 63


@dataclass(frozen=True, slots=True)
class Reader:
    """A role and a client whose rows it may read."""

    role: str
    client: str
    granted_at: datetime


def words_view(table: str, client: str) -> str:
    """Name of the view by which readers of a client look up words in a table of chunks.

    It has the chunks with each word of the setting `headrace.words`, a `tsquery[]`, and the word's `place` in it.
    """
    return f"{table}_{hashlib.sha256(client.encode()).hexdigest()[:16]}"


def protect_chunks(connection: psycopg.Connection, table: str) -> None:
    """Let a new table of chunks have the policy of the others, and every reader the right to ask it."""
    connection.execute("SELECT headrace_protect(quote_ident(%s)::regclass)", [table])
    for reader in readers(connection):
        _open_chunks(connection, table, reader.client, reader.role)


def readers(connection: psycopg.Connection) -> list[Reader]:
    """All roles that may read a client, with what they may read."""
    with connection.cursor(row_factory=class_row(Reader)) as cursor:
        return cursor.execute(
            "SELECT rolname AS role, client, granted_at FROM client_readers JOIN pg_roles ON oid = reader"
            " ORDER BY client, role"
        ).fetchall()


def grant_reader(connection: psycopg.Connection, role: str, client: str) -> bool:
    """Let a role read a client's rows; a role that is not there yet is made, without a password.

    The first grant of a client builds an index of its words: nothing is written to its chunks meanwhile.

    Returns:
        Whether the role was made now.
    Raises:
        UnknownName: nothing of that client is stored.
        SetupError: no role may have this name, or this one could get round the policies, or may not be made by us.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [SETUP_LOCK])
        _check_client(connection, client)
        made = _make_role(connection, role)
        _check_powers(connection, role)
        forgotten = _forget_dropped(connection)
        connection.execute(
            "INSERT INTO client_readers (reader, client) SELECT oid, %s FROM pg_roles WHERE rolname = %s"
            " ON CONFLICT DO NOTHING",
            [client, role],
        )
        connection.execute(
            "INSERT INTO change_channels (client) VALUES (%s) ON CONFLICT DO NOTHING", [client]
        )
        _close_unread(connection, forgotten)
        for table in READABLE:
            connection.execute(_grant("SELECT", table, role))
        connection.execute("SET LOCAL statement_timeout = 0")  # an index is built
        for table in _chunk_tables(connection):
            _open_chunks(connection, table, client, role)
        # Its own searches are noted by an upsert, which asks for both; no policy lets it update any row.
        connection.execute(_grant("INSERT, UPDATE", "ai_usage_tracking", role))
    return made


def revoke_reader(connection: psycopg.Connection, role: str, client: str) -> None:
    """Take back what `grant_reader` gave. The client's changes are told on a channel of another name from now on.

    Raises:
        UnknownName: the role does not read that client.
    """
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [SETUP_LOCK])
        gone = connection.execute(
            "DELETE FROM client_readers WHERE client = %s AND reader = (SELECT oid FROM pg_roles WHERE rolname = %s)",
            [client, role],
        )
        if not gone.rowcount:
            raise UnknownName(f"role {role!r} does not read client {client!r}: see `headrace readers list`")
        connection.execute("DELETE FROM change_channels WHERE client = %s", [client])
        chunks = _chunk_tables(connection)
        for table in chunks:
            connection.execute(_revoke(words_view(table, client), role))
        _close_unread(connection, [client])
        if not any(reader.role == role for reader in readers(connection)):
            for table in (*READABLE, *chunks):
                connection.execute(_revoke(table, role))


def _open_chunks(connection: psycopg.Connection, table: str, client: str, role: str) -> None:
    """Let a role ask a table of chunks, and look up words in those of a client."""
    connection.execute("SELECT headrace_open_words(quote_ident(%s)::regclass, %s)", [table, client])
    for name in (table, words_view(table, client)):
        connection.execute(_grant("SELECT", name, role))


def _close_unread(connection: psycopg.Connection, clients: Collection[str]) -> None:
    """Drop the indexes of words of those clients that nobody reads any more."""
    read = {reader.client for reader in readers(connection)}
    for client in set(clients) - read:
        for table in _chunk_tables(connection):
            view = words_view(table, client)
            connection.execute(sql.SQL("DROP VIEW IF EXISTS {}").format(sql.Identifier(view)))
            connection.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(sql.Identifier(f"{view}_words")))


def _revoke(table: str, role: str) -> sql.Composed:
    return sql.SQL("REVOKE ALL ON {} FROM {}").format(sql.Identifier(table), sql.Identifier(role))


def _grant(right: str, table: str, role: str) -> sql.Composed:
    return sql.SQL("GRANT {} ON {} TO {}").format(sql.SQL(right), sql.Identifier(table), sql.Identifier(role))


def _chunk_tables(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
        " AND relname ~ '^chunks_[0-9a-f]{16}$' ORDER BY relname"
    )
    return [name for (name,) in rows]


def _check_client(connection: psycopg.Connection, client: str) -> None:
    if (
        connection.execute("SELECT 1 FROM index_aliases WHERE client = %s LIMIT 1", [client]).fetchone()
        is None
    ):
        raise UnknownName(f"client {client!r} has no index: run `headrace run` for it first")


def _make_role(connection: psycopg.Connection, role: str) -> bool:
    if not role or len(role.encode()) > MAX_NAME_BYTES or "\0" in role:
        raise SetupError(f"role {role!r}: expected a name of 1 to {MAX_NAME_BYTES} bytes")
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
        return False
    try:
        with connection.transaction():
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    except psycopg.errors.InsufficientPrivilege:
        raise NotAllowed(
            f"role {role!r} is not there, and this user may not make roles: let an administrator run"
            f" CREATE ROLE {sql.Identifier(role).as_string()} LOGIN"
        ) from None
    except psycopg.errors.ReservedName:
        raise SetupError(f"role {role!r}: Postgres keeps such names for itself: choose another") from None
    return True


_POWERS = """
SELECT r.rolsuper, r.rolbypassrls, r.rolcreaterole, r.rolcreatedb, r.rolreplication,
    EXISTS (SELECT FROM pg_class AS c
        WHERE c.oid = 'documents'::regclass AND pg_has_role(r.oid, c.relowner, 'MEMBER')),
    coalesce((SELECT min(p.rolname) FROM pg_roles AS p
        WHERE p.rolname ~ '^pg_' AND pg_has_role(r.oid, p.oid, 'MEMBER')), ''),
    has_schema_privilege(r.oid, current_schema(), 'CREATE')
FROM pg_roles AS r WHERE r.rolname = %s
"""


def _check_powers(connection: psycopg.Connection, role: str) -> None:
    """Refuse a role that policies do not hold, or that could make itself one."""
    found = connection.execute(_POWERS, [role]).fetchone()
    assert found is not None  # it was looked up, or made, in this transaction
    superuser, bypasses, makes_roles, makes_databases, replicates, owns, predefined, creates = found
    reasons = [
        (superuser, "it is a superuser"),
        (bypasses, "it has BYPASSRLS"),
        (makes_roles, "it has CREATEROLE"),
        (makes_databases, "it has CREATEDB"),
        (replicates, "it has REPLICATION"),
        (owns, "it is, or may become, the owner of the tables"),
        (predefined, f"it is a member of {predefined}"),
        (
            creates,
            "it may CREATE in the schema: REVOKE CREATE ON SCHEMA ... FROM PUBLIC (the default before 15)",
        ),
    ]
    for holds, reason in reasons:
        if holds:
            raise SetupError(
                f"role {role!r} could read every client's rows, or get to: {reason}: take that from it, or choose"
                " a role without"
            )


def _forget_dropped(connection: psycopg.Connection) -> list[str]:
    """Forget roles that are no more: their numbers may be given to others one day. Gives whom they read."""
    gone = connection.execute(
        "DELETE FROM client_readers WHERE reader NOT IN (SELECT oid FROM pg_roles) RETURNING client"
    )
    return [client for (client,) in gone.fetchall()]

"""A role that reads one client never sees another's rows, whatever SQL it sends, and the owner is not hindered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pipelines import candidates
from pipelines.candidates import Scope, by_words
from schemas.errors import SetupError, UnknownName
from schemas.outcomes import Outcome
from tests.transforms.test_spaces import OTHER, SPACE
from tests.transforms.test_usage import event
from transforms.migrate import migrate
from transforms.notify import CHANNEL, Change, announce
from transforms.postgres import Store
from transforms.row_security import READABLE, grant_reader, readers, revoke_reader, words_view
from transforms.spaces import chunk_table, chunks_by_words, register_space
from transforms.usage import write_usage
from transforms.usage_sums import refresh_daily_usage

CHUNKS = f"chunks_{SPACE.space_id}"
CLIENTS = ("acme", "globex")
WORDS = words_view(CHUNKS, "acme")
_numbers = count()


@pytest.fixture
def role(connection: psycopg.Connection) -> Iterator[str]:
    """The name of a role that is not there yet; what has become of it is dropped afterwards."""
    name = f"headrace_reader_{os.getpid()}_{next(_numbers)}"
    yield name
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone() is not None:
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture
def filled(connection: psycopg.Connection) -> psycopg.Connection:
    """Rows of two clients in every table that has some."""
    for client in CLIENTS:
        register_space(connection, SPACE, "vector", client)
        store_document(connection, client)
        write_usage(connection, replace(event(client=client), cost_usd=Decimal(1)))
    refresh_daily_usage(connection)
    return connection


def store_document(connection: psycopg.Connection, client: str, text: str = "", chunks: int = 1) -> None:
    document_id, text = uuid4(), text or f"secret of {client}"
    connection.execute(
        "INSERT INTO documents (document_id, client, source, kind, native_id, updated_at, observed_at,"
        " payload_digest, title) VALUES (%s, %s, 'jira', 'issue', '1', now(), now(), '', %s)",
        [document_id, client, f"secret of {client}"],
    )
    connection.execute(
        sql.SQL(
            "INSERT INTO {} (document_id, ordinal, client, text, text_hash, start_char, end_char, tokens, embedding)"
            " SELECT %s, n, %s, %s, '', 0, 1, 1, '[1,0,0,0]' FROM generate_series(0, %s - 1) AS n"
        ).format(sql.Identifier(CHUNKS)),
        [document_id, client, text, chunks],
    )
    connection.execute(
        "INSERT INTO indexed_documents (space_id, document_id, fingerprint, chunks, tokens_seen, tokens_embedded,"
        " tokens_truncated) VALUES (%s, %s, '', 1, 1, 1, 0)",
        [SPACE.space_id, document_id],
    )
    connection.execute(
        "INSERT INTO document_links (document_id, relation, target_kind, target_key)"
        " VALUES (%s, 'mentions', 'jira_issue', %s)",
        [document_id, client],
    )
    connection.execute(
        "INSERT INTO dead_letters (dead_letter_id, client, source, document_id, format, kind, native_id, updated_at,"
        " observed_at, locator, stage, error_type, reason, retriable, payload)"
        " VALUES (gen_random_uuid(), %s, 'jira', %s, 'x', 'issue', '1', now(), now(), '', 'embed', 'E', '', true, ''"
        ")",
        [client, document_id],
    )


@contextmanager
def connected(database: Store, role: str) -> Iterator[psycopg.Connection]:
    with Store(make_conninfo(database.dsn, user=role)).connect() as connection:
        yield connection


def clients_seen(connection: psycopg.Connection, table: str) -> set[str]:
    rows = connection.execute(sql.SQL("SELECT DISTINCT client FROM {}").format(sql.Identifier(table)))
    return {client for (client,) in rows.fetchall()}


def tables(connection: psycopg.Connection, condition: str, kinds: str = "rpf") -> set[str]:
    """Tables of ours, partitioned and foreign ones too; `vm` are views and materialised views."""
    found = connection.execute(
        "SELECT relname FROM pg_class AS c WHERE relnamespace = current_schema()::regnamespace"
        f" AND strpos('{kinds}', relkind::text) > 0 AND relname !~ '^_?yoyo' AND {condition}"
    )
    return {name for (name,) in found.fetchall()}


HAS_CLIENT = (
    "EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'client' AND NOT attisdropped)"
)
ASKS_CLIENT_READERS = (
    "EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid AND polcmd = 'r'"
    " AND pg_get_expr(polqual, polrelid) ~ 'pg_has_role')"
)


def test_every_table_is_under_row_security_and_every_one_with_a_client_asks_who_reads_it(
    filled: psycopg.Connection,
) -> None:
    assert tables(filled, "NOT relrowsecurity") == set()
    assert CHUNKS in tables(filled, HAS_CLIENT)
    assert tables(filled, f"{HAS_CLIENT} AND NOT {ASKS_CLIENT_READERS}") == set()


def test_a_reader_sees_its_client_alone_in_every_table_and_view(
    filled: psycopg.Connection, database: Store, role: str
) -> None:
    assert grant_reader(filled, role, "acme")
    register_space(filled, OTHER, "vector", "globex")
    filled.execute("INSERT INTO client_readers (reader, client) VALUES (CURRENT_USER::regrole, 'globex')")
    refused = 0
    with connected(database, role) as reader:
        views = tables(filled, HAS_CLIENT, "vm")
        unseen = f"chunks_{OTHER.space_id}"
        assert views == {"ai_usage_daily", "client_usage_daily", WORDS, words_view(unseen, "acme")}
        reader.execute("SET headrace.words = '{secret}'")
        for table in sorted(tables(filled, HAS_CLIENT) | views):
            if table in (*READABLE, CHUNKS, WORDS):
                assert clients_seen(reader, table) == {"acme"}, table
            elif table.startswith(unseen):
                assert clients_seen(reader, table) == set(), table
            else:
                refused += 1
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    clients_seen(reader, table)
        for query, rows in {
            "SELECT target_key FROM document_links": [("acme",)],
            "SELECT count(*) FROM indexed_documents": [(1,)],
            "SELECT count(*) FROM embedding_spaces": [(1,)],
            "SELECT title FROM documents JOIN indexed_documents USING (document_id)": [("secret of acme",)],
            "SELECT sum(cost_usd), count(*) FROM ai_usage_tracking": [(1, 1)],
        }.items():
            assert reader.execute(query).fetchall() == rows
    assert refused > 10


TRICKS = [
    "SET row_security = off",
    "SET headrace.client = 'globex'",
    "SET ROLE {owner}",
    "SET SESSION AUTHORIZATION {owner}",
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET ROLE",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "ALTER ROLE CURRENT_USER SET row_security = off",
    "ALTER TABLE documents DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE documents OWNER TO CURRENT_USER",
    "DROP POLICY of_readers ON documents",
    "CREATE POLICY mine ON documents USING (true)",
    "INSERT INTO client_readers SELECT reader, 'globex' FROM client_readers",
    "UPDATE client_readers SET client = 'globex'",
    "SELECT headrace_protect('documents')",
    "SELECT headrace_open_words('documents', 'globex')",
    "SET headrace.words = '{{secret,globex}}'",
    "GRANT {owner} TO CURRENT_USER",
    "CREATE TABLE client_readers (reader regrole, client text)",
    "CREATE FUNCTION public.pg_has_role(regrole, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "CREATE TEMP TABLE client_readers AS SELECT CURRENT_USER::regrole AS reader, 'globex' AS client",
    "CREATE TEMP VIEW documents_of_all AS SELECT * FROM documents",
    "REFRESH MATERIALIZED VIEW ai_usage_daily",
    "COPY documents TO PROGRAM 'cat'",
    "UPDATE documents SET client = 'acme'",
    "DELETE FROM documents",
    "UPDATE ai_usage_tracking SET client = 'acme', cost_usd = 0",
    "DELETE FROM ai_usage_tracking",
    "SELECT * FROM documents FOR UPDATE",
    "CREATE TEMP TABLE mine AS SELECT * FROM documents; ANALYZE documents",
]


def test_no_setting_and_no_statement_shows_a_reader_more(
    filled: psycopg.Connection, database: Store, role: str
) -> None:
    grant_reader(filled, role, "acme")
    owner = sql.Identifier(filled.info.user)
    looks = 0
    for trick in TRICKS:
        with connected(database, role) as reader:
            with suppress(psycopg.Error):
                reader.execute(sql.SQL(trick).format(owner=owner))
            for table in ("documents", CHUNKS, "ai_usage_tracking", "client_usage_daily"):
                with suppress(psycopg.errors.InsufficientPrivilege):  # row_security = off refuses instead
                    assert clients_seen(reader, table) == {"acme"}, trick
                    looks += 1
        filled.execute(sql.SQL("ALTER ROLE {} RESET ALL").format(sql.Identifier(role)))
    assert looks > 3 * len(TRICKS)
    assert filled.execute("SELECT count(*), sum(cost_usd) FROM ai_usage_tracking").fetchone() == (2, 2)
    assert clients_seen(filled, "documents") == set(CLIENTS)


def test_a_function_in_a_condition_is_not_shown_other_rows(
    filled: psycopg.Connection, database: Store, role: str
) -> None:
    grant_reader(filled, role, "acme")
    with connected(database, role) as reader:
        for kind in ("text", "tsvector"):  # a cast would cost more than the condition that is to come first
            reader.execute(
                f"CREATE FUNCTION pg_temp.tell({kind}) RETURNS boolean LANGUAGE plpgsql COST 0.0000001"
                " AS $$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
            )
        told: list[str] = []
        reader.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
        reader.execute("SET headrace.words = '{secret}'")
        reader.execute("SET enable_indexscan = off; SET enable_bitmapscan = off")  # nor by way of an index
        for column, table in (
            ("title", "documents"),
            ("text", CHUNKS),
            ("client", "client_usage_daily"),
            ("search", WORDS),
        ):
            reader.execute(
                sql.SQL("SELECT count(*) FROM {} WHERE pg_temp.tell({})").format(
                    sql.Identifier(table), sql.SQL(column)
                )
            )
    assert told == ["secret of acme", "secret of acme", "acme", "'acm':3 'secret':1"]


def test_the_planners_statistics_are_not_shown_to_a_reader(
    filled: psycopg.Connection, database: Store, role: str
) -> None:
    grant_reader(filled, role, "acme")
    filled.execute("ANALYZE")
    query = "SELECT count(*) FROM pg_stats WHERE tablename = ANY(%s)"
    tables_of_clients = [["documents", CHUNKS, "ai_usage_tracking", "ai_usage_daily"]]
    assert filled.execute(query, tables_of_clients).fetchone() != (0,)
    with connected(database, role) as reader:
        assert reader.execute(query, tables_of_clients).fetchone() == (0,)


def test_the_owners_searches_are_planned_as_if_there_were_no_policies(
    filled: psycopg.Connection, role: str
) -> None:
    grant_reader(filled, role, "acme")
    queries = [
        "SELECT row_id FROM {} WHERE client = 'acme' ORDER BY embedding <=> '[1,2,3,4]' LIMIT 3",
        "SELECT count(*) FROM {} WHERE search @@ 'secret'::tsquery",
        "SELECT title FROM {} JOIN documents USING (document_id) WHERE row_id = 1",
    ]

    def plans() -> list[str]:
        statements = [sql.SQL("EXPLAIN " + query).format(sql.Identifier(CHUNKS)) for query in queries]
        return [str(filled.execute(statement).fetchall()) for statement in statements]

    with_policies = plans()
    for table in ("documents", CHUNKS):
        filled.execute(sql.SQL("ALTER TABLE {} DISABLE ROW LEVEL SECURITY").format(sql.Identifier(table)))
    assert plans() == with_policies


def test_a_role_without_a_grant_of_headrace_sees_nothing_even_with_one_of_postgres(
    filled: psycopg.Connection, database: Store, role: str
) -> None:
    name = sql.Identifier(role)
    filled.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    filled.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(name))
    filled.execute(sql.SQL("REVOKE SELECT ON ai_usage_daily FROM {}").format(name))
    register_space(filled, OTHER, "vector", "acme")
    grant_reader(filled, role, "acme")  # and what it opened is left open by a careless hand
    filled.execute("DELETE FROM client_readers")
    with connected(database, role) as reader:
        reader.execute("SET headrace.words = '{secret}'")
        for table in tables(filled, "true", "rpfv"):
            assert reader.execute(sql.SQL("SELECT FROM {}").format(sql.Identifier(table))).fetchall() == []


def test_a_space_that_is_made_later_is_seen_through_its_policy(
    filled: psycopg.Connection, database: Store, role: str
) -> None:
    grant_reader(filled, role, "acme")
    register_space(filled, OTHER, "vector", "globex")
    table = f"chunks_{OTHER.space_id}"
    for client in CLIENTS:
        filled.execute(
            sql.SQL(
                "INSERT INTO {} (document_id, ordinal, client, text, text_hash, start_char, end_char, tokens,"
                " embedding) SELECT document_id, 0, client, '', '', 0, 1, 1, array_fill(1, ARRAY[8])::vector"
                " FROM documents WHERE client = %s"
            ).format(sql.Identifier(table)),
            [client],
        )
    with connected(database, role) as reader:
        assert clients_seen(reader, table) == {"acme"}
        view = sql.Identifier(words_view(table, "acme"))
        assert reader.execute(sql.SQL("SELECT FROM {}").format(view)).fetchall() == []


def words_found(connection: psycopg.Connection, client: str, words: str) -> list[str]:
    """Texts of the chunks that a client's view of words gives."""
    connection.execute("SELECT set_config('headrace.words', %s, false)", [words])
    rows = connection.execute(
        sql.SQL("SELECT text FROM {} JOIN {} USING (row_id) ORDER BY place, row_id").format(
            chunks_by_words(SPACE.space_id, client), chunk_table(SPACE.space_id)
        )
    )
    return [text for (text,) in rows.fetchall()]


def test_words_are_looked_up_in_a_readers_own_chunks_alone(
    filled: psycopg.Connection, database: Store, role: str
) -> None:
    grant_reader(filled, role, "acme")
    with connected(database, role) as reader:
        assert words_found(reader, "acme", "{secret}") == ["secret of acme"]
        assert words_found(reader, "acme", "{secret,acm}") == ["secret of acme"] * 2
        assert words_found(reader, "acme", "{globex}") == []
        assert words_found(reader, "acme", "") == []
        with pytest.raises(psycopg.errors.UndefinedTable):  # nobody reads globex
            words_found(reader, "globex", "{secret}")
        filled.execute("INSERT INTO client_readers (reader, client) VALUES (CURRENT_USER::regrole, 'globex')")
        filled.execute("SELECT headrace_open_words(%s::regclass, 'globex')", [CHUNKS])
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            words_found(reader, "globex", "{secret}")
        filled.execute(
            sql.SQL("GRANT SELECT ON {} TO {}").format(
                chunks_by_words(SPACE.space_id, "globex"), sql.Identifier(role)
            )
        )
        assert words_found(reader, "globex", "{secret}") == []
        grant_reader(filled, role, "globex")
        assert words_found(reader, "globex", "{secret}") == ["secret of globex"]
        assert words_found(reader, "acme", "{secret}") == ["secret of acme"]


@pytest.mark.parametrize("scans", ["on", "off"])
def test_what_a_word_costs_does_not_tell_a_reader_whether_others_use_it(
    scans: str, filled: psycopg.Connection, database: Store, role: str
) -> None:
    grant_reader(filled, role, "acme")
    for client in CLIENTS:
        store_document(filled, client, f"much more of {client}", chunks=2000)
    filled.execute("ANALYZE")
    with connected(database, role) as reader:
        reader.execute(f"SET enable_seqscan = {scans}")

        def plan(word: str) -> str:
            reader.execute("SELECT set_config('headrace.words', %s, false)", [f"{{{word}}}"])
            lines = reader.execute(
                sql.SQL("EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF, BUFFERS OFF) SELECT FROM {}").format(
                    chunks_by_words(SPACE.space_id, "acme")
                )
            )
            return "\n".join(line for (line,) in lines.fetchall())

        assert plan("globex") == plan("nobodys")
        assert f"{WORDS}_words" in plan("secret")
        assert f"{CHUNKS}_search" not in plan("secret")


def test_a_reader_searches_by_words_through_its_own_index_and_finds_what_the_owner_does(
    filled: psycopg.Connection, database: Store, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant_reader(filled, role, "acme")
    for number in range(20):
        store_document(filled, "acme", f"gate {number}" if number % 3 else "secret gate")
    monkeypatch.setattr(
        candidates, "MAX_MATCHES", 3
    )  # the rare word brings candidates, the common one scores
    scope = Scope(SPACE.space_id, "vector", "acme")

    def found(connection: psycopg.Connection) -> list[tuple[int, str]]:
        with connection.transaction():
            connection.execute("SET TRANSACTION READ ONLY")
            given = by_words(connection, scope, "gates and it's a 'quote' of nothing, secrets", 50)
        return sorted((one.row_id, str(one.document_id)) for one in given)

    with connected(database, role) as reader:
        assert candidates._lookup(reader, scope).is_told
        assert not candidates._lookup(filled, scope).is_told
        assert found(reader) == found(filled)
        assert len(found(reader)) == 20


def indexes_of_words(connection: psycopg.Connection) -> set[str]:
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relname ~ '^chunks_.*_words$' AND relkind = 'i'"
    )
    return {name for (name,) in rows.fetchall()}


def test_an_index_of_words_lives_as_long_as_somebody_reads_its_client(
    filled: psycopg.Connection, role: str
) -> None:
    second = f"{role}_b"
    try:
        for name in (role, second):
            grant_reader(filled, name, "acme")
        assert indexes_of_words(filled) == {f"{WORDS}_words"}
        revoke_reader(filled, role, "acme")
        assert indexes_of_words(filled) == {f"{WORDS}_words"}
        revoke_reader(filled, second, "acme")
        assert indexes_of_words(filled) == set()
        assert tables(filled, "relname ~ '^chunks'", "v") == set()
        grant_reader(filled, second, "acme")
        filled.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(second)))
    finally:
        filled.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(second)))
    grant_reader(filled, role, "globex")
    assert indexes_of_words(filled) == {f"{words_view(CHUNKS, 'globex')}_words"}


def test_readers_of_before_have_their_words_after_the_migration(
    filled: psycopg.Connection, database: Store, role: str
) -> None:
    grant_reader(filled, role, "acme")
    filled.execute(sql.SQL("DROP VIEW {}").format(chunks_by_words(SPACE.space_id, "acme")))
    filled.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(f"{WORDS}_words")))
    filled.execute("DROP FUNCTION headrace_open_words")
    filled.execute("DELETE FROM _yoyo_migration WHERE migration_id = '0012_reader_words'")
    assert migrate(filled) == ["0012_reader_words"]
    with connected(database, role) as reader:
        assert words_found(reader, "acme", "{secret}") == ["secret of acme"]


def test_a_reader_notes_its_own_searches_and_nothing_else(
    filled: psycopg.Connection, database: Store, role: str
) -> None:
    grant_reader(filled, role, "acme")
    now = datetime.now(UTC)
    search = replace(
        event(client="acme", occurred_at=now),
        operation="embed_query",
        space_id=SPACE.space_id,
        inputs=1,
        cost_usd=Decimal(0),
        reused=0,
        cache_hits=0,
        metadata={},
    )
    wrong = [
        replace(search, event_id=uuid4(), client="globex"),
        replace(search, event_id=uuid4(), cost_usd=Decimal(-5)),
        replace(search, event_id=uuid4(), cost_usd=Decimal(5)),
        replace(search, event_id=uuid4(), usd_saved=Decimal(5)),
        replace(search, event_id=uuid4(), inputs=2),
        replace(search, event_id=uuid4(), metadata={"note": "x"}),
        replace(search, event_id=uuid4(), provider="openai"),
        replace(search, event_id=uuid4(), operation="embed_documents"),
        replace(search, event_id=uuid4(), run_id=uuid4()),
        replace(search, event_id=uuid4(), model="tiny\x1b[2J"),
        replace(search, event_id=uuid4(), source="[link=https://weir.example]tickets"),
        replace(search, event_id=uuid4(), space_id="another"),
        replace(search, event_id=uuid4(), occurred_at=now - timedelta(days=40)),
    ]
    with connected(database, role) as reader:
        write_usage(reader, search)
        for one in wrong:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
                write_usage(reader, one)
    assert filled.execute("SELECT count(*) FROM ai_usage_tracking").fetchone() == (3,)


def test_a_reader_hears_of_its_clients_changes_alone(
    filled: psycopg.Connection, database: Store, role: str
) -> None:
    grant_reader(filled, role, "acme")
    with connected(database, role) as reader:
        names = reader.execute("SELECT client, channel FROM change_channels").fetchall()
        assert [client for client, _ in names] == ["acme"]
        for channel in (CHANNEL, names[0][1]):
            reader.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        for client in (*CLIENTS, "acme"):
            announce(filled, [Change(client, "jira", uuid4(), Outcome.NEW)], None, None)
        heard = [notice.payload for notice in reader.notifies(timeout=0.3)]
    assert len(heard) == 2
    assert not any("globex" in message for message in heard)


def test_what_is_revoked_is_not_seen_and_not_heard(
    filled: psycopg.Connection, database: Store, role: str
) -> None:
    for client in CLIENTS:
        grant_reader(filled, role, client)
    with connected(database, role) as reader:
        assert clients_seen(reader, "documents") == set(CLIENTS)
        for (channel,) in reader.execute("SELECT channel FROM change_channels").fetchall():
            reader.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        revoke_reader(filled, role, "globex")
        assert clients_seen(reader, "documents") == {"acme"}
        announce(filled, [Change("globex", "jira", uuid4(), Outcome.NEW)], None, None)
        assert list(reader.notifies(timeout=0.2)) == []
        revoke_reader(filled, role, "acme")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            clients_seen(reader, "documents")
    assert readers(filled) == []
    with pytest.raises(UnknownName, match="does not read client 'acme'"):
        revoke_reader(filled, role, "acme")


POWERS = {
    "SUPERUSER": "superuser",
    "BYPASSRLS": "BYPASSRLS",
    "CREATEROLE": "CREATEROLE",
    "CREATEDB": "CREATEDB",
    "REPLICATION": "REPLICATION",
    "IN ROLE pg_read_all_data": "pg_read_all_data",
    "IN ROLE {owner}": "owner of the tables",
}


@pytest.mark.parametrize("power", POWERS)
def test_a_role_that_no_policy_holds_is_refused(power: str, filled: psycopg.Connection, role: str) -> None:
    create = sql.SQL(f"CREATE ROLE {{role}} LOGIN {power}")
    filled.execute(create.format(role=sql.Identifier(role), owner=sql.Identifier(filled.info.user)))
    with pytest.raises(SetupError, match=POWERS[power]):
        grant_reader(filled, role, "acme")
    assert readers(filled) == []


def test_a_role_that_may_make_objects_beside_the_tables_is_refused(
    filled: psycopg.Connection, role: str
) -> None:
    filled.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    with pytest.raises(SetupError, match="REVOKE CREATE ON SCHEMA"):
        grant_reader(filled, role, "acme")


@pytest.mark.parametrize("name", ["", "x" * 64, "pg_reader", "a\0b"])
def test_a_name_that_no_role_may_have_is_refused(name: str, filled: psycopg.Connection) -> None:
    with pytest.raises(SetupError):
        grant_reader(filled, name, "acme")


def test_a_client_that_has_nothing_is_not_granted(filled: psycopg.Connection, role: str) -> None:
    with pytest.raises(UnknownName, match="'acmee' has no index"):
        grant_reader(filled, role, "acmee")


def test_a_dropped_roles_grant_is_not_left_to_whoever_comes_after(
    filled: psycopg.Connection, role: str
) -> None:
    grant_reader(filled, role, "globex")
    name = sql.Identifier(role)
    filled.execute(sql.SQL("DROP OWNED BY {}").format(name))
    filled.execute(sql.SQL("DROP ROLE {}").format(name))
    filled.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
    assert readers(filled) == []
    grant_reader(filled, role, "acme")
    assert [(reader.role, reader.client) for reader in readers(filled)] == [(role, "acme")]
    assert filled.execute("SELECT count(*) FROM client_readers").fetchone() == (1,)

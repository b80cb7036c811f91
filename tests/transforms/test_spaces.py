"""A space has one table, of the type and dimensions it was registered with."""

from __future__ import annotations

import threading
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from schemas.errors import DimensionMismatch, UnknownName
from schemas.spaces import EmbeddingSpace
from transforms.postgres import Store
from transforms.spaces import (
    VectorType,
    build_vector_index,
    chunk_table,
    register_space,
    space_of_client,
    vector_type_of,
)

SPACE = EmbeddingSpace("tests/tiny", "0" * 64, "exact", "mean", True, dimensions=4, max_tokens=64)
OTHER = replace(SPACE, model="tests/other", dimensions=8)


def test_the_first_space_of_a_client_is_the_one_it_searches(connection: psycopg.Connection) -> None:
    register_space(connection, SPACE, "vector", "acme")
    register_space(connection, OTHER, "vector", "acme")
    register_space(connection, OTHER, "vector", "other")
    assert space_of_client(connection, "acme") == SPACE
    assert space_of_client(connection, "other") == OTHER
    with pytest.raises(UnknownName, match="'nobody' has no index"):
        space_of_client(connection, "nobody")


def test_registering_again_changes_nothing(connection: psycopg.Connection) -> None:
    for _ in range(2):
        register_space(connection, SPACE, "halfvec", "acme")
    assert vector_type_of(connection, SPACE.space_id) == "halfvec"


def test_many_workers_may_register_at_once(database: Store) -> None:
    failures: list[BaseException] = []

    def register() -> None:
        try:
            with database.connect() as connection:
                register_space(connection, SPACE, "vector", "acme")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_table_of_other_dimensions_is_refused_naming_both(connection: psycopg.Connection) -> None:
    connection.execute(sql.SQL("CREATE TABLE {} (embedding vector(768))").format(chunk_table(SPACE.space_id)))
    with pytest.raises(DimensionMismatch, match=r"vector\(4\).*vector\(768\)"):
        register_space(connection, SPACE, "vector", "acme")
    assert connection.execute("SELECT count(*) FROM embedding_spaces").fetchone() == (0,)


def test_a_table_of_the_other_vector_type_is_refused(connection: psycopg.Connection) -> None:
    register_space(connection, SPACE, "vector", "acme")
    with pytest.raises(DimensionMismatch, match=r"halfvec\(4\).*vector\(4\).*vector_type"):
        register_space(connection, SPACE, "halfvec", "acme")


@pytest.mark.parametrize(
    ("dimensions", "vector_type", "in_the_page"),
    [(384, "vector", True), (1792, "vector", True), (1793, "vector", False), (3584, "halfvec", True)],
)
def test_a_vector_stays_in_its_page_while_a_row_of_the_longest_text_still_fits(
    connection: psycopg.Connection, dimensions: int, vector_type: VectorType, in_the_page: bool
) -> None:
    space = replace(SPACE, dimensions=dimensions)
    register_space(connection, space, vector_type, "acme")
    table = chunk_table(space.space_id)
    document_id = uuid4()
    connection.execute("SET session_replication_role = replica")  # the chunk needs no document here
    connection.execute(
        sql.SQL(
            "INSERT INTO {} (document_id, ordinal, client, text, text_hash, start_char, end_char, tokens, embedding)"
            " VALUES (%s, 0, 'acme', %s, %s, 0, 1, 1, %s::real[]::vector)"
        ).format(table),
        [document_id, " ".join(f"word{n}" for n in range(5000)), b"\0" * 32, [0.5] * dimensions],
    )
    assert connection.execute(
        sql.SQL("SELECT pg_column_toast_chunk_id(embedding) IS NULL FROM {}").format(table)
    ).fetchone() == (in_the_page,)


@pytest.mark.parametrize(
    "space_id", ["", "ABCDEF0123456789", "0" * 15, "0" * 16 + "\n", 'x"; DROP TABLE documents']
)
def test_only_a_space_id_becomes_a_table_name(space_id: str) -> None:
    with pytest.raises(UnknownName):
        chunk_table(space_id)


@pytest.mark.parametrize("vector_type", ["vector", "halfvec"])
def test_the_vector_index_is_built_once_and_used(
    connection: psycopg.Connection, vector_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.spaces.POLL_S", 0.01)
    register_space(connection, SPACE, "halfvec" if vector_type == "halfvec" else "vector", "acme")
    table = chunk_table(SPACE.space_id)
    connection.execute(
        "INSERT INTO documents (document_id, client, source, kind, native_id, updated_at, observed_at,"
        " payload_digest) VALUES (gen_random_uuid(), 'acme', 'jira', 'issue', '1', now(), now(), '')"
    )
    connection.execute(
        sql.SQL(
            "INSERT INTO {} (document_id, ordinal, client, text, text_hash, start_char, end_char, tokens, embedding)"
            " SELECT document_id, n, 'acme', '', '', 0, 0, 0, ARRAY[sin(n), cos(n), sin(n * n), 1]::real[]::vector"
            " FROM documents, generate_series(1, 4000) AS n"
        ).format(table)
    )
    shares: list[float] = []
    connection.execute("SET statement_timeout = '20ms'")
    assert build_vector_index(connection, SPACE.space_id, shares.append)
    connection.execute("SET statement_timeout = 0")
    assert not build_vector_index(connection, SPACE.space_id)
    assert any(0 < share < 1 for share in shares)
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)
    connection.execute("SET enable_seqscan = off")
    plan = connection.execute(
        sql.SQL("EXPLAIN SELECT row_id FROM {} ORDER BY embedding <=> '[1,2,3,4]' LIMIT 3").format(table)
    ).fetchall()
    assert f"chunks_{SPACE.space_id}_hnsw" in str(plan)


def test_the_index_of_an_unknown_space_is_refused(connection: psycopg.Connection) -> None:
    with pytest.raises(UnknownName, match="not in this database"):
        build_vector_index(connection, SPACE.space_id)

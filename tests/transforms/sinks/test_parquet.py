"""A Parquet export holds what Postgres holds, and says which space its vectors are of."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import numpy as np
import psycopg
import pyarrow.parquet as pq
import pytest
from psycopg import sql

from schemas.errors import MissingFile
from schemas.spaces import EmbeddingSpace
from transforms.sinks import parquet
from transforms.sinks.parquet import export_parquet
from transforms.spaces import chunk_table, register_space

SPACE = EmbeddingSpace("tests/tiny", "0" * 64, "exact", "mean", True, 3, 64)


@pytest.fixture
def table(connection: psycopg.Connection) -> psycopg.Connection:
    """Two clients with three documents each, of three chunks."""
    register_space(connection, SPACE, "vector", "acme")
    for number in range(6):
        client = ("acme", "rival")[number % 2]
        connection.execute(
            "INSERT INTO documents (document_id, client, source, kind, native_id, updated_at, observed_at,"
            " payload_digest, title, attributes) VALUES (%s, %s, 'tests', 'issue', %s,"
            " '0001-01-01T00:00:00Z', now(), '', 'Weir ❄', '{\"labels\": [\"ice\"]}')",
            (UUID(int=number), client, str(number)),
        )
        for ordinal in range(3):
            connection.execute(
                sql.SQL(
                    "INSERT INTO {} (document_id, ordinal, client, text, text_hash, start_char, end_char, tokens,"
                    " embedding) VALUES (%s, %s, %s, %s, %s, 0, 4, 3, %s)"
                ).format(chunk_table(SPACE.space_id)),
                (
                    UUID(int=number),
                    ordinal,
                    client,
                    f"weir {number}.{ordinal}",
                    bytes(16),
                    np.array([number, ordinal, 1], np.float32),
                ),
            )
    return connection


def test_every_chunk_of_the_client_is_a_row_in_order(
    table: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 4)
    assert export_parquet(table, SPACE, "acme", tmp_path / "acme.parquet") == 9
    written = pq.read_table(tmp_path / "acme.parquet")
    expected = [(str(UUID(int=n)), o, f"weir {n}.{o}") for n in (0, 2, 4) for o in range(3)]
    columns = (written[name].to_pylist() for name in ("document_id", "ordinal", "text"))
    assert list(zip(*columns, strict=True)) == expected
    assert written["embedding"].to_pylist() == [[n, o, 1] for n in (0, 2, 4) for o in range(3)]
    assert written["title"][0].as_py() == "Weir ❄"
    assert written["attributes"][0].as_py() == '{"labels": ["ice"]}'
    assert written["updated_at"][0].as_py().year == 1
    assert pq.ParquetFile(tmp_path / "acme.parquet").num_row_groups == 3


def test_the_file_says_which_space_its_vectors_are_of(table: psycopg.Connection, tmp_path: Path) -> None:
    export_parquet(table, SPACE, "acme", tmp_path / "acme.parquet")
    metadata = pq.read_schema(tmp_path / "acme.parquet").metadata
    assert metadata[b"headrace.space_id"] == SPACE.space_id.encode()
    assert metadata[b"headrace.model"] == b"tests/tiny"
    assert metadata[b"headrace.client"] == b"acme"


def test_a_client_without_chunks_gives_a_file_without_rows(table: psycopg.Connection, tmp_path: Path) -> None:
    assert export_parquet(table, SPACE, "nobody", tmp_path / "none.parquet") == 0
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_half_precision_vectors_come_out_as_float32(connection: psycopg.Connection, tmp_path: Path) -> None:
    register_space(connection, SPACE, "halfvec", "acme")
    assert export_parquet(connection, SPACE, "acme", tmp_path / "none.parquet") == 0
    field = pq.read_schema(tmp_path / "none.parquet").field("embedding")
    assert str(field.type) == "fixed_size_list<element: float>[3]"


def test_an_export_that_fails_leaves_the_file_that_was_there(
    table: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "acme.parquet"
    export_parquet(table, SPACE, "acme", path)
    before = path.read_bytes()
    table.execute(sql.SQL("DROP TABLE {}").format(chunk_table(SPACE.space_id)))
    with pytest.raises(psycopg.Error):
        export_parquet(table, SPACE, "acme", path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["acme.parquet"]


def test_a_folder_that_is_not_there_is_named(table: psycopg.Connection, tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="nowhere"):
        export_parquet(table, SPACE, "acme", tmp_path / "nowhere" / "acme.parquet")

"""`verify` finds whatever makes Postgres disagree with itself or with FAISS."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
import psycopg
import pytest
from psycopg import sql

from pipelines.verify import VerifyReport, verify
from schemas.config import Config, Postgres
from schemas.errors import UnknownName
from schemas.spaces import EmbeddingSpace
from transforms.postgres import Store
from transforms.sinks.faiss_files import current_build, index_folder
from transforms.sinks.faiss_index import update_index
from transforms.spaces import chunk_table, register_space

SPACE = EmbeddingSpace("tests/tiny", "0" * 64, "exact", "mean", True, 4, 64)
TABLE = chunk_table(SPACE.space_id)


@dataclass(frozen=True)
class Place:
    config: Config
    connection: psycopg.Connection

    def execute(self, statement: str) -> None:
        self.connection.execute(sql.SQL(statement).format(chunks=TABLE))

    def refresh(self) -> None:
        update_index(self.connection, self.config.data_dir, SPACE, "acme", self.config.faiss)

    def report(self) -> VerifyReport:
        return verify(self.config, "acme")


def problems(report: VerifyReport) -> dict[str, object]:
    looked_at = ("chunks", "documents", "faiss_vectors")
    fields = ((name, getattr(report, name)) for name in report.__dataclass_fields__)
    return {name: value for name, value in fields if value and name not in looked_at}


@pytest.fixture
def place(
    database: Store, connection: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """Ten documents of two chunks each, and their index."""
    monkeypatch.setenv("HEADRACE_VERIFY_TEST_DSN", database.dsn)
    register_space(connection, SPACE, "vector", "acme")
    for number in range(10):
        document_id = UUID(int=number)
        connection.execute(
            "INSERT INTO documents"
            " (document_id, client, source, kind, native_id, updated_at, observed_at, payload_digest)"
            " VALUES (%s, 'acme', 'tests', 'issue', %s, now(), now(), '')",
            (document_id, str(number)),
        )
        connection.execute(
            "INSERT INTO indexed_documents (space_id, document_id, fingerprint, chunks, tokens_seen,"
            " tokens_embedded, tokens_truncated) VALUES (%s, %s, '', 2, 6, 6, 0)",
            (SPACE.space_id, document_id),
        )
        for ordinal in range(2):
            vector = np.random.default_rng(2 * number + ordinal).standard_normal(4).astype(np.float32)
            connection.execute(
                sql.SQL(
                    "INSERT INTO {} (document_id, ordinal, client, text, text_hash, start_char, end_char, tokens,"
                    " embedding) VALUES (%s, %s, 'acme', 'weir', '', 0, 4, 3, %s)"
                ).format(TABLE),
                (document_id, ordinal, vector / np.linalg.norm(vector)),
            )
    config = Config(client="acme", data_dir=tmp_path, postgres=Postgres(dsn="env:HEADRACE_VERIFY_TEST_DSN"))
    filled = Place(config, connection)
    filled.refresh()
    return filled


def test_an_index_that_is_true_has_no_problem(place: Place) -> None:
    report = place.report()
    assert report.ok
    assert problems(report) == {}
    assert (report.chunks, report.documents, report.faiss_vectors) == (20, 10, 20)


DELETE_A_CHUNK = (
    "DELETE FROM {chunks} WHERE (document_id, ordinal) = ('00000000-0000-0000-0000-000000000003', 1)"
)


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (DELETE_A_CHUNK, {"orphans_in_faiss": 1, "wrong_chunk_count": 1}),
        (
            "UPDATE {chunks} SET row_id = nextval('chunk_row_ids') WHERE ordinal = 1",
            {"orphans_in_faiss": 10, "missing_in_faiss": 10},
        ),
        ("UPDATE documents SET deleted_at = now() WHERE native_id = '3'", {"chunks_of_deleted": 2}),
        (
            "UPDATE documents SET client = 'rival' WHERE native_id = '3'",
            {"chunks_of_deleted": 2},
        ),
        ("UPDATE indexed_documents SET chunks = 3", {"wrong_chunk_count": 10}),
        (
            "DELETE FROM indexed_documents WHERE document_id = '00000000-0000-0000-0000-000000000003'",
            {"not_indexed": 1, "wrong_chunk_count": 1},
        ),
        ("UPDATE {chunks} SET embedding = '[0,0,0,0]' WHERE ordinal = 1", {"bad_vectors": 10}),
        ("UPDATE {chunks} SET embedding = '[3,0,0,0]' WHERE ordinal = 1", {"bad_vectors": 10}),
    ],
)
def test_harm_is_found_and_counted(place: Place, harm: str, found: dict[str, int]) -> None:
    place.execute(harm)
    report = place.report()
    assert problems(report) == found
    assert not report.ok


def test_an_update_mends_what_faiss_lacks(place: Place) -> None:
    place.execute("UPDATE {chunks} SET row_id = nextval('chunk_row_ids') WHERE ordinal = 1")
    place.refresh()
    assert place.report().ok


def test_another_clients_rows_are_not_looked_at(place: Place) -> None:
    place.execute("UPDATE documents SET client = 'rival'")
    place.execute("UPDATE {chunks} SET client = 'rival'")
    with pytest.raises(UnknownName):
        place.report()


def flip_a_bit(path: Path) -> None:
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("damage", [flip_a_bit, Path.unlink])
def test_a_damaged_index_file_is_found_even_if_size_and_time_are_as_before(
    place: Place, damage: Callable[[Path], None]
) -> None:
    build = current_build(index_folder(place.config.data_dir, SPACE.space_id, "acme"))
    assert build is not None
    damage(build.folder / "index.faiss")
    report = place.report()
    assert "index.faiss" in report.faiss_fault
    assert not report.ok


def test_verify_changes_nothing(place: Place) -> None:
    files = {path: path.read_bytes() for path in place.config.data_dir.rglob("*") if path.is_file()}
    place.report()
    assert files == {path: path.read_bytes() for path in place.config.data_dir.rglob("*") if path.is_file()}

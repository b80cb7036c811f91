"""Inverted lists are filled in shards and merged on disk: the file is the one FAISS would have written."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import psycopg
import pytest

from tests.transforms.sinks.test_faiss_index import IVF, SPACE, delete, insert, nearest, unit_vectors
from transforms.sinks import faiss_shards
from transforms.sinks.faiss_files import current_build, index_folder
from transforms.sinks.faiss_index import update_index
from transforms.spaces import register_space


@pytest.fixture
def table(connection: psycopg.Connection) -> psycopg.Connection:
    register_space(connection, SPACE, "vector", "acme")
    return connection


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_shards, "SHARD_BYTES", 1)
    monkeypatch.setattr(faiss_shards, "BLOCK", 64)


@pytest.mark.usefixtures("small_shards")
def test_shards_are_merged_into_one_index_and_leave_nothing_behind(
    table: psycopg.Connection, tmp_path: Path
) -> None:
    vectors = unit_vectors(500)
    row_ids = insert(table, vectors)
    told: list[tuple[int, int]] = []
    report = update_index(table, tmp_path, SPACE, "acme", IVF, lambda done, all_: told.append((done, all_)))
    assert (report.kind, report.count, report.added) == ("ivf", 500, 500)
    assert [row for (row,) in nearest(tmp_path, vectors)] == row_ids
    assert len(told) == 8  # of 64 vectors each
    assert told[-1] == (500, 500)
    folder = index_folder(tmp_path, SPACE.space_id, "acme") / report.build
    assert sorted(path.name for path in folder.iterdir()) == [
        "index.faiss",
        "manifest.json",
        "tombstones.npy",
    ]


@pytest.mark.usefixtures("small_shards")
def test_what_is_added_later_lies_behind_what_was_there(table: psycopg.Connection, tmp_path: Path) -> None:
    first, second = unit_vectors(300), unit_vectors(200, seed=1)
    first_ids = insert(table, first)
    update_index(table, tmp_path, SPACE, "acme", IVF)
    delete(table, first_ids[:10])
    second_ids = insert(table, second)
    report = update_index(table, tmp_path, SPACE, "acme", IVF)
    assert (report.added, report.removed, report.tombstones, report.rebuilt) == (200, 10, 10, None)
    found = [row for (row,) in nearest(tmp_path, np.vstack([first[10:], second]))]
    assert found == first_ids[10:] + second_ids


@pytest.mark.usefixtures("small_shards")
def test_the_merged_file_is_the_one_faiss_writes(table: psycopg.Connection, tmp_path: Path) -> None:
    insert(table, unit_vectors(500))
    update_index(table, tmp_path, SPACE, "acme", IVF)
    build = current_build(index_folder(tmp_path, SPACE.space_id, "acme"))
    assert build is not None
    written = build.folder / "index.faiss"
    faiss.write_index(faiss.read_index(str(written)), str(tmp_path / "by_faiss"))
    assert (tmp_path / "by_faiss").read_bytes() == written.read_bytes()


@pytest.mark.usefixtures("small_shards")
def test_rows_that_vanish_while_shards_are_filled_are_not_in_the_index(
    table: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = unit_vectors(300)
    row_ids = insert(table, vectors)
    train = faiss_shards._trained

    def delete_then_fill(*arguments: object) -> object:
        trained = train(*arguments)  # type: ignore[arg-type]
        delete(table, row_ids[100:200])
        return trained

    monkeypatch.setattr(faiss_shards, "_trained", delete_then_fill)
    report = update_index(table, tmp_path, SPACE, "acme", IVF)
    assert (report.count, report.tombstones) == (200, 0)
    kept = [*range(100), *range(200, 300)]
    assert [row for (row,) in nearest(tmp_path, vectors[kept])] == [row_ids[place] for place in kept]


@pytest.mark.usefixtures("small_shards")
def test_a_shard_that_fails_leaves_the_build_before(
    table: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = unit_vectors(200)
    row_ids = insert(table, first)
    report = update_index(table, tmp_path, SPACE, "acme", IVF)
    insert(table, unit_vectors(200, seed=1))
    with monkeypatch.context() as patched:

        def no_connection(connection: psycopg.Connection) -> psycopg.Connection:
            raise psycopg.OperationalError("the server went away")

        patched.setattr(faiss_shards, "_beside", no_connection)
        with pytest.raises(psycopg.OperationalError):
            update_index(table, tmp_path, SPACE, "acme", IVF)
    folder = index_folder(tmp_path, SPACE.space_id, "acme")
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [report.build]
    assert [row for (row,) in nearest(tmp_path, first)] == row_ids
    assert update_index(table, tmp_path, SPACE, "acme", IVF).count == 400

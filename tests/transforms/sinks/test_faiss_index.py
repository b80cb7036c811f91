"""The FAISS index is what Postgres holds, whatever happened to either."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from schemas.config import Faiss
from schemas.errors import BadVector, DigestMismatch, DimensionMismatch, SpaceMismatch, UnknownName
from schemas.spaces import EmbeddingSpace
from transforms.sinks import faiss_files
from transforms.sinks.faiss_files import current_build, damaged_file, index_folder
from transforms.sinks.faiss_index import (
    IndexReport,
    choose_shape,
    live_row_ids,
    open_index,
    plan_update,
    search_index,
    update_index,
)
from transforms.spaces import chunk_table, register_space

DIMENSIONS = 16
SPACE = EmbeddingSpace("tests/tiny", "0" * 64, "exact", "mean", True, DIMENSIONS, 64)
OTHER_SPACE = EmbeddingSpace("tests/other", "0" * 64, "exact", "mean", True, DIMENSIONS, 64)
FLAT = Faiss()
HNSW = Faiss(flat_below=0)
IVF = Faiss(flat_below=0, hnsw_below=0)
SHAPES = pytest.mark.parametrize("shape", [FLAT, HNSW, IVF], ids=["flat", "hnsw", "ivf"])

Vectors = npt.NDArray[np.float32]


def unit_vectors(count: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def insert(connection: psycopg.Connection, vectors: Iterable[Vectors], client: str = "acme") -> list[int]:
    """Chunks of one new document; their row ids."""
    document_id = UUID(bytes=os.urandom(16))
    connection.execute(
        "INSERT INTO documents"
        " (document_id, client, source, kind, native_id, updated_at, observed_at, payload_digest)"
        " VALUES (%s, %s, 'tests', 'issue', %s, now(), now(), '')",
        (document_id, client, str(document_id)),
    )
    statement = sql.SQL(
        "INSERT INTO {} (document_id, ordinal, client, text, text_hash, start_char, end_char, tokens, embedding)"
        " VALUES (%s, %s, %s, 'weir', '', 0, 4, 3, %s) RETURNING row_id"
    ).format(chunk_table(SPACE.space_id))
    rows = [
        connection.execute(statement, (document_id, ordinal, client, vector)).fetchone()
        for ordinal, vector in enumerate(vectors)
    ]
    return [row[0] for row in rows if row]


def delete(connection: psycopg.Connection, row_ids: Iterable[int]) -> None:
    statement = sql.SQL("DELETE FROM {} WHERE row_id = ANY(%s)").format(chunk_table(SPACE.space_id))
    connection.execute(statement, (list(row_ids),))


def nearest(folder: Path, queries: Vectors, k: int = 1, allowed: list[int] | None = None) -> list[list[int]]:
    opened = open_index(folder, SPACE, "acme")
    ids = None if allowed is None else np.array(allowed, np.int64)
    return search_index(opened, queries, k, ids)[1].tolist()


@pytest.fixture
def table(connection: psycopg.Connection) -> psycopg.Connection:
    register_space(connection, SPACE, "vector", "acme")
    return connection


@SHAPES
def test_every_vector_finds_itself(table: psycopg.Connection, tmp_path: Path, shape: Faiss) -> None:
    vectors = unit_vectors(300)
    row_ids = insert(table, vectors)
    report = update_index(table, tmp_path, SPACE, "acme", shape)
    assert (report.count, report.added, report.removed, report.tombstones) == (300, 300, 0, 0)
    opened = open_index(tmp_path, SPACE, "acme")
    cosines, found = search_index(opened, vectors, 1)
    assert found[:, 0].tolist() == row_ids
    np.testing.assert_allclose(cosines, 1, atol=1e-5)


@SHAPES
def test_only_what_changed_is_read_and_deleted_rows_are_never_found(
    table: psycopg.Connection, tmp_path: Path, shape: Faiss
) -> None:
    vectors = unit_vectors(300)
    row_ids = insert(table, vectors)
    update_index(table, tmp_path, SPACE, "acme", shape)
    delete(table, row_ids[:30])
    more = unit_vectors(20, seed=1)
    new_ids = insert(table, more)
    report = update_index(table, tmp_path, SPACE, "acme", shape)
    assert (report.added, report.removed, report.count, report.rebuilt) == (20, 30, 290, None)
    assert report.tombstones == (0 if shape is FLAT else 30)
    assert not {row for found in nearest(tmp_path, vectors[:30], k=300) for row in found} & set(row_ids[:30])
    assert [row for (row,) in nearest(tmp_path, more)] == new_ids
    assert [row for (row,) in nearest(tmp_path, vectors[30:])] == row_ids[30:]


@SHAPES
def test_without_a_change_nothing_is_built(table: psycopg.Connection, tmp_path: Path, shape: Faiss) -> None:
    insert(table, unit_vectors(100))
    first = update_index(table, tmp_path, SPACE, "acme", shape)
    again = update_index(table, tmp_path, SPACE, "acme", shape)
    assert again.build == first.build
    assert (again.added, again.removed, again.action) == (0, 0, "unchanged")


def test_another_clients_vectors_stay_out(table: psycopg.Connection, tmp_path: Path) -> None:
    own = insert(table, unit_vectors(5))
    insert(table, unit_vectors(5, seed=1), client="other")
    update_index(table, tmp_path, SPACE, "acme", FLAT)
    assert sorted(live_row_ids(open_index(tmp_path, SPACE, "acme")).tolist()) == own


def test_a_client_name_cannot_leave_the_data_folder(table: psycopg.Connection, tmp_path: Path) -> None:
    for client in ("..", "../../etc", "a/b", ".", "naïve\0"):
        assert index_folder(tmp_path, SPACE.space_id, client).resolve().parent.parent == tmp_path / "faiss"


@SHAPES
def test_a_filtered_search_is_exact(table: psycopg.Connection, tmp_path: Path, shape: Faiss) -> None:
    vectors = unit_vectors(400)
    row_ids = np.array(insert(table, vectors))
    update_index(table, tmp_path, SPACE, "acme", shape)
    allowed = np.arange(0, 400, 37)
    queries = unit_vectors(25, seed=2)
    expected = row_ids[allowed][np.argsort(-(queries @ vectors[allowed].T), axis=1)[:, :5]]
    assert nearest(tmp_path, queries, 5, row_ids[allowed].tolist()) == expected.tolist()
    assert nearest(tmp_path, queries[:1], 2, []) == [[-1, -1]]


@SHAPES
def test_a_filter_cannot_bring_back_a_deleted_row(
    table: psycopg.Connection, tmp_path: Path, shape: Faiss
) -> None:
    vectors = unit_vectors(100)
    row_ids = insert(table, vectors)
    update_index(table, tmp_path, SPACE, "acme", shape)
    delete(table, row_ids[:1])
    update_index(table, tmp_path, SPACE, "acme", shape)
    assert nearest(tmp_path, vectors[:1], 2, row_ids[:2]) == [[row_ids[1], -1]]


def test_dead_neighbours_do_not_crowd_out_the_living(table: psycopg.Connection, tmp_path: Path) -> None:
    dead = np.repeat(unit_vectors(1), 200, axis=0) + 0.01 * unit_vectors(200, seed=3)
    living = -dead[:1] + 0.5 * unit_vectors(800, seed=4)
    living_ids = insert(table, living)
    dead_ids = insert(table, dead)
    settings = Faiss(flat_below=0, rebuild_tombstone_share=0.9)
    update_index(table, tmp_path, SPACE, "acme", settings)
    delete(table, dead_ids)
    assert update_index(table, tmp_path, SPACE, "acme", settings).tombstones == 200
    (found,) = nearest(tmp_path, dead[:1], k=100)
    assert set(found) <= set(living_ids)


def test_too_many_tombstones_rebuild_the_graph(table: psycopg.Connection, tmp_path: Path) -> None:
    row_ids = insert(table, unit_vectors(100))
    update_index(table, tmp_path, SPACE, "acme", HNSW)
    delete(table, row_ids[:20])
    report = update_index(table, tmp_path, SPACE, "acme", HNSW)
    assert report.rebuilt == "20% of its entries were dead"
    assert (report.count, report.tombstones, report.added, report.removed) == (80, 0, 80, 20)


def test_growth_beyond_a_limit_changes_the_shape(table: psycopg.Connection, tmp_path: Path) -> None:
    limits = Faiss(flat_below=50, hnsw_below=150)
    kinds = []
    for seed in range(3):
        insert(table, unit_vectors(80 if seed else 50, seed))
        kinds.append(update_index(table, tmp_path, SPACE, "acme", limits).kind)
    assert kinds == ["flat", "hnsw", "ivf"]


def test_a_count_swinging_about_a_limit_keeps_its_shape() -> None:
    limits = Faiss(flat_below=100, hnsw_below=1000)
    assert choose_shape(100, limits, None) == choose_shape(100, limits, "flat") == "flat"
    assert choose_shape(101, limits, "flat") == choose_shape(99, limits, "hnsw") == "hnsw"
    assert choose_shape(79, limits, "hnsw") == "flat"
    assert choose_shape(1001, limits, "hnsw") == choose_shape(900, limits, "ivf") == "ivf"


def damage_bytes(build: Path) -> None:
    content = bytearray((build / "index.faiss").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (build / "index.faiss").write_bytes(content)


def damage_by_truncation(build: Path) -> None:
    os.truncate(build / "index.faiss", 100)


def damage_by_loss(build: Path) -> None:
    (build / "tombstones.npy").unlink()


@pytest.mark.parametrize("damage", [damage_bytes, damage_by_truncation, damage_by_loss])
def test_a_damaged_file_is_refused_by_search_and_mended_by_update(
    table: psycopg.Connection,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: object,
) -> None:
    vectors = unit_vectors(50)
    row_ids = insert(table, vectors)
    update_index(table, tmp_path, SPACE, "acme", FLAT)
    build = current_build(index_folder(tmp_path, SPACE.space_id, "acme"))
    assert build is not None
    assert callable(damage)
    damage(build.folder)
    with pytest.raises(DigestMismatch, match="headrace run"):
        open_index(tmp_path, SPACE, "acme")
    report = update_index(table, tmp_path, SPACE, "acme", FLAT)
    assert (report.added, report.rebuilt) == (50, "no usable index was there")
    assert "building anew" in caplog.text
    assert [row for (row,) in nearest(tmp_path, vectors)] == row_ids


@pytest.mark.parametrize("manifest", ["", "{", '{"space_id": 1}', "\udcff"])
def test_a_torn_manifest_is_mended_by_update(
    table: psycopg.Connection, tmp_path: Path, manifest: str
) -> None:
    insert(table, unit_vectors(5))
    update_index(table, tmp_path, SPACE, "acme", FLAT)
    build = current_build(index_folder(tmp_path, SPACE.space_id, "acme"))
    assert build is not None
    (build.folder / "manifest.json").write_text(manifest, errors="surrogateescape")
    with pytest.raises(UnknownName):
        open_index(tmp_path, SPACE, "acme")
    assert update_index(table, tmp_path, SPACE, "acme", FLAT).added == 5


def test_files_of_another_space_are_refused_by_search_and_replaced_by_update(
    table: psycopg.Connection, tmp_path: Path
) -> None:
    insert(table, unit_vectors(5))
    update_index(table, tmp_path, SPACE, "acme", FLAT)
    here, there = (index_folder(tmp_path, space.space_id, "acme") for space in (SPACE, OTHER_SPACE))
    here.rename(there)
    with pytest.raises(SpaceMismatch, match=SPACE.space_id):
        open_index(tmp_path, OTHER_SPACE, "acme")
    register_space(table, OTHER_SPACE, "vector", "acme")
    assert update_index(table, tmp_path, OTHER_SPACE, "acme", FLAT).count == 0


def test_an_index_never_built_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="headrace run"):
        open_index(tmp_path, SPACE, "acme")


def test_an_interrupted_build_leaves_the_old_one_current(
    table: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = unit_vectors(10)
    row_ids = insert(table, vectors)
    first = update_index(table, tmp_path, SPACE, "acme", FLAT)
    insert(table, unit_vectors(10, seed=1))
    with monkeypatch.context() as patched:
        patched.setattr(faiss_files, "stamps", interrupt)
        with pytest.raises(KeyboardInterrupt):
            update_index(table, tmp_path, SPACE, "acme", FLAT)
    build = current_build(index_folder(tmp_path, SPACE.space_id, "acme"))
    assert build is not None
    assert build.folder.name == first.build
    assert [row for (row,) in nearest(tmp_path, vectors)] == row_ids
    assert update_index(table, tmp_path, SPACE, "acme", FLAT).added == 10


def interrupt(folder: Path) -> dict[str, faiss_files.Stamp]:
    raise KeyboardInterrupt


def test_at_most_the_build_before_is_kept_and_stays_readable(
    table: psycopg.Connection, tmp_path: Path
) -> None:
    builds = []
    opened = None
    for seed in range(4):
        insert(table, unit_vectors(3, seed))
        builds.append(update_index(table, tmp_path, SPACE, "acme", FLAT).build)
        opened = opened or open_index(tmp_path, SPACE, "acme")
    folder = index_folder(tmp_path, SPACE.space_id, "acme")
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == builds[-2:]
    assert opened is not None
    assert (search_index(opened, unit_vectors(1), 3)[1] > 0).all()  # mapped before it was pruned


def test_the_manifest_says_what_the_build_holds(table: psycopg.Connection, tmp_path: Path) -> None:
    row_ids = insert(table, unit_vectors(7))
    report = update_index(table, tmp_path, SPACE, "acme", FLAT)
    folder = index_folder(tmp_path, SPACE.space_id, "acme")
    written = json.loads((folder / report.build / "manifest.json").read_text())
    assert (written["space_id"], written["client"], written["kind"]) == (SPACE.space_id, "acme", "flat")
    assert (written["count"], written["dimensions"]) == (7, DIMENSIONS)
    assert written["high_water_row_id"] == max(row_ids)
    build = current_build(folder)
    assert build is not None
    assert damaged_file(build, rehash=True) is None


def test_a_hash_finds_damage_that_size_and_time_hide(table: psycopg.Connection, tmp_path: Path) -> None:
    insert(table, unit_vectors(7))
    report = update_index(table, tmp_path, SPACE, "acme", FLAT)
    folder = index_folder(tmp_path, SPACE.space_id, "acme")
    path = folder / report.build / "index.faiss"
    before = path.stat()
    damage_bytes(path.parent)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    build = current_build(folder)
    assert build is not None
    assert damaged_file(build, rehash=True) == "index.faiss"


def test_a_copied_index_is_trusted_after_hashing(table: psycopg.Connection, tmp_path: Path) -> None:
    insert(table, unit_vectors(7))
    report = update_index(table, tmp_path, SPACE, "acme", FLAT)
    os.utime(index_folder(tmp_path, SPACE.space_id, "acme") / report.build / "index.faiss")
    assert len(live_row_ids(open_index(tmp_path, SPACE, "acme"))) == 7


def test_a_vector_without_length_is_never_added(table: psycopg.Connection, tmp_path: Path) -> None:
    insert(table, [np.zeros(DIMENSIONS, np.float32)])
    with pytest.raises(BadVector):
        update_index(table, tmp_path, SPACE, "acme", FLAT)


def test_a_query_of_another_width_or_not_finite_is_refused(table: psycopg.Connection, tmp_path: Path) -> None:
    insert(table, unit_vectors(3))
    update_index(table, tmp_path, SPACE, "acme", FLAT)
    opened = open_index(tmp_path, SPACE, "acme")
    with pytest.raises(DimensionMismatch):
        search_index(opened, np.ones((1, DIMENSIONS + 1), np.float32), 1)
    with pytest.raises(BadVector):
        search_index(opened, np.full((1, DIMENSIONS), np.nan, np.float32), 1)


def test_progress_reaches_the_number_of_vectors(table: psycopg.Connection, tmp_path: Path) -> None:
    insert(table, unit_vectors(30))
    seen: list[tuple[int, int]] = []
    update_index(table, tmp_path, SPACE, "acme", FLAT, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (30, 30)


def test_half_precision_columns_give_vectors_of_length_one(
    connection: psycopg.Connection, tmp_path: Path
) -> None:
    register_space(connection, SPACE, "halfvec", "acme")
    vectors = unit_vectors(20)
    row_ids = insert(connection, vectors)
    update_index(connection, tmp_path, SPACE, "acme", FLAT)
    cosines, found = search_index(open_index(tmp_path, SPACE, "acme"), vectors, 1)
    assert found[:, 0].tolist() == row_ids
    np.testing.assert_allclose(cosines, 1, atol=1e-3)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.booleans()), min_size=1, max_size=5),
    shape=st.sampled_from([FLAT, HNSW, IVF]),
)
def test_after_any_history_the_index_holds_what_the_table_holds(
    table: psycopg.Connection,
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int, bool]],
    shape: Faiss,
) -> None:
    folder = tmp_path_factory.mktemp("history")
    table.execute(sql.SQL("TRUNCATE {}").format(chunk_table(SPACE.space_id)))
    rows: dict[int, Vectors] = {}
    report: IndexReport | None = None
    for number, (added, removed, update) in enumerate(steps):
        gone = list(rows)[:removed]
        delete(table, gone)
        for row in gone:
            del rows[row]
        vectors = unit_vectors(added, seed=number)
        rows |= dict(zip(insert(table, vectors), vectors, strict=True))
        if update:
            report = update_index(table, folder, SPACE, "acme", shape)
    report = update_index(table, folder, SPACE, "acme", shape)
    assert report.count == len(rows)
    assert sorted(live_row_ids(open_index(folder, SPACE, "acme")).tolist()) == sorted(rows)
    if rows:
        found = nearest(folder, np.stack(list(rows.values())))
        assert [row for (row,) in found] == list(rows)


ROW_IDS = st.sets(st.integers(1, 40)).map(lambda ids: np.array(sorted(ids), np.int64))


@given(wanted=ROW_IDS, entries=ROW_IDS)
def test_a_plan_turns_the_entries_into_what_is_wanted(
    wanted: npt.NDArray[np.int64], entries: npt.NDArray[np.int64]
) -> None:
    plan = plan_update(wanted, entries, "hnsw", HNSW)
    begun = set() if plan.rebuild else set(entries.tolist())
    assert (begun | set(plan.add.tolist())) - set(plan.dead.tolist()) == set(wanted.tolist())

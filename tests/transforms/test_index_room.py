"""What an index takes is known before it is built, and what there is is seen where limits are set."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import psutil
import psycopg
import pytest
from psycopg import sql

from transforms.index_room import available_memory, hnsw_build_bytes, hnsw_disk_bytes, server_room
from transforms.spaces import HNSW_CANDIDATES, HNSW_LINKS, VectorType

MIB = 2**20


def fill(connection: psycopg.Connection, vector_type: str, dimensions: int, rows: int) -> None:
    connection.execute(f"CREATE TABLE vectors (embedding {vector_type}({dimensions}))")
    vectors = np.random.default_rng(0).standard_normal((rows, dimensions)).astype(np.float32)
    with connection.cursor() as cursor, cursor.copy("COPY vectors FROM STDIN") as copy:
        for vector in vectors:
            copy.write_row([str(vector.tolist())])


def build(connection: psycopg.Connection, vector_type: str) -> None:
    connection.execute(
        sql.SQL(
            "CREATE INDEX graph ON vectors USING hnsw (embedding {}) WITH (m = {}, ef_construction = {})"
        ).format(sql.SQL(f"{vector_type}_cosine_ops"), HNSW_LINKS, HNSW_CANDIDATES)
    )


@pytest.mark.parametrize(("vector_type", "dimensions"), [("vector", 384), ("vector", 1024), ("halfvec", 384)])
def test_a_graph_takes_the_disk_that_was_said(
    connection: psycopg.Connection, vector_type: VectorType, dimensions: int
) -> None:
    fill(connection, vector_type, dimensions, rows=600)
    build(connection, vector_type)
    row = connection.execute("SELECT pg_relation_size('graph')").fetchone()
    assert row is not None
    assert hnsw_disk_bytes(600, dimensions, vector_type) == pytest.approx(row[0], rel=0.05)


def test_a_graph_takes_the_memory_that_was_said(connection: psycopg.Connection) -> None:
    said: list[str] = []
    connection.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
    fill(connection, "vector", 1024, rows=400)
    connection.execute("SET maintenance_work_mem = '1MB'")
    connection.execute("SET max_parallel_maintenance_workers = 0")
    build(connection, "vector")
    (fits,) = [re.search(r"after (\d+) tuples", line) for line in said]
    assert fits is not None
    assert hnsw_build_bytes(int(fits[1]), 1024, "vector") == pytest.approx(MIB, rel=0.05)


def test_the_server_on_this_machine_is_known_to_be_here(
    connection: psycopg.Connection, tmp_path: Path
) -> None:
    room = server_room(connection, shared=tmp_path)
    assert room.is_here
    assert room.shared_bytes is not None
    assert 0 < room.shared_bytes <= psutil.disk_usage(str(tmp_path)).total
    assert server_room(connection, shared=tmp_path / "absent").shared_bytes is None


def cgroup(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_a_limit_of_the_cgroup_counts_wherever_it_is_set(tmp_path: Path) -> None:
    memberships = tmp_path / "cgroup"
    memberships.write_text("0::/pod/container\n")
    cgroup(tmp_path / "v2" / "pod" / "container", memory__max="max", memory__current=str(10 * MIB))
    cgroup(
        tmp_path / "v2" / "pod",
        memory__max=str(300 * MIB),
        memory__current=str(200 * MIB),
        memory__stat=f"anon {150 * MIB}\ninactive_file {50 * MIB}",
    )
    assert available_memory(tmp_path / "v2", memberships) == 150 * MIB


def test_a_limit_of_version_1_counts_and_the_highest_number_is_none(tmp_path: Path) -> None:
    memberships = tmp_path / "cgroup"
    memberships.write_text("4:memory:/job\n3:cpu,cpuacct:/job\n")
    place = tmp_path / "v1" / "memory" / "job"
    cgroup(place, memory__limit_in_bytes=str(100 * MIB), memory__usage_in_bytes=str(40 * MIB))
    assert available_memory(tmp_path / "v1", memberships) == 60 * MIB
    cgroup(place, memory__limit_in_bytes="9223372036854771712")
    assert available_memory(tmp_path / "v1", memberships) > 60 * MIB


def test_a_group_that_is_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    memberships = tmp_path / "cgroup"
    memberships.write_text("0::/\n")
    cgroup(tmp_path / "v2", memory__max=str(MIB), memory__current=str(2 * MIB))
    assert available_memory(tmp_path / "v2", memberships) == 0

"""A load without a model: every document is stored, and memory is told by parts."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pytest

from benchmarks.backfill import Memory, by_parts, is_flat, misses, payload, row_of, side_by_side
from benchmarks.passing_on import passing_on
from benchmarks.readme import section


def test_a_load_by_two_workers_stores_every_document_once() -> None:
    row = side_by_side(documents=1200, workers=2, indexes=False)
    assert (row["documents"], row["workers"]) == (1200, 2)
    assert row["vectors"] > 1200  # one in eight is longer than a chunk
    assert row["documents_per_s"] > 0
    assert row["unchanged_documents_per_s"] > row["documents_per_s"]


def test_made_up_issues_differ_and_are_the_same_for_the_same_number() -> None:
    made = [payload(number) for number in range(500)]
    assert len(set(made)) == 500
    assert made == [payload(number) for number in range(500)]
    assert orjson.loads(made[7])["key"] == "LOAD-7"


def test_memory_is_told_by_parts_and_growth_is_seen() -> None:
    assert by_parts([1, 2, 3, 4, 5, 6, 7, 8], parts=4) == [2, 4, 6, 8]
    assert by_parts([5.4], parts=10) == [5]
    assert by_parts([]) == []
    assert is_flat([100, 200, 205, 210])
    assert not is_flat([100, 200, 205, 230])
    assert not is_flat([100, 200, 230, 205])


def test_what_falls_short_is_said() -> None:
    told = [
        {
            "pass": "first",
            "documents": 10,
            "vectors": 20,
            "seconds": 2.0,
            "cpu_s": 1,
            "engine_s": 0.1,
            "chunk_s": 0.1,
        },
        {
            "pass": "unchanged",
            "documents": 10,
            "vectors": 0,
            "seconds": 1,
            "cpu_s": 1,
            "engine_s": 0,
            "chunk_s": 0,
        },
    ]
    memory = Memory(workers={0: [100.0, 150.0, 200.0, 300.0]}, postgres=[50.0, 60.0])
    row = row_of(10, 1, [told], memory)
    assert (row["documents_per_s"], row["vectors_per_s"], row["unchanged_documents_per_s"]) == (5, 10, 10)
    assert misses([row], {"us_a_vector_and_step": 2.5}) == []  # too short to tell
    assert misses([row | {"documents": 1_000_000}], {"us_a_vector_and_step": 12.5}) == [
        "1 workers: memory of worker 0 grows: [100, 150, 200, 300] MiB",
        "a vector costs 12.5 µs a step, wanted 10",
    ]


@pytest.mark.alone
def test_a_vector_is_passed_on_in_batches_for_less_than_ten_microseconds() -> None:
    found = passing_on(vectors=2000)
    assert found["us_a_vector_and_step"] < 10


def test_the_readme_has_a_row_for_each_number_of_workers(tmp_path: Path) -> None:
    figures = {
        "machine": {"cores": 2, "processor": "P", "commit": "c0"},
        "passing_on": {"us_a_vector_and_step": 0.031, "us_a_vector_and_step_one_by_one": 4.21},
        "rows": [
            {
                "documents": 1_000_000,
                "workers": 1,
                "documents_per_s": 1234,
                "vectors_per_s": 2345,
                "unchanged_documents_per_s": 9876,
                "worker_cpu_us_a_document": 800,
                "peak_mib_by_tenth": {"worker 0": [300, 310, 320, 315], "postgres": [400, 500, 600]},
            }
        ],
    }
    (tmp_path / "backfill.json").write_text(json.dumps(figures))
    written = section(tmp_path, tmp_path)
    assert "| 1 | 1,234 | 2,345 | 9,876 | 800 | 310, 320, 320 | 500, 500, 600 |" in written.splitlines()
    assert "0.03 µs for each fused step that it passes in a batch, 4.2 µs one by one" in written

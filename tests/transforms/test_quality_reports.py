"""Quality reports are stored once, a run's last one replacing the earlier."""

from __future__ import annotations

from uuid import uuid4

import apache_beam as beam
import psycopg
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from psycopg import sql

from schemas.quality import BatchReport, QualityReport
from schemas.spaces import EmbeddingSpace
from transforms.postgres import Store
from transforms.quality_reports import run_reports, summarise_run, write_quality
from transforms.runs import next_row_id
from transforms.sinks.ledger import WriteQuality
from transforms.spaces import VectorType, chunk_table, register_space

SPACE_ID = "0" * 16


def report(vectors: int) -> QualityReport:
    return QualityReport(vectors, 0, 0, 1, 0, 0.99, 1.0, 1.01, 0.001)


def test_a_run_has_one_report_the_last(connection: psycopg.Connection) -> None:
    run_id = uuid4()
    for vectors in (10, 20):
        write_quality(connection, report(vectors), "acme", run_id, SPACE_ID)
    assert connection.execute("SELECT vectors, quality_score FROM quality_reports").fetchall() == [(20, 0.95)]


def test_repeated_bundles_write_each_batch_once(database: Store, connection: psycopg.Connection) -> None:
    pipeline = beam.Pipeline(
        options=PipelineOptions(["--runner=FnApiRunner", "--direct_runner_bundle_repeat=2"])
    )
    reports = pipeline | beam.Create(
        [BatchReport(bytes([number]), report(vectors)) for number, vectors in enumerate((10, 20, 20))],
        reshuffle=False,
    )
    reports | WriteQuality(database, "acme", uuid4(), SPACE_ID)
    pipeline.run().wait_until_finish()
    assert connection.execute("SELECT scope, vectors FROM quality_reports ORDER BY vectors").fetchall() == [
        ("batch", 10),
        ("batch", 20),
        ("batch", 20),
    ]


@pytest.mark.parametrize("vector_type", ["vector", "halfvec"])
def test_a_run_counts_texts_that_share_a_vector_over_all_of_its_rows_and_no_others(
    connection: psycopg.Connection, vector_type: VectorType
) -> None:
    space = EmbeddingSpace("tests/tiny", "0" * 64, "exact", "mean", True, dimensions=2, max_tokens=64)
    register_space(connection, space, vector_type, "acme")
    connection.execute("SET session_replication_role = replica")  # the chunks need no documents here

    def store(text: bytes, vector: list[float]) -> None:
        connection.execute(
            sql.SQL(
                "INSERT INTO {} (document_id, ordinal, client, text, text_hash, start_char, end_char, tokens,"
                " embedding) VALUES (%s, 0, 'acme', '', %s, 0, 0, 1, %s::real[]::vector)"
            ).format(chunk_table(space.space_id)),
            [uuid4(), text, vector],
        )

    store(b"before", [1.0, 0.0])
    first, run_id = next_row_id(connection), uuid4()
    for text, vector in [
        (b"one", [1.0, 0.0]),
        (b"two", [1.0, 0.0]),
        (b"two", [1.0, 0.0]),  # the same text has the same vector rightly
        (b"three", [0.0, 1.0]),
        (b"four", [1.0, 0.5]),
    ]:
        store(text, vector)
    write_quality(connection, report(5), "acme", run_id, space.space_id, b"1")
    assert summarise_run(connection, "acme", run_id, space.space_id, first).duplicates == 1


def test_a_run_that_nobody_summed_up_is_shown_as_the_sum_of_its_batches(
    connection: psycopg.Connection,
) -> None:
    summed_up, watched = uuid4(), uuid4()
    for batch, vectors in ((b"1", 10), (b"2", 30)):
        for run_id in (summed_up, watched):
            write_quality(connection, report(vectors), "acme", run_id, SPACE_ID, batch)
    write_quality(connection, report(50), "acme", summed_up, SPACE_ID)
    write_quality(connection, report(7), "other", watched, SPACE_ID, b"1")
    found = {row["run_id"]: row for row in run_reports(connection, "acme", 10)}
    assert {run_id: (row["vectors"], row["zero"]) for run_id, row in found.items()} == {
        summed_up: (50, 1),
        watched: (40, 2),
    }
    assert found[watched]["quality_score"] == 1 - 2 / 40
    assert [row["run_id"] for row in run_reports(connection, "acme", 1)] == [summed_up]


def test_the_last_hour_of_quality_is_found_without_reading_the_years_before(
    connection: psycopg.Connection,
) -> None:
    connection.execute(
        "INSERT INTO quality_reports SELECT gen_random_uuid(), now() - interval '1 year' + n * interval '5 minutes',"
        " 'acme', NULL, %s, 'batch', 1, 0, 0, 0, 0, 1, 1, 1, 0, 1 FROM generate_series(1, 100000) AS n",
        [SPACE_ID],
    )
    connection.execute("ANALYZE quality_reports")
    row = connection.execute(
        "EXPLAIN (ANALYZE, FORMAT JSON) SELECT client, sum(vectors) FROM quality_reports"
        " WHERE scope = 'batch' AND created_at > now() - interval '1 hour' GROUP BY 1"
    ).fetchone()
    assert row is not None
    plan = str(row[0])
    assert "quality_reports_by_time" in plan
    assert "Seq Scan" not in plan

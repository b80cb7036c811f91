"""Quality reports are stored once, a run's last one replacing the earlier."""

from __future__ import annotations

from uuid import uuid4

import apache_beam as beam
import psycopg
from apache_beam.options.pipeline_options import PipelineOptions

from schemas.quality import QualityReport
from transforms.postgres import Store
from transforms.quality_reports import write_quality
from transforms.sinks.ledger import WriteQuality

SPACE_ID = "0" * 16


def report(vectors: int) -> QualityReport:
    return QualityReport(vectors, 0, 0, 1, 0, 0.99, 1.0, 1.01, 0.001)


def test_a_run_has_one_report_the_last(connection: psycopg.Connection) -> None:
    run_id = uuid4()
    for vectors in (10, 20):
        write_quality(connection, report(vectors), "acme", run_id, SPACE_ID, "run")
    assert connection.execute("SELECT vectors, quality_score FROM quality_reports").fetchall() == [(20, 0.95)]


def test_repeated_bundles_write_each_batch_once(database: Store, connection: psycopg.Connection) -> None:
    pipeline = beam.Pipeline(
        options=PipelineOptions(["--runner=FnApiRunner", "--direct_runner_bundle_repeat=2"])
    )
    reports = pipeline | beam.Create([report(10), report(20)], reshuffle=False)
    reports | WriteQuality(database, "acme", uuid4(), SPACE_ID)
    pipeline.run().wait_until_finish()
    assert connection.execute("SELECT scope, vectors FROM quality_reports ORDER BY vectors").fetchall() == [
        ("batch", 10),
        ("batch", 20),
    ]

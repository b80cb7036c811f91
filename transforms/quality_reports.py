"""Quality reports in Postgres: one for each batch of a run, and one for the run."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Literal
from uuid import UUID

import apache_beam as beam
import psycopg

from schemas.ids import digest
from schemas.quality import QualityReport
from transforms.postgres import Session, Store


def write_quality(
    connection: psycopg.Connection,
    report: QualityReport,
    client: str,
    run_id: UUID | None,
    space_id: str,
    scope: Literal["batch", "run"],
) -> None:
    """Store a report. A run has one report of scope `run`, the last; equal batch reports of a run are one row."""
    values = dataclasses.astuple(report)
    parts = (client, str(run_id), space_id, scope, *(map(repr, values) if scope == "batch" else ()))
    connection.execute(
        "INSERT INTO quality_reports (report_id, client, run_id, space_id, scope, vectors, wrong_dimension,"
        " not_finite, zero, duplicates, norm_min, norm_mean, norm_max, norm_std, quality_score)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (report_id) DO UPDATE SET vectors = EXCLUDED.vectors,"
        " wrong_dimension = EXCLUDED.wrong_dimension, not_finite = EXCLUDED.not_finite, zero = EXCLUDED.zero,"
        " duplicates = EXCLUDED.duplicates, norm_min = EXCLUDED.norm_min, norm_mean = EXCLUDED.norm_mean,"
        " norm_max = EXCLUDED.norm_max, norm_std = EXCLUDED.norm_std, quality_score = EXCLUDED.quality_score",
        [
            UUID(bytes=digest(*(part.encode() for part in parts))),
            client,
            run_id,
            space_id,
            scope,
            *values,
            report.quality_score,
        ],
    )


class WriteQuality(beam.PTransform):  # type: ignore[misc]
    """`PCollection[QualityReport]` of batches -> nothing."""

    def __init__(self, store: Store, client: str, run_id: UUID | None, space_id: str) -> None:
        super().__init__()
        self._fn = _WriteQualityFn(store, client, run_id, space_id)

    def expand(self, reports: beam.PCollection[QualityReport]) -> beam.PCollection[None]:
        return reports | "Write" >> beam.ParDo(self._fn)


class _WriteQualityFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, store: Store, client: str, run_id: UUID | None, space_id: str) -> None:
        self._store = store
        self._client = client
        self._run_id = run_id
        self._space_id = space_id

    def setup(self) -> None:
        self._session = Session(self._store)

    def teardown(self) -> None:
        self._session.close()

    def process(self, report: QualityReport) -> None:
        self._session.run(
            partial(
                write_quality,
                report=report,
                client=self._client,
                run_id=self._run_id,
                space_id=self._space_id,
                scope="batch",
            )
        )

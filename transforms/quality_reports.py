"""Quality reports in Postgres: one for each batch of a run, and one for the run."""

from __future__ import annotations

import dataclasses
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from schemas.ids import digest
from schemas.quality import QualityReport, merge_reports
from transforms.spaces import chunk_table, vector_type_of


def write_quality(
    connection: psycopg.Connection,
    report: QualityReport,
    client: str,
    run_id: UUID | None,
    space_id: str,
    batch: bytes | None = None,
) -> None:
    """Store a report, the last one of a batch or of a run.

    Args:
        batch: as `BatchReport.batch`; None for the report of the whole run.
    """
    values = dataclasses.astuple(report)
    scope = "run" if batch is None else "batch"
    parts = [part.encode() for part in (client, str(run_id), space_id, scope)]
    connection.execute(
        "INSERT INTO quality_reports (report_id, client, run_id, space_id, scope, vectors, wrong_dimension,"
        " not_finite, zero, duplicates, norm_min, norm_mean, norm_max, norm_std, quality_score)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (report_id) DO UPDATE SET vectors = EXCLUDED.vectors,"
        " wrong_dimension = EXCLUDED.wrong_dimension, not_finite = EXCLUDED.not_finite, zero = EXCLUDED.zero,"
        " duplicates = EXCLUDED.duplicates, norm_min = EXCLUDED.norm_min, norm_mean = EXCLUDED.norm_mean,"
        " norm_max = EXCLUDED.norm_max, norm_std = EXCLUDED.norm_std, quality_score = EXCLUDED.quality_score",
        [
            UUID(bytes=digest(*parts, batch or b"")),
            client,
            run_id,
            space_id,
            scope,
            *values,
            report.quality_score,
        ],
    )


def summarise_run(
    connection: psycopg.Connection, client: str, run_id: UUID, space_id: str, first_row_id: int
) -> QualityReport:
    """Store and return the report of a run: the sum of its batches, with duplicates counted over all of its rows.

    Args:
        first_row_id: `runs.next_row_id` from before the run.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "SELECT vectors, wrong_dimension, not_finite, zero, duplicates, norm_min, norm_mean, norm_max, norm_std"
            " FROM quality_reports WHERE run_id = %s AND scope = 'batch'",
            [run_id],
        ).fetchall()
    report = merge_reports([QualityReport(*row) for row in rows])
    if report.vectors:
        counted = connection.execute(
            sql.SQL(
                "SELECT coalesce(sum(texts - 1), 0)::bigint FROM (SELECT count(DISTINCT text_hash) AS texts FROM {}"
                " WHERE row_id >= %s GROUP BY md5({}(embedding))) AS vectors"
            ).format(chunk_table(space_id), sql.Identifier(f"{vector_type_of(connection, space_id)}_send")),
            [first_row_id],
        ).fetchone()
        report = dataclasses.replace(report, duplicates=counted[0] if counted else 0)
    write_quality(connection, report, client, run_id, space_id)
    return report


def run_reports(connection: psycopg.Connection, client: str, runs: int) -> list[dict[str, Any]]:
    """Reports of the newest runs, newest first.

    Of one that nobody has summed up, as a watcher's or one that was killed, the sum of its batches, with duplicates
    counted within them.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        newest = cursor.execute(
            "SELECT run_id, space_id, max(created_at) AS at FROM quality_reports"
            " WHERE client = %s AND run_id IS NOT NULL GROUP BY run_id, space_id ORDER BY at DESC LIMIT %s",
            [client, runs],
        ).fetchall()
        found = [(*run, _report_of(cursor, client, *run[:2])) for run in newest]
    return [
        {
            "created_at": at,
            "run_id": run_id,
            "space_id": space_id,
            **dataclasses.asdict(report),
            "quality_score": report.quality_score,
        }
        for run_id, space_id, at, report in found
    ]


def _report_of(cursor: psycopg.Cursor[Any], client: str, run_id: UUID, space_id: str) -> QualityReport:
    rows = cursor.execute(
        "SELECT scope, vectors, wrong_dimension, not_finite, zero, duplicates, norm_min, norm_mean, norm_max,"
        " norm_std FROM quality_reports WHERE run_id = %s AND client = %s AND space_id = %s",
        [run_id, client, space_id],
    ).fetchall()
    of_run = [QualityReport(*values) for scope, *values in rows if scope == "run"]
    return of_run[0] if of_run else merge_reports([QualityReport(*values) for _, *values in rows])

"""Reports on the quality of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Counts over a batch or a run of vectors.

    Args:
        vectors: looked at, bad ones included.
        wrong_dimension: vectors whose length is not the space's.
        not_finite: vectors with a NaN or an infinity.
        zero: finite vectors of length (norm) below 1e-6.
        duplicates: vectors equal to another vector that came from an unequal text.
        norm_min: over finite vectors, as are the other norms; 0.0 where there are none.
    """

    vectors: int
    wrong_dimension: int
    not_finite: int
    zero: int
    duplicates: int
    norm_min: float
    norm_mean: float
    norm_max: float
    norm_std: float

    @property
    def quality_score(self) -> float:
        """1 - zero_rate - duplicate_rate, where vectors that are not finite or have the wrong dimension
        count as zero vectors; 1.0 when there were no vectors. Between 0 and 1."""
        if self.vectors == 0:
            return 1.0
        bad = self.wrong_dimension + self.not_finite + self.zero + self.duplicates
        return max(0.0, 1.0 - bad / self.vectors)


@dataclass(frozen=True, slots=True)
class BatchReport:
    """The report of one batch.

    Args:
        batch: the same for the same documents as they were observed once, whoever embeds them again.
    """

    batch: bytes
    report: QualityReport


def merge_reports(reports: Sequence[QualityReport]) -> QualityReport:
    """One report over several; norms weighted by the number of vectors (pooled variance)."""
    total = sum(report.vectors for report in reports)
    finite = [report for report in reports if report.vectors > report.not_finite + report.wrong_dimension]
    weights = [report.vectors - report.not_finite - report.wrong_dimension for report in finite]
    weight = sum(weights)
    mean = sum(w * r.norm_mean for w, r in zip(weights, finite, strict=True)) / weight if weight else 0.0
    square = sum(w * (r.norm_std**2 + r.norm_mean**2) for w, r in zip(weights, finite, strict=True))
    return QualityReport(
        vectors=total,
        wrong_dimension=sum(report.wrong_dimension for report in reports),
        not_finite=sum(report.not_finite for report in reports),
        zero=sum(report.zero for report in reports),
        duplicates=sum(report.duplicates for report in reports),
        norm_min=min((report.norm_min for report in finite), default=0.0),
        norm_mean=mean,
        norm_max=max((report.norm_max for report in finite), default=0.0),
        norm_std=max(0.0, square / weight - mean**2) ** 0.5 if weight else 0.0,
    )

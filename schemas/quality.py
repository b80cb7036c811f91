"""Reports on the quality of vectors."""

from __future__ import annotations

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

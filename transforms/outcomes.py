"""Outcome counters, read by the driver after each bounded pipeline."""

from __future__ import annotations

from apache_beam.metrics import Metrics

from schemas.outcomes import Outcome
from transforms import progress

NAMESPACE = "headrace.outcomes"


def count(outcome: Outcome, records: int = 1) -> None:
    """Add to the counter of `outcome`; only inside a DoFn."""
    Metrics.counter(NAMESPACE, str(outcome)).inc(records)
    progress.add(documents=records)

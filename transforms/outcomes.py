"""Outcomes of records, counted for the driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from apache_beam.metrics import Metrics

from schemas.outcomes import Outcome
from transforms import progress
from transforms.postgres import Store
from transforms.runs import add_counts
from transforms.session_fn import SessionFn

NAMESPACE = "headrace.outcomes"


@dataclass(frozen=True, slots=True)
class OfRun:
    """Whose counts in Postgres a job adds to that has no end."""

    run_id: UUID
    source: str


class CountingFn(SessionFn):
    """A step whose outcomes are counted: in the runner's counters, read by the driver after a bounded pipeline.

    Args:
        kept: of a job without an end, whose outcomes are added to its run's at once. A bundle that is repeated counts
            what it did before as unchanged.
    """

    def __init__(self, store: Store, kept: OfRun | None = None) -> None:
        super().__init__(store)
        self._kept = kept

    def count(self, outcomes: Mapping[Outcome, int] | Mapping[str, int]) -> None:
        """Outcome -> records, what was done being durable."""
        counts = {str(outcome): records for outcome, records in outcomes.items()}
        for outcome, records in counts.items():
            Metrics.counter(NAMESPACE, outcome).inc(records)
            progress.add(documents=records)
        if self._kept is not None and counts:
            add = partial(add_counts, run_id=self._kept.run_id, source=self._kept.source, counts=counts)
            self._session.run(add)

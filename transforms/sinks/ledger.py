"""Beam steps that write what a run did: usage, quality and dead letters. The SQL is in the modules of those names."""

from __future__ import annotations

from functools import partial
from uuid import UUID

import apache_beam as beam

from schemas.documents import DeadLetter
from schemas.outcomes import Outcome
from schemas.quality import BatchReport
from schemas.usage import UsageEvent
from transforms.dead_letters import MAX_LETTER_BYTES, MAX_LETTERS, write_dead_letters
from transforms.outcomes import CountingFn, OfRun
from transforms.postgres import Store
from transforms.quality_reports import write_quality
from transforms.redact import redact_letter
from transforms.session_fn import SessionFn
from transforms.usage import write_usage


class WriteUsage(beam.PTransform):  # type: ignore[misc]
    """`PCollection[UsageEvent]` -> nothing; each event is written at once: it was paid for."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def expand(self, events: beam.PCollection[UsageEvent]) -> beam.PCollection[None]:
        return events | "Write" >> beam.ParDo(_WriteUsageFn(self._store))


class _WriteUsageFn(SessionFn):
    def process(self, event: UsageEvent) -> None:
        self._session.run(partial(write_usage, event=event))


class WriteQuality(beam.PTransform):  # type: ignore[misc]
    """`PCollection[BatchReport]` -> nothing."""

    def __init__(self, store: Store, client: str, run_id: UUID | None, space_id: str) -> None:
        super().__init__()
        self._fn = _WriteQualityFn(store, client, run_id, space_id)

    def expand(self, reports: beam.PCollection[BatchReport]) -> beam.PCollection[None]:
        return reports | "Write" >> beam.ParDo(self._fn)


class _WriteQualityFn(SessionFn):
    def __init__(self, store: Store, client: str, run_id: UUID | None, space_id: str) -> None:
        super().__init__(store)
        self._client = client
        self._run_id = run_id
        self._space_id = space_id

    def process(self, of_batch: BatchReport) -> None:
        self._session.run(
            partial(
                write_quality,
                report=of_batch.report,
                client=self._client,
                run_id=self._run_id,
                space_id=self._space_id,
                batch=of_batch.batch,
            )
        )


class WriteDeadLetters(beam.PTransform):  # type: ignore[misc]
    """`PCollection[DeadLetter]` -> nothing; each is counted as `dead_lettered`.

    Args:
        redacts: payloads before they are written.
        kept: as `CountingFn`.
    """

    def __init__(self, store: Store, redacts: bool = False, kept: OfRun | None = None) -> None:
        super().__init__()
        self._fn = _WriteLettersFn(store, redacts, kept)

    def expand(self, letters: beam.PCollection[DeadLetter]) -> beam.PCollection[None]:
        return letters | "Write" >> beam.ParDo(self._fn)


class _WriteLettersFn(CountingFn):
    def __init__(self, store: Store, redacts: bool, kept: OfRun | None) -> None:
        super().__init__(store, kept)
        self._redacts = redacts

    def start_bundle(self) -> None:
        self._gathered: list[DeadLetter] = []
        self._bytes = 0

    def process(self, letter: DeadLetter) -> None:
        self._gathered.append(redact_letter(letter) if self._redacts else letter)
        self._bytes += len(letter.record.payload)
        if len(self._gathered) >= MAX_LETTERS or self._bytes >= MAX_LETTER_BYTES:
            self._flush()

    def finish_bundle(self) -> None:
        self._flush()

    def _flush(self) -> None:
        letters, self._gathered, self._bytes = self._gathered, [], 0
        if letters:
            self._session.run(partial(write_dead_letters, letters=letters))
            self.count({Outcome.DEAD_LETTERED: len(letters)})

"""Following sources in a streaming job: each is polled by a splittable DoFn, its pages go through `ingest`.

A source is one restriction, whose state (`Place`) is in the runner's checkpoints. Between two rounds it is deferred,
so that one that waits takes no thread; within a round every few seconds, so that a bundle ends and a checkpoint can
be taken. A residual is scheduled when its bundle has succeeded, and a bundle holds all steps to the sinks (nothing is
shuffled): whatever a residual says was given is stored. So it is the next call that keeps the cursor in Postgres, for
a job that starts without a checkpoint, and that notes how the source stands. That asks less of a runner than the
finalization of bundles.

https://beam.apache.org/documentation/programming-guide/#splittable-dofns
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import psycopg
from apache_beam.coders import Coder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration, Timestamp

from extractors.base import Extractor, OnWait, Page, Stamped
from extractors.read import build_extractor
from extractors.rounds import Place
from pipelines.ingest import IngestJob, ingest
from schemas.documents import BEGINNING
from schemas.errors import PartUnread, RateLimited
from schemas.outcomes import SKIPPED_PREFIX
from schemas.sources import SourceSettings
from transforms import runs
from transforms.outcomes import CountingFn
from transforms.source_states import note_polled, one_line

NAMESPACE = "headrace.sources"
LAG = "lag_s"
BUNDLE_S = 5.0
"""A bundle takes no further page after so long: checkpoints wait for its end."""
LONGEST_WAIT_S = 10.0
"""That a source may wait for within a bundle; for longer the bundle ends."""

Build = Callable[[SourceSettings, str, Path, OnWait], Extractor]


class PlaceCoder(Coder):  # type: ignore[misc]
    """A place as JSON, which a job's next version can read."""

    def encode(self, value: Place) -> bytes:
        """As bytes."""
        return value.model_dump_json(exclude_defaults=True).encode()

    def decode(self, encoded: bytes) -> Place:
        """As it was."""
        return Place.model_validate_json(encoded)

    def is_deterministic(self) -> bool:
        """Whether equal values have equal bytes."""
        return True

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class PlaceTracker(RestrictionTracker):  # type: ignore[misc]
    """Follows a source from place to place, until it is told to leave the rest to a later bundle.

    A source is not divided: what is left is one residual.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._stopped = False

    def current_restriction(self) -> Place:
        """The place last claimed."""
        return self._place

    def try_claim(self, position: Place) -> bool:
        """Move on to a place, before what leads there is given; False when the rest is another bundle's."""
        if not self._stopped:
            self._place = position
        return not self._stopped

    def try_split(self, fraction_of_remainder: float) -> tuple[Place, Place] | None:
        """All that is left, where none of it is to be kept; else nothing."""
        if self._stopped or fraction_of_remainder > 0:
            return None
        self._stopped = True
        return self._place, self._place

    def check_done(self) -> None:
        """The rest was left to a later bundle.

        Raises:
            ValueError: a source has no end.
        """
        if not self._stopped:
            raise ValueError("a source that is followed has no end: its remainder must be deferred")

    def current_progress(self) -> RestrictionProgress:
        """Unknown: a source does not say how much is to come."""
        return RestrictionProgress(completed=0, remaining=1)

    def is_bounded(self) -> bool:
        """No."""
        return False


class PlaceProvider(RestrictionProvider):  # type: ignore[misc]
    """Every source begins at a place that knows nothing: the first call looks up what is stored."""

    def initial_restriction(self, element: bytes) -> Place:
        """As the class says."""
        return Place()

    def create_tracker(self, restriction: Place) -> PlaceTracker:
        """For a bundle."""
        return PlaceTracker(restriction)

    def restriction_size(self, element: bytes, restriction: Place) -> int:
        """A source is one piece of work."""
        return 1

    def restriction_coder(self) -> PlaceCoder:
        """JSON."""
        return PlaceCoder()


class _PutOff(Exception):
    """The source asks for a wait that is too long for a bundle."""

    def __init__(self, reason: str, wait_s: float) -> None:
        super().__init__(reason, wait_s)
        self.reason = reason
        self.wait_s = wait_s


TRACKER = beam.DoFn.RestrictionParam(PlaceProvider())
WATERMARK = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())


def _not_for_long(reason: str, wait_s: float) -> None:
    if wait_s > LONGEST_WAIT_S:
        raise _PutOff(reason, wait_s)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class PollFn(CountingFn):
    """Impulse -> pages of a source, without end.

    Args:
        data_dir: of the worker's machine: mirrors of repositories.
        build: makes the reader of the source.
        now: gives the time, UTC.
    """

    def __init__(
        self,
        job: IngestJob,
        data_dir: Path,
        build: Build = build_extractor,  # type: ignore[assignment]  # takes the union of all settings
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        super().__init__(job.store, job.kept)
        self._job = job
        self._processing = job.processing
        self._data_dir = data_dir
        self._build = build
        self._now = now
        self._lag = Metrics.gauge(NAMESPACE, LAG)

    def setup(self) -> None:
        super().setup()
        self._extractor: Extractor | None = None

    def teardown(self) -> None:
        self._close()
        super().teardown()

    @beam.DoFn.unbounded_per_element()  # type: ignore[untyped-decorator]
    def process(
        self,
        _impulse: bytes,
        tracker: Any = TRACKER,
        watermark: Any = WATERMARK,
    ) -> Generator[TimestampedValue]:
        place: Place = tracker.current_restriction()
        if place.processing != self._processing.hex():
            place = self._session.run(self._loaded)
        elif not place.noted:
            place = self._noted(place)
        if not tracker.try_claim(place):
            return
        now = self._now()
        if place.due_at is None or place.due_at <= now:
            place = yield from self._round(place.begun(now), tracker, watermark)
            if not tracker.try_claim(place):
                return
            if place.noted:  # nothing was given that a later step could lose
                self._noted(place)
            _advance(watermark, place)
        if place.complete_at is not None:
            self._lag.set(round((self._now() - place.complete_at).total_seconds()))
        tracker.defer_remainder(self._until(place))

    def _round(self, place: Place, tracker: Any, watermark: Any) -> Generator[TimestampedValue, None, Place]:
        """Give pages for a while; returns the place after them, which is not claimed yet."""
        interval_s = self._job.source.poll_interval_s
        began, enough_at = place, self._now() + timedelta(seconds=BUNDLE_S)
        try:
            stamp = self._stamp()
            if stamp is not None and stamp == place.stamp:
                return place.ended(self._now(), interval_s, stamp)
            pages = self._reader().pages(place.cursor)
        except Exception as error:
            return self._failed(place, error)
        while True:
            try:
                page = next(pages, None)
            except _PutOff as asked:
                return place.waits(self._now(), asked.reason, asked.wait_s)
            except PartUnread as error:
                return place.ended_in_part(self._now(), interval_s, one_line(error))
            except Exception as error:  # whatever it is, other sources go on
                return self._failed(place, error)
            if page is None:
                return place.ended(self._now(), interval_s, stamp)
            place = place.after(page)
            if not tracker.try_claim(place):
                return place
            self.count({f"{SKIPPED_PREFIX}{why}": records for why, records in page.skipped.items()})
            if page.read:
                yield TimestampedValue(page, _event_time(page, place, watermark))
            if self._now() >= enough_at and place.cursor != began.cursor:  # the next bundle begins elsewhere
                return place

    def _failed(self, place: Place, error: Exception) -> Place:
        """The reader is made anew next time: a changed secret is read again."""
        self._close()
        asked_s = error.retry_after_s if isinstance(error, RateLimited) else None
        return place.failed(self._now(), self._job.source.poll_interval_s, one_line(error), asked_s)

    def _until(self, place: Place) -> Duration:
        left_s = 0.0
        if place.noted and place.due_at is not None:
            left_s = max(0.0, (place.due_at - self._now()).total_seconds())
        return Duration(micros=round(left_s * 1e6))

    # The source

    def _reader(self) -> Extractor:
        if self._extractor is None:
            self._extractor = self._build(self._job.source, self._job.client, self._data_dir, _not_for_long)
        return self._extractor

    def _stamp(self) -> str | None:
        reader = self._reader()
        return reader.stamp() if isinstance(reader, Stamped) else None

    def _close(self) -> None:
        extractor, self._extractor = self._extractor, None
        if extractor is not None:
            with suppress(Exception):
                extractor.close()

    # Postgres

    def _loaded(self, connection: psycopg.Connection) -> Place:
        cursor = runs.load_cursor(
            connection, self._job.client, self._job.source.name, self._job.space.space_id, self._processing
        )
        return Place(processing=self._processing.hex(), cursor=None if cursor is None else dict(cursor))

    def _noted(self, place: Place) -> Place:
        """What was given is stored: keep that."""
        self._session.run(partial(self._note, place))
        return place.model_copy(update={"noted": True})

    def _note(self, place: Place, connection: psycopg.Connection) -> None:
        client, name, now = self._job.client, self._job.source.name, self._now()
        with connection.transaction():
            runs.keep_cursor(
                connection, client, name, self._job.space.space_id, self._processing, place.cursor
            )
            note_polled(
                connection,
                client,
                name,
                at=now,
                next_poll_at=place.due_at or now,
                success_at=place.complete_at,
                failures=place.failures,
                error=place.error,
                waiting_for=place.waiting_for,
            )


def _event_time(page: Page, place: Place, watermark: Any) -> Timestamp:
    """When the newest of its records changed: not before the watermark, not after the round began.

    What a search comes to know late is so not late for windows.
    """
    newest = max((record.updated_at for record in page.records), default=BEGINNING)
    latest = min(newest, place.began_at or newest)
    return max(_timestamp(latest), watermark.current_watermark() or MIN_TIMESTAMP)


def _advance(watermark: Any, place: Place) -> None:
    known = watermark.current_watermark() or MIN_TIMESTAMP
    reached = _timestamp(place.complete_at) if place.complete_at is not None else MIN_TIMESTAMP
    watermark.set_watermark(max(known, reached))


def _timestamp(moment: datetime) -> Timestamp:
    return Timestamp.of(moment.timestamp())


class FollowSource(beam.PTransform):  # type: ignore[misc]
    """The beginning of a pipeline -> nothing: all that a source has, and whatever changes in it, is stored."""

    def __init__(self, job: IngestJob, data_dir: Path) -> None:
        super().__init__()
        self._job = job
        self._data_dir = data_dir

    def expand(self, begin: beam.pvalue.PBegin) -> None:
        pages = begin | "Begin" >> beam.Impulse() | "Poll" >> beam.ParDo(PollFn(self._job, self._data_dir))
        ingest(pages, self._job)


def build(pipeline: beam.Pipeline, jobs: Sequence[IngestJob], data_dir: Path) -> None:
    """Wire the steps for sources, each with a branch of its own: one that is slow holds up no other."""
    for job in jobs:
        pipeline | job.source.name >> FollowSource(replace(job, endless=True), data_dir)

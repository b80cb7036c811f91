"""A source is followed from bundle to bundle: nothing is left out, whenever one is cut off, fails or is repeated."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from extractors.base import Cursor, Extractor, OnWait, Page
from extractors.rounds import Place
from pipelines import polls
from pipelines.ingest import IngestJob
from pipelines.polls import PlaceCoder, PlaceProvider, PlaceTracker, PollFn
from schemas.config import Cache, Chunking, Model, Privacy
from schemas.errors import AccessRefused, PartUnread, RateLimited
from schemas.sources import SourceSettings
from tests.runners.memory_source import MemorySource, configured
from transforms import runs
from transforms.embedders.models import space_of
from transforms.postgres import Store
from transforms.source_states import SourceState, load_states

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
INTERVAL_S = 60.0


@dataclass
class Clock:
    """Time passes when a test says so."""

    moment: datetime = START

    def now(self) -> datetime:
        return self.moment

    def pass_s(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


@dataclass
class Source:
    """A source in memory that may ask for waits, and counts how often it is asked.

    Args:
        waits_s: before its next page, which `on_wait` is told.
        raises: by its next page.
        page_s: that a page takes.
        moves: the cursor moves with each page.
    """

    memory: MemorySource
    clock: Clock
    name: str = "tickets"
    on_wait: OnWait = lambda reason, seconds: None
    waits_s: float | None = None
    raises: Exception | None = None
    page_s: float = 0
    moves: bool = False
    readings: int = 0
    closed: int = 0

    def pages(self, cursor: Cursor | None) -> Iterator[Page]:
        self.readings += 1
        for page in self.memory.pages(cursor):
            self.clock.pass_s(self.page_s)
            if self.waits_s is not None:
                seconds, self.waits_s = self.waits_s, None
                self.on_wait("tickets limits requests", seconds)
            if self.raises is not None:
                error, self.raises = self.raises, None
                raise error
            if self.moves and page.records:
                since = max(record.updated_at for record in page.records)
                page = replace(page, cursor={"since": since.isoformat()})
            yield page

    def estimate(self, cursor: Cursor | None) -> int | None:
        return None

    def close(self) -> None:
        self.closed += 1


@dataclass
class Following:
    """What a runner does: bundles, residuals in their coder, the watermark."""

    fn: PollFn
    clock: Clock
    residual: bytes = field(default_factory=lambda: PlaceCoder().encode(Place()))
    watermark: Timestamp | None = None
    given: list[tuple[str, Timestamp]] = field(default_factory=list)

    @property
    def place(self) -> Place:
        return PlaceCoder().decode(self.residual)

    def bundle(self, *, cut_after: int | None = None, fails: bool = False) -> float:
        """Run one; gives the seconds that the rest is put off.

        Args:
            cut_after: pages after which the runner takes back the rest.
            fails: a later step does, after all.
        """
        tracker = ThreadsafeRestrictionTracker(PlaceTracker(self.place))
        estimator = ThreadsafeWatermarkEstimator(ManualWatermarkEstimator(self.watermark))
        outputs: Iterator[TimestampedValue] = self.fn.process(b"", RestrictionTrackerView(tracker), estimator)
        given, taken_back = [], None
        for number, output in enumerate(outputs, 1):
            assert self.watermark is None or output.timestamp >= self.watermark, "late"
            given += [(record.native_id, output.timestamp) for record in output.value.records]
            if number == cut_after:
                _, taken_back = tracker.try_split(0)
        if fails:
            return 0.0
        self.given += given
        tracker.check_done()
        place, delay = (taken_back, None) if taken_back else tracker.deferred_status()
        self.residual = PlaceCoder().encode(place)
        self.watermark = estimator.get_estimator_state()
        return 0.0 if delay is None else max(0.0, round(delay.micros / 1e6, 1))  # less what this took

    def round(self) -> float:
        """Bundles until the rest is put off; seconds until the next round."""
        for _ in range(100):
            delay_s = self.bundle()
            if delay_s > 0:
                return delay_s
        raise AssertionError("the round does not end")

    def ids(self) -> list[str]:
        return [native_id for native_id, _ in self.given]


Follow = Callable[..., Following]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def source(clock: Clock) -> Source:
    memory = MemorySource(page_records=2)
    memory.now = START - timedelta(days=1)
    for number in range(5):
        memory.put(str(number), "gate")
    return Source(memory, clock)


@pytest.fixture
def job(database: Store) -> IngestJob:
    model = Model()
    return IngestJob(
        configured("tickets", INTERVAL_S),
        "acme",
        UUID(int=1),
        database,
        space_of(model),
        model,
        Chunking(),
        Cache(),
        Privacy(),
    )


@pytest.fixture
def follow(job: IngestJob, source: Source, clock: Clock, tmp_path: Path) -> Iterator[Follow]:
    """Begins to follow the source, as a job without a checkpoint does."""
    begun: list[PollFn] = []

    def build(settings: SourceSettings, client: str, data_dir: Path, on_wait: OnWait) -> Extractor:
        assert (settings.name, client, data_dir) == ("tickets", "acme", tmp_path)
        source.on_wait = on_wait
        return source

    def begin(with_job: IngestJob = job) -> Following:
        fn = PollFn(with_job, tmp_path, build, clock.now)
        fn.setup()
        begun.append(fn)
        return Following(fn, clock)

    yield begin
    for fn in begun:
        fn.teardown()


def _state(store: Store) -> SourceState:
    with store.connect() as connection:
        (state,) = load_states(connection, "acme")
    return state


def _stored_cursor(store: Store, job: IngestJob) -> Cursor | None:
    with store.connect() as connection:
        return runs.load_cursor(connection, "acme", "tickets", job.space.space_id, job.processing)


def test_rounds_begin_whole_intervals_apart_and_give_what_changed(
    follow: Follow, source: Source, clock: Clock
) -> None:
    following = follow()
    assert following.round() == INTERVAL_S
    assert following.ids() == ["0", "1", "2", "3", "4"]
    clock.pass_s(INTERVAL_S)
    following.given.clear()
    source.memory.put("7", "sluice")
    following.round()
    assert "7" in following.ids()
    assert source.readings == 2


def test_a_runner_that_comes_back_early_is_put_off_and_the_source_not_asked(
    follow: Follow, source: Source, clock: Clock
) -> None:
    following = follow()
    following.round()
    clock.pass_s(INTERVAL_S / 4)
    assert following.bundle() == INTERVAL_S * 3 / 4
    assert source.readings == 1


def test_the_cursor_is_kept_by_the_bundle_after_the_one_that_gave_what_is_before_it(
    follow: Follow, database: Store, job: IngestJob
) -> None:
    following = follow()
    assert following.bundle() == 0
    assert _stored_cursor(database, job) is None
    following.bundle()
    assert _stored_cursor(database, job) == following.place.cursor
    assert following.place.cursor is not None


def test_a_bundle_that_fails_is_given_again_and_moves_no_cursor(
    follow: Follow, database: Store, job: IngestJob
) -> None:
    following = follow()
    following.bundle(fails=True)
    following.bundle(fails=True)
    assert _stored_cursor(database, job) is None
    following.round()
    assert following.ids() == ["0", "1", "2", "3", "4"]


def test_a_job_without_a_checkpoint_goes_on_from_the_stored_cursor(
    follow: Follow, source: Source, clock: Clock
) -> None:
    follow().round()
    source.memory.put("7", "sluice")
    another = follow()
    another.round()
    assert another.ids() == ["4", "7"]  # the mark's own record again


def test_under_other_processing_a_place_is_worth_nothing(follow: Follow, job: IngestJob) -> None:
    following = follow()
    following.round()
    otherwise = follow(replace(job, chunking=Chunking(max_tokens=100)))
    otherwise.residual = following.residual
    otherwise.round()
    assert otherwise.ids() == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_what_the_runner_takes_back_is_the_rest(follow: Follow, pages: int) -> None:
    following = follow()
    following.bundle(cut_after=pages)
    following.round()
    assert sorted(set(following.ids())) == ["0", "1", "2", "3", "4"]


def test_a_long_round_is_several_bundles_and_the_cursor_is_kept_in_between(
    follow: Follow, source: Source, database: Store, job: IngestJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "BUNDLE_S", 1.0)
    source.page_s, source.moves = 1.0, True
    following = follow()
    assert following.bundle() == 0
    assert following.ids() == ["0", "1"]
    following.bundle()
    assert _stored_cursor(database, job) is not None
    assert following.place.complete_at is None
    following.round()
    assert list(dict.fromkeys(following.ids())) == ["0", "1", "2", "3", "4"]
    assert following.place.complete_at == START


def test_a_bundle_does_not_end_where_the_next_would_begin_as_it_did(
    follow: Follow, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "BUNDLE_S", 1.0)
    source.page_s = 1.0  # its cursor stays as it is after the first page, up to the last
    following = follow()
    following.bundle()
    following.bundle()
    assert following.ids() == ["0", "1", "0", "1", "2", "3", "4"]


def test_the_watermark_is_the_beginning_of_the_last_whole_round(
    follow: Follow, source: Source, clock: Clock
) -> None:
    following = follow()
    following.round()
    assert following.watermark == Timestamp.of(START.timestamp())
    source.raises = AccessRefused("no")
    clock.pass_s(INTERVAL_S)
    following.round()
    assert following.watermark == Timestamp.of(START.timestamp())


def test_pages_carry_the_time_of_their_newest_change_and_none_is_late(
    follow: Follow, source: Source, clock: Clock
) -> None:
    following = follow()
    following.round()
    assert [at for _, at in following.given][-1] == Timestamp.of(source.memory.now.timestamp())
    clock.pass_s(INTERVAL_S)
    source.memory.put("late", "a change of yesterday that the search did not know")
    following.given.clear()
    following.round()
    assert {at for _, at in following.given} == {Timestamp.of(START.timestamp())}


def test_a_limit_ends_the_bundle_instead_of_sleeping_in_it(
    follow: Follow, source: Source, clock: Clock, database: Store
) -> None:
    source.waits_s = 1800
    following = follow()
    assert following.round() == 1800
    state = _state(database)
    assert (state.condition(clock.now()), state.waiting_for) == ("waiting", "tickets limits requests")
    clock.pass_s(1801)
    following.round()
    assert following.ids() == ["0", "1", "2", "3", "4"]
    state = _state(database)
    assert (state.condition(clock.now()), state.last_success_at) == ("ok", START)


def test_a_short_wait_is_the_sources_own(follow: Follow, source: Source) -> None:
    source.waits_s = 2
    assert follow().round() == INTERVAL_S


def test_a_failing_source_is_asked_later_and_later_by_a_new_reader(
    follow: Follow, source: Source, clock: Clock, database: Store
) -> None:
    following = follow()
    for failures in range(1, 4):
        source.raises = AccessRefused("the token is refused")
        delay_s = following.round()
        assert INTERVAL_S <= delay_s <= INTERVAL_S * 2 ** (failures - 1)
        state = _state(database)
        assert (state.consecutive_failures, state.last_error) == (failures, "the token is refused")
        clock.pass_s(delay_s + 1)
    assert source.closed == 3
    following.round()
    state = _state(database)
    assert (state.consecutive_failures, state.last_error) == (0, None)
    assert following.ids() == ["0", "1", "2", "3", "4"]


def test_a_source_that_asks_for_a_pause_gets_it(follow: Follow, source: Source) -> None:
    source.raises = RateLimited("come back in two hours", 7200.0)
    assert follow().round() == 7200


def test_a_defect_in_a_reader_is_named_without_its_words(
    follow: Follow, source: Source, database: Store
) -> None:
    source.raises = ValueError("text of a record")
    follow().round()
    error = _state(database).last_error or ""
    assert error.startswith("unexpected ValueError in ")
    assert "record" not in error


def test_a_part_that_cannot_be_read_holds_up_the_watermark_alone(
    follow: Follow, source: Source, clock: Clock, database: Store
) -> None:
    following = follow()
    following.round()
    clock.pass_s(INTERVAL_S)
    source.raises = PartUnread("acme/weir: 403")
    assert following.round() == INTERVAL_S
    assert following.watermark == Timestamp.of(START.timestamp())
    assert _state(database).last_error == "acme/weir: 403"


def test_lag_is_the_age_of_the_last_whole_round(follow: Follow, clock: Clock, database: Store) -> None:
    following = follow()
    following.round()
    clock.pass_s(INTERVAL_S)
    following.round()
    state = _state(database)
    assert state.last_success_at == START + timedelta(seconds=INTERVAL_S)
    clock.pass_s(30)
    assert state.lag_s(clock.now()) == 30


class _Stamped(Source):
    value = "one"

    def stamp(self) -> str:
        return self.value


def test_a_source_whose_stamp_stays_is_not_read_again(
    job: IngestJob, source: Source, clock: Clock, tmp_path: Path
) -> None:
    stamped = _Stamped(source.memory, clock)
    fn = PollFn(job, tmp_path, lambda *_: stamped, clock.now)
    fn.setup()
    following = Following(fn, clock)
    for _ in range(3):
        following.round()
        clock.pass_s(INTERVAL_S)
    assert stamped.readings == 1
    stamped.value = "two"
    following.round()
    assert stamped.readings == 2
    fn.teardown()


def test_a_tracker_keeps_all_unless_it_is_to_keep_nothing() -> None:
    tracker = PlaceTracker(Place(processing="a"))
    assert tracker.try_split(0.5) is None
    assert tracker.try_claim(Place(processing="b"))
    with pytest.raises(ValueError, match="must be deferred"):
        tracker.check_done()
    assert tracker.try_split(0) == (Place(processing="b"), Place(processing="b"))
    assert not tracker.try_claim(Place(processing="c"))
    assert tracker.try_split(0) is None
    tracker.check_done()
    assert not tracker.is_bounded()


moments = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))
places = st.builds(
    Place,
    processing=st.text("0123456789abcdef", max_size=64),
    cursor=st.none() | st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
    stamp=st.none() | st.text(max_size=5),
    began_at=st.none() | moments,
    complete_at=st.none() | moments,
    due_at=st.none() | moments,
    failures=st.integers(0, 10),
    error=st.none() | st.text(max_size=10),
    waiting_for=st.none() | st.text(max_size=10),
    noted=st.booleans(),
)


@given(places)
def test_a_place_survives_a_checkpoint(place: Place) -> None:
    coder = PlaceProvider().restriction_coder()
    assert coder.decode(coder.encode(place)) == place
    assert pickle.loads(pickle.dumps(coder)) == coder


def test_a_place_of_a_later_version_can_be_read() -> None:
    assert PlaceCoder().decode(b'{"processing": "ab", "from_the_future": [1]}') == Place(processing="ab")


def test_what_a_source_passes_over_is_counted_with_the_run_of_a_job_without_end(
    follow: Follow, job: IngestJob, source: Source, database: Store
) -> None:
    class PassesOver(MemorySource):
        def pages(self, cursor: Cursor | None) -> Iterator[Page]:
            yield Page(skipped={"no text": 2}, cursor={"since": START.isoformat()})

    source.memory = PassesOver()
    with database.connect() as connection:
        runs.start_run(connection, job.run_id, job.client, job.space.space_id)
        follow(replace(job, endless=True)).round()
        assert runs.counts_of_run(connection, job.run_id) == {"tickets": {"skipped:no text": 2}}

"""What happens on the thread that reads a source for a watcher. It only reads: its finds go to the main thread."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import psycopg

from extractors.base import Extractor, Page, Stamped, Verifiable
from pipelines.reconcile import SourceReport, reconcile
from runners.deliveries import process_deliveries
from runners.parking import parked_pages
from runners.slices import BuildExtractor, Slice, cut, job_for
from schemas.config import Config, Slices
from schemas.errors import SetupError
from schemas.sources import Source
from schemas.spaces import EmbeddingSpace
from transforms import runs
from transforms.postgres import Store
from transforms.source_states import Work


@dataclass(eq=False)
class Watched:
    """A source between its looks.

    Args:
        extractor: made by the first look, and anew after a failure: a changed secret is read again.
        stamp: of what was read completely; None where the source has no stamp.
        said: the failure that was said last.
    """

    source: Source
    client: str
    next_poll_at: datetime
    next_reconcile_at: datetime
    extractor: Extractor | None = None
    stamp: str | None = None
    look: Look | None = None
    failures: int = 0
    said: dict[Work, str] = field(default_factory=dict)
    lost: list[threading.Thread] = field(default_factory=list)


@dataclass(eq=False)
class Look:
    """One poll, reconciliation or processing of deliveries, going on.

    Args:
        heard_s: when the source last gave anything, or the end of the wait that it asked for; monotonic.
        storing: the reader waits for the main thread, not for its source.
        recorded: the run has a row, since it found something to do.
    """

    watched: Watched
    work: Work
    started_at: datetime
    heard_s: float
    run_id: UUID = field(default_factory=uuid4)
    storing: bool = False
    recorded: bool = False
    outcomes: Counter[str] = field(default_factory=Counter)
    stored: queue.Queue[Exception | None] = field(default_factory=queue.Queue)
    thread: threading.Thread | None = None

    def give_sign(self) -> None:
        """The source gave something."""
        self.heard_s = time.monotonic()


@dataclass(frozen=True)
class Given:
    """A slice to be stored; its cursor is kept if it is a poll's."""

    look: Look
    piece: Slice
    is_poll: bool


@dataclass(frozen=True)
class Waits:
    """The source makes its reader wait."""

    watched: Watched
    reason: str
    until: datetime


@dataclass(frozen=True)
class Ended:
    """All that was given is stored, or `error` ended the look."""

    look: Look
    error: BaseException | None


Event = Given | Waits | Ended


class Reader:
    """Reads sources, each look on the thread that calls `read`.

    Args:
        events: to the main thread.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        space: EmbeddingSpace,
        build: BuildExtractor,
        events: queue.Queue[Event],
    ) -> None:
        self._config = config
        self._store = store
        self._space = space
        self._build = build
        self._events = events
        self._limits = shared(config.slices, len(config.sources))

    def read(self, look: Look) -> None:
        """Do all of a look; it never raises, its last event says how it ended."""
        error: BaseException | None = None
        try:
            with self._store.connect() as connection:
                watched = look.watched
                if watched.extractor is None:
                    build_for = (watched.source, self._config.client, self._config.data_dir)
                    watched.extractor = self._build(*build_for, partial(self._waits, watched))
                match look.work:
                    case "poll":
                        self._poll(look, connection, watched.extractor)
                    case "deliveries":
                        self._process_deliveries(look, connection, watched.extractor)
                    case "reconcile":
                        self._reconcile(look, connection, watched.extractor)
                job = job_for(self._config, watched.source, self._store, self._space, look.run_id)
                self._give(look, parked_pages(connection, job), is_poll=False)
        except BaseException as caught:  # whatever it is, the others go on
            error = caught
        self._events.put(Ended(look, error))

    def _poll(self, look: Look, connection: psycopg.Connection, extractor: Extractor) -> None:
        watched = look.watched
        stamp = extractor.stamp() if isinstance(extractor, Stamped) else None
        if stamp is not None and stamp == watched.stamp:
            return
        job = job_for(self._config, watched.source, self._store, self._space, look.run_id)
        cursor = runs.load_cursor(
            connection, watched.client, watched.source.name, self._space.space_id, job.processing
        )
        self._give(look, extractor.pages(cursor), is_poll=True)
        watched.stamp = stamp

    def _process_deliveries(self, look: Look, connection: psycopg.Connection, extractor: Extractor) -> None:
        process_deliveries(
            connection,
            look.watched.client,
            look.watched.source.name,
            extractor,
            ingest=lambda pages: self._give(look, pages, is_poll=False),
            poll=lambda: self._poll(look, connection, extractor),
        )

    def _reconcile(self, look: Look, connection: psycopg.Connection, extractor: Extractor) -> None:
        if not isinstance(extractor, Verifiable):
            return
        report = SourceReport(look.watched.source.name, look.watched.client)
        found = reconcile(
            connection, extractor, report, self._config.reconcile.max_share, heard=look.give_sign
        )
        self._give(look, found, is_poll=False)
        if report.refused:
            raise SetupError(report.refused)

    def _give(self, look: Look, pages: Iterable[Page], *, is_poll: bool) -> None:
        """Hand pages to the main thread, a slice at a time; returns when all are stored.

        Raises:
            Exception: as storing did.
        """
        for piece in cut(_heard(pages, look), self._limits):
            look.storing = True
            self._events.put(Given(look, piece, is_poll))
            error = look.stored.get()
            look.storing = False
            look.give_sign()
            if error is not None:
                raise error

    def _waits(self, watched: Watched, reason: str, duration_s: float) -> None:
        if watched.look is not None:
            watched.look.heard_s = time.monotonic() + duration_s
        until = datetime.now(UTC) + timedelta(seconds=duration_s)
        self._events.put(Waits(watched, reason, until))


def shared(limits: Slices, sources: int) -> Slices:
    """The limits of each source's slices, so that all together stay within those of one."""
    return Slices(
        max_documents=max(1, limits.max_documents // sources),
        max_payload_mib=max(1, limits.max_payload_mib // sources),
    )


def _heard(pages: Iterable[Page], look: Look) -> Iterator[Page]:
    for page in pages:
        look.give_sign()
        yield page

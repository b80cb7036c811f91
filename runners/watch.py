"""Keep the index true for as long as it is asked to.

Each source is read on a thread of its own, so that one that waits for a rate limit, or hangs, holds up no other. The
threads only read: whatever they find they hand to the main thread, a slice at a time, and wait until it is stored.
So there is one pipeline at a time, on the thread that Ctrl-C interrupts, and memory holds at most a slice of each
source; the slices share the limits of one.

A poll that finds something to do is a run of its own; one that finds nothing leaves its cursor and its state.

Polls may be a streaming job's instead; all else stays here.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from typing import assert_never

import psycopg

from extractors.base import Verifiable
from extractors.read import build_extractor
from extractors.schedule import after_success, back_off_s
from runners.reading import Ended, Event, Given, Look, Reader, Waits, Watched
from runners.refresh import Refresher
from runners.slices import (
    BuildExtractor,
    check_ready,
    job_for,
    needs_work,
    owner_of,
    owners,
    register_clients,
    store_pages,
    store_slice,
    wrote,
)
from schemas.config import Config
from schemas.errors import (
    DatabaseUnreachable,
    PartUnread,
    PipelineError,
    RateLimited,
    RetryableError,
    SourceTimeout,
)
from schemas.outcomes import Outcome
from schemas.sources import Source
from transforms import runs
from transforms.dead_letters import count_parked
from transforms.deliveries import pending
from transforms.embedders.models import space_of
from transforms.postgres import Store, open_store
from transforms.source_states import (
    STUCK_AFTER_S,
    Work,
    load_states,
    note_begun,
    note_ended,
    note_heard,
    note_left,
    note_waiting,
    one_line,
)

TICK_S = 0.5
"""Longest that the main thread waits before it looks what is due, deliveries of webhooks included."""
HEARD_EVERY_S = 30.0
END_S = 5.0
"""After the time to watch is over, what is being read has so long to be stored."""
RECONCILE_AGAIN_S = 3600.0
"""After a failed reconciliation, unless the interval is shorter."""
MAX_LOST_THREADS = 3
"""Threads of a source that hang and were given up; with so many it is left alone."""

Say = Callable[[str], None]
News = Callable[[], list[str]]
"""What polls elsewhere changed since they were asked last, a line for each source. Raises when they have ended."""
OpenPolls = Callable[[psycopg.Connection, Store], AbstractContextManager[News]]
"""Begins polls elsewhere, under the lock that the connection holds, and ends them."""


def watch(
    config: Config,
    say: Say,
    *,
    duration_s: float | None = None,
    build: BuildExtractor = build_extractor,
    polls: OpenPolls | None = None,
) -> None:
    """Follow every configured source until interrupted.

    Args:
        say: tells a person of changes, failures and recoveries, a line each.
        duration_s: end by itself after so long.
        build: makes the reader of a source.
        polls: elsewhere; None for polls by threads of this process.
    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; what was stored is consistent, and the runs that went on are noted.
        SetupError: nothing can be watched: no source, no model, no database, another writer of this client.
    """
    check_ready(config)
    deadline_s = None if duration_s is None else time.monotonic() + duration_s
    outages = 0
    say(f"watching {', '.join(source.name for source in config.sources)}")
    while deadline_s is None or time.monotonic() < deadline_s:
        try:
            store = open_store(config)
            with (
                store.connect() as connection,
                runs.only_writer(connection, config.client),
                polls(connection, store) if polls else nullcontext() as news,
            ):
                outages = 0
                _Watch(config, connection, store, say, build, news).until(deadline_s)
                return
        except (
            psycopg.OperationalError,
            psycopg.InterfaceError,
            DatabaseUnreachable,
            RetryableError,
        ) as error:
            if outages == 0 and isinstance(error, DatabaseUnreachable):
                raise  # there never was one
            outages += 1
            wait_s = back_off_s(outages, 1.0)
            what = one_line(error) if isinstance(error, RetryableError) else "the database failed"
            say(f"{what} ({type(error).__name__}): trying again in {wait_s:,.0f} s")
            time.sleep(wait_s)


class _Watch:
    """Watching over one connection to the database, which holds the client's lock."""

    def __init__(
        self,
        config: Config,
        connection: psycopg.Connection,
        store: Store,
        say: Say,
        build: BuildExtractor,
        news: News | None,
    ) -> None:
        self._config = config
        self._connection = connection
        self._store = store
        self._say = say
        self._news = news
        self._space = space_of(config.model)
        self._events: queue.Queue[Event] = queue.Queue()
        self._reader = Reader(config, store, self._space, build, self._events)
        register_clients(connection, config, self._space)
        self._watched = [self._restored(source) for source in config.sources]
        self._noted_s = time.monotonic()
        self._indexes = Refresher(config, connection, self._space, say)

    def _restored(self, source: Source) -> Watched:
        client, now = owner_of(self._config, source), datetime.now(UTC)
        known = {state.source: state for state in load_states(self._connection, client)}.get(source.name)
        reconciled_at = known.last_reconciled_at if known else None
        due_at = reconciled_at + timedelta(hours=self._config.reconcile.interval_h) if reconciled_at else now
        return Watched(source, client, next_poll_at=now, next_reconcile_at=due_at)

    def until(self, deadline_s: float | None) -> None:
        """Watch until the deadline, or for ever."""
        try:
            while deadline_s is None or time.monotonic() < deadline_s:
                self._begin_what_is_due()
                self._handle_events(self._next_event_in_s(deadline_s))
                self._look_after()
            end_s = time.monotonic() + END_S
            while any(watched.look for watched in self._watched) and time.monotonic() < end_s:
                self._handle_events(TICK_S)
            if self._indexes.lacks:
                self._refresh()
        finally:
            self._leave()

    # What is due

    def _begin_what_is_due(self) -> None:
        now = datetime.now(UTC)
        for watched in self._watched:
            if watched.look is None and (work := self._due(watched, now)) is not None:
                self._begin(watched, work, now)

    def _due(self, watched: Watched, now: datetime) -> Work | None:
        watched.lost = [thread for thread in watched.lost if thread.is_alive()]
        if len(watched.lost) >= MAX_LOST_THREADS:
            return None
        extractor = watched.extractor
        if (extractor is not None and not watched.failures) or self._news is not None:
            if pending(self._connection, watched.client, watched.source.name, 1):
                return "deliveries"
            verifiable = (
                isinstance(extractor, Verifiable) if extractor is not None else self._was_read(watched)
            )
            if watched.next_reconcile_at <= now and verifiable:
                return "reconcile"
        if watched.next_poll_at > now:
            return None
        if self._news is None:
            return "poll"
        watched.next_poll_at = now + timedelta(seconds=watched.source.poll_interval_s)
        has_parked = count_parked(self._connection, watched.client)
        return "deliveries" if has_parked else None  # what is parked comes after them

    def _was_read(self, watched: Watched) -> bool:
        states = load_states(self._connection, watched.client)
        return any(state.source == watched.source.name and state.last_success_at for state in states)

    def _begin(self, watched: Watched, work: Work, now: datetime) -> None:
        note_begun(self._connection, watched.client, watched.source.name, work, now)
        watched.look = look = Look(watched, work, now, time.monotonic())
        look.thread = threading.Thread(
            target=self._reader.read, args=[look], name=f"{work} {watched.source.name}", daemon=True
        )
        look.thread.start()

    def _next_event_in_s(self, deadline_s: float | None) -> float:
        now, now_s = datetime.now(UTC), time.monotonic()
        polled = [] if self._news is not None else self._watched
        idle = [watched.next_poll_at for watched in polled if watched.look is None]
        waits = [TICK_S, *((at - now).total_seconds() for at in idle)]
        if deadline_s is not None:
            waits.append(deadline_s - now_s)
        return max(0.001, min(waits))

    # On the main thread

    def _handle_events(self, timeout_s: float) -> None:
        try:
            event = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return
        match event:
            case Given():
                self._handle_given(event)
            case Ended():
                self._handle_ended(event.look, event.error)
            case Waits(watched, reason, until):
                self._say(f"{watched.source.name}: waiting until {until:%H:%M:%S} UTC: {reason}")
                note_waiting(self._connection, watched.client, watched.source.name, reason, until)
            case _:
                assert_never(event)

    def _handle_given(self, given: Given) -> None:
        look = given.look
        if look.watched.look is not look:
            look.stored.put(SourceTimeout("given up meanwhile"))
            return
        try:
            self._store_given(given)
        except (psycopg.OperationalError, psycopg.InterfaceError):
            raise  # of the connection that holds the lock
        except Exception as error:
            self._indexes.note_change()  # a part may have been stored
            look.stored.put(error)
        else:
            look.stored.put(None)

    def _store_given(self, given: Given) -> None:
        look, piece = given.look, given.piece
        watched = look.watched
        job = job_for(self._config, watched.source, self._store, self._space, look.run_id)
        if not needs_work(self._connection, job, piece.pages):
            if given.is_poll:
                runs.keep_cursor(
                    self._connection,
                    watched.client,
                    watched.source.name,
                    self._space.space_id,
                    job.processing,
                    piece.cursor,
                )
            return
        if not look.recorded:
            runs.start_run(self._connection, look.run_id, self._config.client, self._space.space_id)
            look.recorded = True
        if given.is_poll:
            outcomes = store_slice(self._connection, job, piece)
        else:
            outcomes = store_pages(self._connection, job, piece.pages)
        look.outcomes += outcomes
        if wrote(outcomes):
            self._indexes.note_change()

    def _handle_ended(self, look: Look, error: BaseException | None) -> None:
        watched = look.watched
        if watched.look is not look:
            return
        watched.look = None
        now, interval_s = datetime.now(UTC), watched.source.poll_interval_s
        if look.recorded and error is None:
            runs.finish_run(self._connection, look.run_id, "done")
        elif look.recorded and error is not None:
            runs.finish_quietly(self._connection, look.run_id, error)
        if look.work == "poll":
            if error is None or isinstance(error, PartUnread):  # the source itself spares that part
                watched.failures = 0
                watched.next_poll_at = after_success(look.started_at, now, interval_s)
            else:
                watched.failures += 1
                _close(watched)
                asked_s = error.retry_after_s if isinstance(error, RateLimited) else None
                watched.next_poll_at = now + timedelta(
                    seconds=back_off_s(watched.failures, interval_s, asked_s)
                )
        elif look.work == "reconcile":
            pause_s = self._config.reconcile.interval_h * 3600
            pause_s = min(pause_s, RECONCILE_AGAIN_S) if error else pause_s
            watched.next_reconcile_at = now + timedelta(seconds=pause_s)
        next_poll_at = watched.next_poll_at if self._news is None else None
        note_ended(self._connection, watched.client, watched.source.name, look.work, error, next_poll_at)
        self._tell(look, error, now)

    def _tell(self, look: Look, error: BaseException | None, now: datetime) -> None:
        name, said = look.watched.source.name, look.watched.said
        what = "" if look.work == "poll" else f" ({look.work})"
        if error is not None:
            reason = one_line(error)
            if said.get(look.work) != reason:
                self._say(f"{name}{what}: {reason}")
            said[look.work] = reason
            return
        if said.pop(look.work, None) is not None:
            self._say(f"{name}{what}: well again")
        changed = [
            f"{look.outcomes[outcome]:,} {outcome.replace('_', '-')}"
            for outcome in (Outcome.NEW, Outcome.CHANGED, Outcome.DELETED, Outcome.DEAD_LETTERED)
            if look.outcomes[outcome]
        ]
        if changed:
            duration_s = (now - look.started_at).total_seconds()
            self._say(f"{name}{what}: {', '.join(changed)} in {duration_s:,.1f} s")

    # In between

    def _look_after(self) -> None:
        for line in self._news() if self._news else ():
            self._say(line)
            self._indexes.note_change()
        now_s = time.monotonic()
        for watched in self._watched:
            look = watched.look
            if look is not None and not look.storing and now_s - look.heard_s > STUCK_AFTER_S:
                self._give_up(look)
        if now_s - self._noted_s > HEARD_EVERY_S:
            self._noted_s = now_s
            self._note_heard(now_s)
        if self._indexes.is_due():
            self._refresh()

    def _give_up(self, look: Look) -> None:
        if look.thread is not None:
            look.watched.lost.append(look.thread)
        name = look.watched.source.name
        silent = SourceTimeout(f"source {name!r} gave nothing for {STUCK_AFTER_S / 60:.0f} minutes: given up")
        _close(look.watched)
        self._handle_ended(look, silent)

    def _note_heard(self, now_s: float) -> None:
        for watched in self._watched:
            if watched.look is not None:
                ago = timedelta(seconds=now_s - min(watched.look.heard_s, now_s))
                note_heard(self._connection, watched.client, watched.source.name, datetime.now(UTC) - ago)

    def _refresh(self) -> None:
        self._indexes.refresh(idle=not any(watched.look for watched in self._watched))

    def _leave(self) -> None:
        """Note what is cut off; the threads that read go with the process.

        Over a connection of its own: a signal may have come in the middle of a command of the other.
        """
        with suppress(psycopg.Error, PipelineError), self._store.connect() as connection:
            for watched in self._watched:
                if watched.look is not None and watched.look.recorded:
                    runs.finish_run(connection, watched.look.run_id, "interrupted")
                watched.look = None
                _close(watched)
            for client in owners(self._config):
                names = [watched.source.name for watched in self._watched if watched.client == client]
                note_left(connection, client, names)


def _close(watched: Watched) -> None:
    """Let go of a source's reader; where a thread hangs in it, that may end it."""
    extractor, watched.extractor = watched.extractor, None
    if extractor is not None:
        with suppress(Exception):
            extractor.close()

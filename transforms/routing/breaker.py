"""Circuit breakers of endpoints. The rules are pybreaker's; the state is in Postgres, where all workers see it.

A worker counts failures for itself and writes only when a breaker opens or closes. One that was opened is tried with
canaries by one worker at a time. The first time that may be at once, since a batch that no endpoint can compute opens
it, too; from then on the pauses double.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import psycopg
from pybreaker import (
    STATE_CLOSED,
    STATE_HALF_OPEN,
    STATE_OPEN,
    CircuitBreaker,
    CircuitBreakerError,
    CircuitBreakerStorage,
)

from transforms.routing.session import SharedSession

FAILURES = 5
"""In a row, after which an endpoint is in doubt."""
FIRST_PAUSE_S = 15.0
LONGEST_PAUSE_S = 600.0
REFUSED_PAUSE_S = 300.0
"""For what only a person can change: a key, an address, an account without credit."""
DIFFERS_PAUSE_S = 3600.0
"""For an endpoint with other vectors."""
TRY_S = 120.0
"""Longest that a worker may take to try an endpoint, before another one does."""
STALE_AFTER_S = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EndpointState:
    """How an endpoint's breaker stands.

    Args:
        openings: in a row, without an answer in between.
        retry_at: not asked before; while half-open, until when the worker that tries it may take.
        reason: why it was opened; empty while it is closed.
    """

    state: str = STATE_CLOSED
    openings: int = 0
    retry_at: datetime | None = None
    reason: str = ""


CLOSED = EndpointState()


def pause_s(openings: int) -> float:
    """How long an endpoint rests when it is opened for the so many-th time in a row."""
    if openings <= 1:
        return 0.0
    return min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(openings - 2, 16))


def load_states(connection: psycopg.Connection) -> dict[str, EndpointState]:
    """States of all endpoints that ever failed, by integration."""
    rows = connection.execute("SELECT integration, state, openings, retry_at, reason FROM endpoint_states")
    return {
        name: EndpointState(state, openings, at, reason or "") for name, state, openings, at, reason in rows
    }


_WRITE = """
INSERT INTO endpoint_states AS known (integration, state, openings, retry_at, reason, changed_at)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (integration) DO UPDATE SET
    state = EXCLUDED.state, openings = EXCLUDED.openings, retry_at = EXCLUDED.retry_at, reason = EXCLUDED.reason,
    changed_at = EXCLUDED.changed_at
"""


class SharedStates:
    """The table `endpoint_states`, read at most once a second however many requests are made.

    Args:
        now: gives the time, UTC.
        clock_s: monotonic seconds.
    Raises:
        SinkUnavailable: of every method: Postgres cannot be reached.
    """

    def __init__(
        self,
        session: SharedSession,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self.now = now
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._states: dict[str, EndpointState] = {}
        self._read_s: float | None = None

    def of(self, integration: str) -> EndpointState:
        """State of an endpoint, a second old at most."""
        with self._lock:
            if self._read_s is None or self._clock_s() - self._read_s >= STALE_AFTER_S:
                self._states = self._session.run(load_states)
                self._read_s = self._clock_s()
            return self._states.get(integration, CLOSED)

    def open(self, integration: str, reason: str, rest_s: float | None) -> None:
        """Nobody asks it for `rest_s`, or as long as it rests after so many openings."""
        with self._lock:
            openings = self._states.get(integration, CLOSED).openings + 1
            due = self.now() + timedelta(seconds=pause_s(openings) if rest_s is None else rest_s)
            self._write(integration, EndpointState(STATE_OPEN, openings, due, reason))

    def claim(self, integration: str) -> bool:
        """Whether this worker may try an endpoint whose pause is over: it alone, for a while."""
        with self._lock:
            now = self.now()
            until = now + timedelta(seconds=TRY_S)
            row = self._session.run(
                lambda connection: connection.execute(
                    "UPDATE endpoint_states SET state = 'half-open', retry_at = %s, changed_at = %s"
                    " WHERE integration = %s AND state <> 'closed' AND retry_at <= %s RETURNING openings, reason",
                    [until, now, integration, now],
                ).fetchone()
            )
            self._read_s = None
            if row is not None:
                self._states[integration] = EndpointState(STATE_HALF_OPEN, row[0], until, row[1] or "")
            return row is not None

    def close(self, integration: str) -> None:
        """It answers again."""
        with self._lock:
            self._write(integration, CLOSED)

    def _write(self, integration: str, state: EndpointState) -> None:
        row = (integration, state.state, state.openings, state.retry_at, state.reason or None, self.now())
        self._session.run(lambda connection: connection.execute(_WRITE, row))
        self._states[integration] = state


class _Storage(CircuitBreakerStorage):
    """What pybreaker keeps: counters here, the state with all workers."""

    def __init__(self, states: SharedStates, integration: str) -> None:
        super().__init__("postgres")
        self._states = states
        self._integration = integration
        self._failures = self._successes = 0
        self._trying = False
        self.reason = ""
        self.rest_s: float | None = None

    @property
    def state(self) -> str:
        state = self._states.of(self._integration).state
        return STATE_OPEN if state == STATE_HALF_OPEN and not self._trying else state

    @state.setter
    def state(self, state: str) -> None:
        if state == STATE_HALF_OPEN:
            if not self._states.claim(self._integration):
                raise CircuitBreakerError("another worker tries it")
            self._trying = True
            return
        self._trying = False
        if state == STATE_OPEN:
            self._states.open(self._integration, self.reason, self.rest_s)
        else:
            self._states.close(self._integration)

    @property
    def opened_at(self) -> datetime | None:
        """None once its pause is over, however long that was: pybreaker knows pauses of one length only."""
        due = self._states.of(self._integration).retry_at
        return None if due is None or self._states.now() >= due else datetime.now(UTC)

    @opened_at.setter
    def opened_at(self, opened_at: datetime) -> None:
        """Kept with the state."""

    @property
    def counter(self) -> int:
        return self._failures

    def increment_counter(self) -> None:
        self._failures += 1

    def reset_counter(self) -> None:
        self._failures = 0

    @property
    def success_counter(self) -> int:
        return self._successes

    def increment_success_counter(self) -> None:
        self._successes += 1

    def reset_success_counter(self) -> None:
        self._successes = 0


class EndpointBreaker:
    """The breaker of one endpoint. Requests are made outside of it, and their outcome is told to it.

    Args:
        integration: name of the endpoint.
    """

    def __init__(self, states: SharedStates, integration: str) -> None:
        self._states = states
        self._integration = integration
        self._storage = _Storage(states, integration)
        self._breaker = CircuitBreaker(
            fail_max=FAILURES, state_storage=self._storage, throw_new_error_on_trip=False, name=integration
        )
        self._lock = threading.RLock()  # reason and rest go with the call they are for

    @property
    def is_closed(self) -> bool:
        """Whether it may be asked without being tried first."""
        return bool(self._breaker.current_state == STATE_CLOSED)

    @property
    def reason(self) -> str:
        """Why it is not closed."""
        return self._states.of(self._integration).reason

    @property
    def due_in_s(self) -> float:
        """Seconds until it may be tried, or until the worker that tries it must be done."""
        due = self._states.of(self._integration).retry_at
        return 0.0 if due is None else max(0.0, (due - self._states.now()).total_seconds())

    @property
    def is_tried(self) -> bool:
        """Whether some worker is trying it now."""
        return self._states.of(self._integration).state == STATE_HALF_OPEN

    def note_answer(self) -> None:
        """A request was answered."""
        if self.is_closed:
            self._breaker.call(_nothing)

    def note_failure(self, error: Exception) -> None:
        """A request failed in a way that may pass; the fifth in a row opens it."""
        if not self.is_closed:
            return
        with self._lock:
            self._storage.reason, self._storage.rest_s = str(error), None
            with suppress(type(error), CircuitBreakerError):
                self._breaker.call(_raise, error)

    def refuse(self, reason: str, rest_s: float) -> None:
        """Open it at once, and say so."""
        if not self.is_closed:
            return
        _log.warning("%s is not asked for %.0f s: %s", self._integration, rest_s, reason)
        with self._lock:
            self._storage.reason, self._storage.rest_s = reason, rest_s
            self._breaker.open()

    def attempt(self, trial: Callable[[], None], rest_s: Callable[[Exception], float | None]) -> bool:
        """Try an opened endpoint if its pause is over and no other worker does; whether it was tried.

        Args:
            rest_s: for how long it is left alone after a failure of the trial; None leaves that to the breaker.
        Raises:
            Exception: as `trial` did; the breaker is open again.
        """

        def tried() -> None:
            try:
                trial()
            except Exception as error:
                self._storage.reason, self._storage.rest_s = str(error), rest_s(error)
                raise

        with self._lock:
            try:
                self._breaker.call(tried)
            except CircuitBreakerError:
                return False
        _log.warning("%s answers again", self._integration)
        return True


def _nothing() -> None:
    return None


def _raise(error: Exception) -> NoReturn:
    raise error

"""How many requests an endpoint is given at once, and when the next: learnt from its 429s."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tenacity import RetryCallState, Retrying, wait_random_exponential

LONGEST_UNTOLD_S = 30.0
"""After a 429 that does not say for how long."""
LONGEST_ADDED_S = 2.0
"""To the wait that a far end asks for again and again, be it none at all."""
STEP_S = 0.05
"""Between two looks whether there is room."""


class Gate:
    """Lets so many requests through at once. A 429 halves that and closes it for a while; answers open it again.

    Args:
        most: requests at once.
        clock_s: monotonic seconds.
    """

    def __init__(self, most: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._width = float(most)
        self._under_way = 0
        self._opens_s = 0.0
        self._limited_in_a_row = 0

    @property
    def width(self) -> int:
        """Requests that may be under way now."""
        return int(self._width)

    def closed_for_s(self) -> float:
        """Seconds until it lets anything through; 0 when it does."""
        with self._lock:
            return max(0.0, self._opens_s - self._clock_s())

    @contextmanager
    def passing(self, pause: Callable[[float], None]) -> Iterator[None]:
        """Wait until there is room, then take it.

        Args:
            pause: waits for so many seconds; what it raises passes through.
        """
        while not self._enter():
            pause(STEP_S)
        try:
            yield
        finally:
            with self._lock:
                self._under_way -= 1

    def _enter(self) -> bool:
        with self._lock:
            if self._under_way >= int(self._width):
                return False
            self._under_way += 1
            return True

    def note_answer(self) -> None:
        """A request was answered: one more at once for every round of them."""
        with self._lock:
            self._limited_in_a_row = 0
            self._width = min(self._most, self._width + 1 / self._width)

    def note_limited(self, retry_after_s: float | None) -> float:
        """A request met a rate limit; gives the seconds until the next may be made."""
        with self._lock:
            now_s = self._clock_s()
            if self._opens_s <= now_s:  # the first of those that were under way together
                self._width = max(1.0, self._width / 2)
                self._limited_in_a_row += 1
            if retry_after_s is None:
                wait_s = _random_s(self._limited_in_a_row, LONGEST_UNTOLD_S)
            else:
                wait_s = max(0.0, retry_after_s)
                if self._limited_in_a_row > 1:
                    wait_s += _random_s(self._limited_in_a_row, LONGEST_ADDED_S)
            self._opens_s = max(self._opens_s, now_s + wait_s)
            return self._opens_s - now_s


def _random_s(times: int, most_s: float) -> float:
    """Some of 1, 2, 4, ... seconds, as tenacity waits between attempts."""
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = times
    return wait_random_exponential(multiplier=1, max=most_s)(state)

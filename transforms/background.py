"""One piece of work at a time on a thread of its own, while its caller prepares the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Discarded(Exception):
    """Raised inside work that nobody waits for any more, to end it early; never seen by a caller."""


class Ahead(Generic[T]):
    """Runs one piece of work ahead of its caller; every method is called from the caller's thread.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name)
        self._pending: Future[T] | None = None
        self._stop = threading.Event()
        self._waited_s = 0.0

    @property
    def waited_s(self) -> float:
        """Seconds that `collect` has waited so far."""
        return self._waited_s

    def start(self, work: Callable[[threading.Event], T]) -> None:
        """Begin `work`, once what was started before is collected or discarded.

        Args:
            work: is given an event; once that is set its result is not wanted, and it may raise `Discarded`.
        Raises:
            RuntimeError: earlier work is still to be collected, or `close` was called.
        """
        if self._pending is not None:
            raise RuntimeError("collect the work that was started before")
        self._stop = threading.Event()
        self._pending = self._executor.submit(work, self._stop)

    def collect(self) -> T | None:
        """Wait for the work that was started and return its result; None if there is none.

        Raises:
            BaseException: as the work did.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        began = time.perf_counter()
        try:
            return pending.result()
        except BaseException:  # the work's own, or Ctrl-C while waiting for it
            self._stop.set()
            raise
        finally:
            self._waited_s += time.perf_counter() - began

    def discard(self) -> None:
        """Tell the work that was started to end, and forget it; does not wait."""
        self._stop.set()
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None

    def close(self) -> None:
        """Discard, and wait until the thread has ended."""
        self.discard()
        self._executor.shutdown(wait=True, cancel_futures=True)

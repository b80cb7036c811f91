"""One connection for what routing keeps in Postgres, whichever thread asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import psycopg

from transforms.postgres import Session, Store

T = TypeVar("T")


class SharedSession:
    """As `Session`, for several threads, one after the other."""

    def __init__(self, store: Store) -> None:
        self._session = Session(store)
        self._lock = threading.Lock()

    def run(self, work: Callable[[psycopg.Connection], T]) -> T:
        """As `Session.run`."""
        with self._lock:
            return self._session.run(work)

    def close(self) -> None:
        """End the connection; the next `run` makes another."""
        with self._lock:
            self._session.close()

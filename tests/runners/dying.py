"""A process that dies at one of its steps: a request, a statement, a commit, a file written to disk.

Nothing that it tries after that happens, on any of its threads, and its connections go with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from schemas.http_wire import Wire
from transforms.sinks import faiss_files


class Died(Exception):
    """The process was not there any more when this was tried."""


class Life:
    """Of one process.

    Args:
        dies_at: the step, counted from 0, that it does not make; None lives on.
    """

    def __init__(self, dies_at: int | None) -> None:
        self.dies_at = dies_at
        self.steps = 0
        self.is_over = False
        self._lock = threading.Lock()
        self._connections: list[psycopg.Connection] = []

    def step(self) -> None:
        with self._lock:
            self.is_over = self.is_over or self.steps == self.dies_at
            if self.is_over:
                raise Died
            self.steps += 1

    def connected(self, connection: psycopg.Connection) -> psycopg.Connection:
        with self._lock:
            self._connections.append(connection)
        return connection

    def bury(self) -> None:
        """Close what it left open: what was not committed is undone."""
        for connection in self._connections:
            with connection.lock:  # a thread may be in the middle of a statement
                connection.close()


@contextmanager
def living(dies_at: int | None = None) -> Iterator[Life]:
    """A process, for the length of the block; its death ends the block in silence."""
    life = Life(dies_at)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (psycopg.Cursor, "execute"),
            (psycopg.Cursor, "executemany"),
            (psycopg.Cursor, "copy"),
            (Wire, "exchange"),
            (faiss_files, "_sync"),
        ):
            patch.setattr(owner, name, _after_a_step(life, getattr(owner, name)))
        patch.setattr(psycopg.Transaction, "__exit__", _committing(life, psycopg.Transaction.__exit__))
        patch.setattr(psycopg, "connect", _connecting(life, psycopg.connect))
        try:
            yield life
        except Exception:
            if not life.is_over:
                raise
        finally:
            life.bury()


def _after_a_step(life: Life, do: Callable[..., Any]) -> Callable[..., Any]:
    def done(*given: Any, **named: Any) -> Any:
        life.step()
        return do(*given, **named)

    return done


def _connecting(life: Life, connect: Callable[..., Any]) -> Callable[..., Any]:
    def connected(*given: Any, **named: Any) -> Any:
        life.step()
        return life.connected(connect(*given, **named))

    return connected


def _committing(life: Life, leave: Callable[..., Any]) -> Callable[..., Any]:
    def left(transaction: psycopg.Transaction, kind: Any, error: Any, trace: Any) -> Any:
        if kind is None:
            try:
                life.step()
            except Died as died:
                leave(transaction, Died, died, None)  # the server does so when the connection is lost
                raise
        return leave(transaction, kind, error, trace)

    return left

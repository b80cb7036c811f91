"""The receiver's way to the queue: a few connections, each with a thread, and none of them waited for too long."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TypeVar

import psycopg

from schemas.errors import PipelineError
from transforms import deliveries
from transforms.deliveries import NewDelivery, QueueState
from transforms.postgres import Session, Store

logger = logging.getLogger(__name__)

WRITERS = 4
TIMEOUT_S = 5
"""Providers give up after 10 seconds."""
MAX_PENDING = 100_000
KEEPING_INTERVAL_S = 15.0
KEEP_ENDED = timedelta(days=7)
"""GitHub delivers again what is up to 3 days old."""
KEEP_ANY = timedelta(days=30)

T = TypeVar("T")


class Away(Exception):
    """The database does not answer, or not in time."""


class Inbox:
    """Stores deliveries.

    Args:
        store: where; a connection is made when the first delivery comes, and anew when it breaks.
    """

    def __init__(self, store: Store) -> None:
        self._store = replace(store, statement_timeout_s=TIMEOUT_S)
        self._threads = ThreadPoolExecutor(WRITERS, thread_name_prefix="deliveries")
        self._of_thread = threading.local()
        self._sessions: list[Session] = []
        self._away = False
        self._pending = 0

    @property
    def is_full(self) -> bool:
        """Whether so many deliveries are pending that nobody seems to process them."""
        return self._pending >= MAX_PENDING

    async def store(self, new: Sequence[NewDelivery]) -> int:
        """Keep deliveries; they are on disk when this returns. Gives how many were not known.

        Raises:
            Away: they may or may not be stored.
        """
        return await self._run(partial(deliveries.store, deliveries=new))

    async def state(self) -> QueueState:
        """Of the whole queue.

        Raises:
            Away: it cannot be read.
        """
        state = await self._run(deliveries.queue_state)
        self._pending = state.pending
        return state

    async def keep_house(self) -> None:
        """Watch the length of the queue and forget what is old, until cancelled."""
        while True:
            try:
                await self.state()
                await self._run(partial(deliveries.prune, ended_before=KEEP_ENDED, received_before=KEEP_ANY))
            except Away:
                pass  # was logged, and is tried again
            await asyncio.sleep(KEEPING_INTERVAL_S)

    def close(self) -> None:
        """Wait for what is being written, and end the connections."""
        self._threads.shutdown(cancel_futures=True)
        for session in self._sessions:
            session.close()

    async def _run(self, work: Callable[[psycopg.Connection], T]) -> T:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                result = await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._in_session, work
                )
        except (PipelineError, psycopg.Error, TimeoutError) as error:
            if not self._away:
                logger.warning("deliveries are refused until the database answers: %s", error or "no answer")
            self._away = True
            raise Away from None
        if self._away:
            logger.warning("the database answers again")
        self._away = False
        return result

    def _in_session(self, work: Callable[[psycopg.Connection], T]) -> T:
        session: Session | None = getattr(self._of_thread, "session", None)
        if session is None:
            session = self._of_thread.session = Session(self._store, attempts=2, max_wait_s=0.2)
            self._sessions.append(session)
        return session.run(work)

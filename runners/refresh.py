"""Indexes that follow what is stored: brought up to date once changes pause, or have gone on for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from runners.schedule import IDLE_SHARE, refresh_at
from runners.slices import owners
from schemas.config import Config
from schemas.errors import PipelineError
from schemas.spaces import EmbeddingSpace
from transforms.sinks.faiss_index import update_index
from transforms.source_states import one_line
from transforms.spaces import analyze, build_vector_index
from transforms.usage_sums import refresh_daily_usage

AGAIN_S = 60.0
"""After a refresh that failed."""


class Refresher:
    """Since when the indexes lack changes, and what brings them up to date. They may lack some to begin with.

    Args:
        say: tells a person of failures.
    """

    def __init__(
        self,
        config: Config,
        connection: psycopg.Connection,
        space: EmbeddingSpace,
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._connection = connection
        self._space = space
        self._say = say
        self._first_change_s: float | None = time.monotonic()
        self._last_change_s = self._refreshed_s = self._first_change_s
        self._took_s = 0.0

    def note_change(self) -> None:
        """Something was stored or deleted now."""
        self._last_change_s = time.monotonic()
        if self._first_change_s is None:
            self._first_change_s = self._last_change_s

    @property
    def lacks(self) -> bool:
        """Whether something changed since the last refresh."""
        return self._first_change_s is not None

    def is_due(self) -> bool:
        """Whether to refresh now."""
        if self._first_change_s is None:
            return False
        due_s = refresh_at(self._first_change_s, self._last_change_s, self._refreshed_s, self._took_s)
        return time.monotonic() >= due_s

    def refresh(self, *, idle: bool) -> None:
        """Bring them up to date; a failure is tried again after a while.

        Args:
            idle: no source is being read, so that there is time to build Postgres's index where it is missing.
        """
        began_s = time.monotonic()
        self._first_change_s = None
        try:
            self._refresh(idle)
        except (PipelineError, OSError) as error:
            self._say(f"FAISS index: {one_line(error)}")
            self._first_change_s = time.monotonic()
            began_s -= AGAIN_S / IDLE_SHARE
        self._refreshed_s = time.monotonic()
        self._took_s = self._refreshed_s - began_s

    def _refresh(self, idle: bool) -> None:
        if idle and build_vector_index(self._connection, self._space.space_id):
            analyze(self._connection, self._space.space_id)
        for client in owners(self._config):
            update_index(self._connection, self._config.data_dir, self._space, client, self._config.faiss)
        refresh_daily_usage(self._connection)

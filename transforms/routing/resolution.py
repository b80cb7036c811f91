"""From a client to the endpoints that embed for it: the one it is configured for, then its fallbacks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import psycopg

from schemas.errors import BadConfig, UnknownName
from schemas.integrations import Integration
from schemas.spaces import EmbeddingSpace
from transforms.routing.session import SharedSession
from transforms.stored_integrations import Row, configured_for, integration_of, load_rows

KEPT_S = 300.0
"""What the tables said is not asked again for so long."""
MAX_ENDPOINTS = 16
"""In a chain."""


def chain_of(rows: Mapping[str, Row], first: str, space: EmbeddingSpace) -> tuple[Integration, ...]:
    """An integration and its fallbacks, in the order they are asked.

    Args:
        rows: of the table, by name.
        first: name of the configured one.
    Raises:
        UnknownName: there is no such integration.
        BadConfig: a row is not valid, does not serve the space, or the fallbacks go round in a circle.
    """
    chain: list[Integration] = []
    name: str | None = first
    while name is not None:
        if name in [integration.name for integration in chain]:
            way = " -> ".join([*(integration.name for integration in chain), name])
            raise BadConfig(f"integrations: the fallbacks go round in a circle: {way}")
        if name not in rows:
            raise UnknownName(f"there is no integration {name!r}: see `headrace integrations list`")
        integration = integration_of(rows[name])
        _check_serves(integration, space)
        chain.append(integration)
        if len(chain) > MAX_ENDPOINTS:
            raise BadConfig(f"integrations: {first} has more than {MAX_ENDPOINTS - 1} fallbacks in a row")
        name = integration.fallback
    return tuple(chain)


def _check_serves(integration: Integration, space: EmbeddingSpace) -> None:
    reason = integration.differs_from(space.model, space.dimensions)
    if reason is not None:
        raise BadConfig(
            f"integration {reason}: only endpoints of one space stand in for each other; if the weights are the same,"
            " say so with the same weights"
        )


class Resolver:
    """The chain of one client and space, read from the tables every five minutes.

    Args:
        configured: name of the integration that the configuration file names; `client_ai_configuration` may name
            another that serves the same space.
        clock_s: monotonic seconds.
    """

    def __init__(
        self,
        session: SharedSession,
        space: EmbeddingSpace,
        client: str,
        configured: str,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._space = space
        self._client = client
        self._configured = configured
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._known: tuple[Integration, ...] | BadConfig | UnknownName | None = None
        self._read_s = 0.0

    def __call__(self) -> tuple[Integration, ...]:
        """The chain; the same object for as long as it is not read again.

        Raises:
            UnknownName, BadConfig: as `chain_of`.
            SinkUnavailable: Postgres cannot be reached.
        """
        with self._lock:
            if self._known is None or self._clock_s() - self._read_s >= KEPT_S:
                self._known = self._session.run(self._read)
                self._read_s = self._clock_s()
            if isinstance(self._known, tuple):
                return self._known
            raise self._known

    def _read(self, connection: psycopg.Connection) -> tuple[Integration, ...] | BadConfig | UnknownName:
        first = configured_for(connection, self._client) or self._configured
        try:
            return chain_of(load_rows(connection), first, self._space)
        except (BadConfig, UnknownName) as error:
            return error

"""The endpoints of a chain, opened once and kept while what is configured stays the same."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from schemas.errors import SetupError
from schemas.integrations import Integration
from transforms.routing.endpoint import Endpoint

_log = logging.getLogger(__name__)


class Chain:
    """Endpoints in the order they are asked.

    Args:
        resolve: gives the integrations, the same tuple while they are the same.
        build: opens one.
    Raises:
        SetupError: as `resolve` and `build`.
    """

    def __init__(
        self, resolve: Callable[[], tuple[Integration, ...]], build: Callable[[Integration], Endpoint]
    ) -> None:
        self._resolve = resolve
        self._build = build
        self._lock = threading.Lock()
        self._left: list[Endpoint] = []
        self._said = ""
        self._integrations = resolve()
        self._endpoints = tuple(build(integration) for integration in self._integrations)

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The chain as the tables have it; a change that cannot be followed is said once, and the old chain stays."""
        with self._lock:
            try:
                integrations = self._resolve()
                if integrations is not self._integrations:
                    self._follow(integrations)
            except SetupError as error:
                if str(error) != self._said:
                    _log.warning("integrations changed, and cannot be used as they are: %s", error)
                self._said = str(error)
            return self._endpoints

    def _follow(self, integrations: tuple[Integration, ...]) -> None:
        open_now = {endpoint.integration: endpoint for endpoint in self._endpoints}
        self._endpoints = tuple(
            open_now.pop(integration) if integration in open_now else self._build(integration)
            for integration in integrations
        )
        self._integrations = integrations
        self._said = ""
        self._left += open_now.values()  # other threads may still wait for their answers

    def close(self) -> None:
        """Give connections back."""
        with self._lock:
            for endpoint in (*self._left, *self._endpoints):
                endpoint.close()
            self._left.clear()

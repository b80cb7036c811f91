"""One endpoint as this process uses it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from schemas.integrations import Integration
from transforms.providers.base import Provider, Purpose
from transforms.routing.breaker import EndpointBreaker
from transforms.routing.gate import STEP_S, Gate

OpenProvider = Callable[[Integration], Provider]


class Endpoint:
    """A provider with its breaker and its gate.

    Args:
        open_provider: connects; reads the key anew each time.
    Raises:
        SetupError: as `open_provider`.
    """

    def __init__(
        self,
        integration: Integration,
        open_provider: OpenProvider,
        breaker: EndpointBreaker,
        gate: Gate,
    ) -> None:
        self.integration = integration
        self.breaker = breaker
        self.gate = gate
        self.proven: set[Purpose] = set()
        self._open_provider = open_provider
        self._provider: Provider | None = open_provider(integration)
        self._left: list[Provider] = []
        self._lock = threading.Lock()
        self._opening = threading.Lock()

    @property
    def name(self) -> str:
        return self.integration.name

    @property
    def provider(self) -> Provider:
        """Opened anew after `reopen`."""
        with self._opening:
            if self._provider is None:
                self._provider = self._open_provider(self.integration)
            return self._provider

    def reopen(self) -> None:
        """Its key was refused: a person may change it, so it is read again before the next request."""
        with self._opening:
            if self._provider is not None:
                self._left.append(self._provider)  # other threads may still wait for its answers
                self._provider = None

    @contextmanager
    def alone(self, pause: Callable[[float], None]) -> Iterator[None]:
        """One thread at a time; the others wait for what it finds out."""
        while not self._lock.acquire(timeout=STEP_S):
            pause(0.0)
        try:
            yield
        finally:
            self._lock.release()

    def close(self) -> None:
        """Give connections back."""
        for provider in (*self._left, self._provider):
            if provider is not None:
                with suppress(Exception):
                    provider.close()
        self._left.clear()

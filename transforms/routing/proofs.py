"""No endpoint is used before it has proven that it serves the space, and after it failed, that it is well again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from uuid import UUID

from schemas.errors import CanaryMismatch, EngineFailed, RateLimited, SinkUnavailable
from schemas.ids import settings_digest
from transforms.embedders.base import Vectors
from transforms.providers.base import Purpose
from transforms.routing import canaries
from transforms.routing.chain import Chain
from transforms.routing.endpoint import Endpoint
from transforms.routing.refusals import LIMITS, REFUSING, NotNow, or_not_now, rest_s
from transforms.routing.requests import PASSING, Requests
from transforms.routing.session import SharedSession

TRIED_ELSEWHERE_S = 1.0
"""Between two looks at an endpoint that another worker tries."""

PROOF_HOLDS = timedelta(hours=1)
"""For other processes: for all queries, and for the documents of the same run."""

PROVEN_ELSEWHERE_S = 30.0
"""Longest that a worker waits for the proof by another one, before it makes its own."""

LOOK_S = 0.1

Pause = Callable[[float], None]


class Proofs:
    """What endpoints of a space have proven in this process.

    Args:
        space_id: of the space that all of them must serve.
        run_id: whose workers share what endpoints prove for documents; None where each proves by itself.
    """

    def __init__(
        self, space_id: str, chain: Chain, requests: Requests, session: SharedSession, run_id: UUID | None
    ) -> None:
        self._space_id = space_id
        self._chain = chain
        self._requests = requests
        self._session = session
        self._run_id = run_id
        self._known: dict[Purpose, Vectors] = {}
        self._beginning = threading.Lock()

    def make_ready(self, endpoint: Endpoint, purpose: Purpose, pause: Pause, *, anew: bool = False) -> None:
        """Let an endpoint pass that serves the space, is well and may be asked now.

        Args:
            anew: what it has proven before does not count.
        Raises:
            NotNow: it does not, is not, or may not.
            PASSING: it could not be proven, and may be in a moment.
            SinkUnavailable: Postgres cannot be reached.
        """
        breaker = endpoint.breaker
        if anew or not (breaker.is_closed and purpose in endpoint.proven):
            with endpoint.alone(pause):
                if not breaker.is_closed:
                    self._try_again(endpoint, purpose, pause)
                elif anew:
                    self._prove_if_allowed(endpoint, purpose, pause)
                elif not (purpose in endpoint.proven or self._was_proven(endpoint, purpose)):
                    with self._one_worker(endpoint, purpose, pause):
                        if not endpoint.breaker.is_closed:  # the worker that was waited for found out why not
                            self._try_again(endpoint, purpose, pause)
                        elif not self._was_proven(endpoint, purpose):
                            self._prove_if_allowed(endpoint, purpose, pause)
        self._raise_if_limited(endpoint)

    def _raise_if_limited(self, endpoint: Endpoint) -> None:
        closed_for_s = endpoint.gate.closed_for_s()
        if closed_for_s > 0:
            raise NotNow("it limits the rate of requests", closed_for_s)

    def _try_again(self, endpoint: Endpoint, purpose: Purpose, pause: Pause) -> None:
        breaker = endpoint.breaker
        try:
            if breaker.attempt(lambda: self._prove(endpoint, purpose, pause), rest_s):
                return
        except REFUSING:
            endpoint.reopen()
        except (*PASSING, *LIMITS, RateLimited, NotNow):
            pass  # the breaker knows why
        wait_s = min(TRIED_ELSEWHERE_S, breaker.due_in_s) if breaker.is_tried else breaker.due_in_s
        raise NotNow(breaker.reason, wait_s)

    def _prove_if_allowed(self, endpoint: Endpoint, purpose: Purpose, pause: Pause) -> None:
        self._raise_if_limited(endpoint)
        or_not_now(endpoint, lambda: self._prove(endpoint, purpose, pause))

    def _prove(self, endpoint: Endpoint, purpose: Purpose, pause: Pause) -> None:
        """Compare an endpoint's canaries with those the space began with; the first endpoint's are the beginning.

        Raises:
            CanaryMismatch: they differ.
            NotNow: the space has not begun, and it is another endpoint's to begin it.
            PipelineError: as `Requests.make`.
        """
        known = self._known_canaries(purpose)
        if known is None and endpoint is not self._chain.endpoints()[0]:
            raise NotNow("nothing is known of the space until the configured integration has answered once")
        try:
            reply = self._requests.make(
                endpoint, canaries.SENTENCES, purpose, canaries.TOKENS, "embed_canaries", 1, pause
            )
        except EngineFailed as error:
            raise CanaryMismatch(f"{endpoint.name} does not take known sentences: {error}") from None
        if known is None:
            known = self._begin(endpoint, purpose, reply.vectors)
        canaries.compare(known, reply.vectors, endpoint.name)
        endpoint.proven.add(purpose)
        if self._is_shared(purpose):
            key, now = self._digest(endpoint, purpose), self._requests.now()
            self._session.run(
                lambda connection: canaries.keep_proof(
                    connection, self._space_id, purpose, key, now, now - PROOF_HOLDS
                )
            )

    def _is_shared(self, purpose: Purpose) -> bool:
        return purpose == "query" or self._run_id is not None

    def _digest(self, endpoint: Endpoint, purpose: Purpose) -> bytes:
        run = None if purpose == "query" else str(self._run_id)
        return settings_digest({"integration": endpoint.integration.model_dump(mode="json"), "run": run})

    @contextmanager
    def _one_worker(self, endpoint: Endpoint, purpose: Purpose, pause: Pause) -> Iterator[None]:
        """One of those that share a proof makes it; the others wait, not for ever, for what it finds out.

        The lock goes with its holder's connection, so that a killed worker holds up nobody.
        """
        if not self._is_shared(purpose):
            yield
            return
        key = self._digest(endpoint, purpose)
        lock = partial(canaries.lock_proof, space_id=self._space_id, purpose=purpose, endpoint=key)
        unlock = partial(canaries.unlock_proof, space_id=self._space_id, purpose=purpose, endpoint=key)
        until_s = self._requests.clock_s() + PROVEN_ELSEWHERE_S
        while not (is_mine := self._session.run(lock)) and self._requests.clock_s() < until_s:
            pause(LOOK_S)
        try:
            yield
        finally:
            if is_mine:
                with suppress(SinkUnavailable):  # a lost connection has lost the lock, too
                    self._session.run(unlock)

    def _was_proven(self, endpoint: Endpoint, purpose: Purpose) -> bool:
        """Whether a search of the last hour has proven it, or another worker of the run."""
        if not self._is_shared(purpose):
            return False
        key = self._digest(endpoint, purpose)
        at = self._session.run(
            lambda connection: canaries.proven_at(connection, self._space_id, purpose, key)
        )
        if at is None or self._requests.now() - at > PROOF_HOLDS:
            return False
        endpoint.proven.add(purpose)
        return True

    def _begin(self, endpoint: Endpoint, purpose: Purpose, vectors: Vectors) -> Vectors:
        """Keep what the space begins with, unless another worker was quicker; gives what holds."""
        self._session.run(
            lambda connection: canaries.keep_canaries(
                connection, self._space_id, purpose, vectors, endpoint.name
            )
        )
        known = self._known_canaries(purpose)
        return vectors if known is None else known

    def _known_canaries(self, purpose: Purpose) -> Vectors | None:
        known = self._known.get(purpose)
        if known is None:
            known = self._session.run(
                lambda connection: canaries.load_canaries(connection, self._space_id, purpose)
            )
        if known is not None:
            self._known[purpose] = known
        return known

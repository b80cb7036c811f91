"""No endpoint is used before it has proven that it serves the space, and after it failed, that it is well again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

from schemas.errors import CanaryMismatch, EngineFailed, RateLimited
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
"""For the queries of other processes; what embeds documents proves its endpoints whenever it starts."""

Pause = Callable[[float], None]


class Proofs:
    """What endpoints of a space have proven in this process.

    Args:
        space_id: of the space that all of them must serve.
    """

    def __init__(self, space_id: str, chain: Chain, requests: Requests, session: SharedSession) -> None:
        self._space_id = space_id
        self._chain = chain
        self._requests = requests
        self._session = session
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
                elif anew or not (purpose in endpoint.proven or self._was_proven(endpoint, purpose)):
                    self._raise_if_limited(endpoint)
                    or_not_now(endpoint, lambda: self._prove(endpoint, purpose, pause))
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
        if purpose == "query":
            key, now = _digest(endpoint), self._requests.now()
            self._session.run(
                lambda connection: canaries.keep_proof(connection, self._space_id, purpose, key, now)
            )

    def _was_proven(self, endpoint: Endpoint, purpose: Purpose) -> bool:
        """Whether a search of the last hour has proven it: each is a process of its own."""
        if purpose != "query":
            return False
        key = _digest(endpoint)
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


def _digest(endpoint: Endpoint) -> bytes:
    return settings_digest(endpoint.integration.model_dump(mode="json"))

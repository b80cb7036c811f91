"""Which endpoint of an embedding space is asked, how often, and when none can be.

The first of the chain that can be asked now is. What passes by itself is tried again with jitter. A rate limit is no
failure: the next endpoint is asked meanwhile, or all wait. An endpoint that fails again and again is given known
sentences: if it answers those as it should, then the texts are to blame, not the endpoint.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import count
from uuid import UUID

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from schemas.errors import EngineFailed
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits
from transforms.providers.metering import Operation
from transforms.routing.chain import Chain
from transforms.routing.endpoint import Endpoint
from transforms.routing.proofs import Pause, Proofs
from transforms.routing.refusals import NotNow, or_not_now, parked
from transforms.routing.requests import PASSING, Requests
from transforms.routing.session import SharedSession

MAX_WAIT_S = 60.0
"""Longest that a batch waits until some endpoint may be asked again; then it is parked."""
LONGEST_BACKOFF_S = 8.0
SHORTEST_WAIT_S = 0.01
ROOM_TOKENS = 2000
"""There must be allowance for so many before what was parked is tried again."""

OPERATIONS: dict[Purpose, Operation] = {"document": "embed_documents", "query": "embed_query"}


class Router:
    """Embeds for one client in one space. Methods may be called from several threads.

    Args:
        space_id: of the space that all endpoints must serve.
        chain: the endpoints, the configured one first.
        session: its own, closed with it.
        run_id: as for `Proofs`.
    """

    def __init__(
        self,
        space_id: str,
        chain: Chain,
        requests: Requests,
        session: SharedSession,
        run_id: UUID | None = None,
    ) -> None:
        self._chain = chain
        self._requests = requests
        self._session = session
        self._proofs = Proofs(space_id, chain, requests, session, run_id)

    @property
    def info(self) -> ModelInfo:
        """Of the configured endpoint."""
        return self._chain.endpoints()[0].provider.info

    @property
    def limits(self) -> RequestLimits:
        """What a request may hold that any endpoint of the chain can be given."""
        all_limits = [endpoint.provider.info.limits for endpoint in self._chain.endpoints()]
        return RequestLimits(
            min(limits.max_inputs for limits in all_limits),
            min(limits.max_request_tokens for limits in all_limits),
            min(limits.max_input_tokens for limits in all_limits),
        )

    @property
    def streams(self) -> int:
        """Requests at once that the configured endpoint may be given."""
        return self._chain.endpoints()[0].integration.performance.max_concurrency

    def embed(self, texts: Sequence[str], purpose: Purpose, tokens: int, pause: Pause = time.sleep) -> Reply:
        """Vectors of texts, by whichever endpoint can be asked.

        Args:
            texts: within the limits of a request.
            tokens: of them, as counted here.
            pause: waits for so many seconds, 0 among them; what it raises passes through.
        Raises:
            InputRefused: a text is not taken.
            EngineFailed: endpoints that answer others fail on these texts, or no limit leaves room for all of them.
            Parked: none can be asked, for longer than is worth waiting.
            SinkUnavailable: the accounts cannot be kept.
        """
        attempts = count(1)
        until_s = self._requests.clock_s() + MAX_WAIT_S
        while True:
            refusals: list[tuple[str, NotNow]] = []
            for endpoint in self._chain.endpoints():
                try:
                    return self._ask(endpoint, texts, purpose, tokens, attempts, pause)
                except NotNow as refusal:
                    refusals.append((endpoint.name, refusal))
            for name, why in refusals:
                if why.blames_texts:
                    raise EngineFailed(f"{name}: {why.reason}")
            gives_up = parked(refusals)
            wait_s = gives_up.retry_after_s
            if wait_s is None or self._requests.clock_s() + wait_s > until_s:
                raise gives_up
            pause(max(wait_s, SHORTEST_WAIT_S))

    def check(self, purpose: Purpose, pause: Pause = time.sleep) -> None:
        """Pass if some endpoint can be asked and there is allowance for it. Costs a few known sentences at most.

        Raises:
            Parked: none can; why.
            SinkUnavailable: Postgres cannot be reached.
        """
        refusals: list[tuple[str, NotNow]] = []
        for endpoint in self._chain.endpoints():
            try:
                self._proofs.make_ready(endpoint, purpose, pause)
                self._check_allowance(endpoint)
                return
            except NotNow as refusal:
                refusals.append((endpoint.name, refusal))
            except PASSING as error:
                refusals.append((endpoint.name, NotNow(str(error))))
        raise parked(refusals)

    def close(self) -> None:
        """Give connections back."""
        self._chain.close()
        self._session.close()

    def _ask(
        self,
        endpoint: Endpoint,
        texts: Sequence[str],
        purpose: Purpose,
        tokens: int,
        attempts: count[int],
        pause: Pause,
    ) -> Reply:
        """Ask one endpoint as often as it may be.

        Raises:
            NotNow: it is the next one's turn.
        """
        make, operation = self._requests.make, OPERATIONS[purpose]

        def once() -> Reply:
            self._proofs.make_ready(endpoint, purpose, pause)
            return or_not_now(
                endpoint,
                lambda: make(endpoint, texts, purpose, tokens, operation, next(attempts), pause),
                len(texts),
            )

        most = endpoint.integration.performance.max_attempts
        retrying = Retrying(
            retry=retry_if_exception_type(PASSING),
            stop=stop_after_attempt(most),
            wait=wait_random_exponential(multiplier=0.5, max=LONGEST_BACKOFF_S),
            sleep=pause,
            reraise=True,
        )
        try:
            return retrying(once)
        except PASSING as error:
            last = str(error)
        try:
            self._proofs.make_ready(endpoint, purpose, pause, anew=True)
        except PASSING as error:
            raise NotNow(str(error), endpoint.breaker.due_in_s) from None
        raise NotNow(f"{most} requests failed, while it answers others; last: {last}", blames_texts=True)

    def _check_allowance(self, endpoint: Endpoint) -> None:
        or_not_now(endpoint, lambda: self._requests.check_room(endpoint, ROOM_TOKENS))

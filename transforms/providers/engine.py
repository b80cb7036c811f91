"""An engine whose vectors come from endpoints elsewhere. Which of them and how often, the router decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import copy
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import numpy as np

from schemas.allowances import AllowanceSettings
from schemas.config import Model
from schemas.errors import EngineFailed, InputRefused
from schemas.spaces import EmbeddingSpace
from transforms.allowance.opening import open_allowance
from transforms.background import Discarded
from transforms.embedders.base import EngineFacts, Vectors
from transforms.embedders.models import space_of
from transforms.postgres import Store
from transforms.providers.base import ModelInfo, Purpose, Reply, RequestLimits, price_asked
from transforms.providers.inputs import TextInput
from transforms.providers.metering import Account, LedgerMeter
from transforms.providers.opening import open_provider
from transforms.routing.opening import open_router

REQUEST_TOKENS = 16_384
"""Of a request, where endpoints would take more: what has to be asked again after a failure stays small, and a buffer
is several requests at once."""
HEADROOM = 0.8
"""Share of a request's limit in tokens that is used: most providers count with tokenizers of their own, Voyage's 13 %
more."""


class Embeds(Protocol):
    """What the engine needs of a router."""

    @property
    def info(self) -> ModelInfo:
        """Of the configured endpoint."""
        ...

    @property
    def limits(self) -> RequestLimits:
        """That any endpoint of the chain keeps to."""
        ...

    @property
    def streams(self) -> int:
        """Requests at once."""
        ...

    def embed(
        self, texts: Sequence[str], purpose: Purpose, tokens: int, pause: Callable[[float], None]
    ) -> Reply:
        """As `Router.embed`."""
        ...

    def check(self, purpose: Purpose, pause: Callable[[float], None]) -> None:
        """As `Router.check`."""
        ...


class RemoteEngine:
    """Implements `Engine`; its inputs are `TextInput`.

    Args:
        router: asks endpoints, again and elsewhere if need be, and accounts for each request.
        purpose: of the texts.
        resources: closed with the engine.
    """

    def __init__(
        self,
        space: EmbeddingSpace,
        router: Embeds,
        purpose: Purpose,
        max_batch_tokens: int | None = None,
        resources: ExitStack | None = None,
    ) -> None:
        self.space = space
        self.facts = _facts(router, max_batch_tokens)
        self._max_input_tokens = router.limits.max_input_tokens
        self._router = router
        self._purpose = purpose
        self._stop = threading.Event()
        self._resources = resources or ExitStack()

    def run(self, batch: Sequence[TextInput]) -> Vectors:
        """Vectors of one request, float32, (len(batch), dimensions), of length 1, in the order given.

        Raises:
            EngineFailed: a text is too long or refused (`InputRefused`), or endpoints that answer others fail on
                these.
            Parked: no endpoint can be asked now.
            SinkUnavailable: the accounts cannot be kept.
            SetupError: no endpoint can be asked before a person changes something.
            Discarded: nobody waits for the answer any more.
        """
        if self._stop.is_set():
            raise Discarded
        longest = max(map(len, batch))
        if longest > self._max_input_tokens:  # not left to the endpoint: some cut, and do not say so
            raise InputRefused(
                f"{self.space.model} takes texts of {self._max_input_tokens:,} tokens at most, as counted here: lower"
                " chunking.max_tokens"
            )
        texts = [one.text for one in batch]
        reply = self._router.embed(texts, self._purpose, sum(map(len, batch)), self._pause)
        return unit(reply.vectors)

    def check(self) -> None:
        """Pass if some endpoint can be asked now.

        Raises:
            Parked: none can; why.
        """
        self._router.check(self._purpose, self._pause)

    def stopped_by(self, stop: threading.Event) -> RemoteEngine:
        """The same engine, which waits for nothing more once `stop` is set. Closing is left to this one."""
        other = copy(self)
        other._stop, other._resources = stop, ExitStack()
        return other

    def close(self) -> None:
        """Give connections back."""
        self._stop.set()
        self._resources.close()

    def _pause(self, duration_s: float) -> None:
        if self._stop.wait(duration_s):
            raise Discarded


def unit(vectors: Vectors) -> Vectors:
    """Vectors of length 1: providers differ in whether theirs are, and shortened ones never are.

    Raises:
        EngineFailed: one is zero, which has no direction.
    """
    wide = vectors.astype(np.float64)  # squares of large and of tiny numbers fit
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    if not norms.all():
        raise EngineFailed("the endpoint gave a vector of zeros")
    scaled: Vectors = (wide / norms).astype(np.float32)
    return scaled


def _facts(router: Embeds, max_batch_tokens: int | None) -> EngineFacts:
    info, limits = router.info, router.limits
    most = int(limits.max_request_tokens * HEADROOM)
    return EngineFacts(
        provider=info.provider,
        engine="remote",
        version="",
        arithmetic="",
        threads=0,
        streams=router.streams,
        max_batch_tokens=min(max_batch_tokens or REQUEST_TOKENS, most),
        price=price_asked(info),
        pads=False,
        max_batch_inputs=limits.max_inputs,
    )


def open_remote_engine(
    model: Model, purpose: Purpose, store: Store, account: Account, allowance: AllowanceSettings
) -> RemoteEngine:
    """The configured remote model, for one client. Its endpoints are read from the tables; no request is made yet.

    Raises:
        UnknownName: there is no such integration.
        BadConfig: an endpoint does not serve the space, or something else is wrong with its configuration.
        SetupError: as `open_provider`.
    """
    assert model.integration is not None
    space = space_of(model)
    with ExitStack() as opened:
        meter = LedgerMeter(store, account)
        opened.callback(meter.close)
        granted = open_allowance(allowance, store, partial(datetime.now, UTC))
        opened.callback(granted.close)
        router = open_router(
            store,
            space,
            account.client,
            model.integration,
            partial(open_provider, dimensions=space.dimensions),
            granted,
            meter,
            account.run_id,
        )
        opened.callback(router.close)
        return RemoteEngine(space, router, purpose, model.max_batch_tokens, opened.pop_all())

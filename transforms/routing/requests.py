"""One request to one endpoint: reserved and in the ledger before, settled and completed after, whatever came."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from schemas.errors import (
    BadAnswer,
    InputRefused,
    ProviderTimeout,
    ProviderUnavailable,
    RateLimited,
    SetupError,
)
from schemas.usage import UNFINISHED, cost_usd
from transforms.allowance.base import Allowance, Estimate, Reservation
from transforms.providers.base import ModelInfo, Purpose, Reply, most_billed, price_asked
from transforms.providers.metering import Meter, Operation, ProviderCall
from transforms.routing.endpoint import Endpoint

PASSING = (ProviderUnavailable, ProviderTimeout, BadAnswer)
"""Failures after which the same request may be answered."""
NEVER_BILLED = (RateLimited, InputRefused, SetupError)
"""Refused by the provider, or not even asked: a key that is not there."""


def billed_tokens(error: BaseException, tokens: int) -> tuple[int, int | None]:
    """What a failed request may cost: tokens to count, and what the provider said.

    Args:
        tokens: of the request, as counted here.
    """
    if isinstance(error, NEVER_BILLED):
        return 0, None
    if isinstance(error, ProviderUnavailable) and not error.may_be_billed:
        return 0, None
    if isinstance(error, BadAnswer) and error.tokens_reported is not None:
        return error.tokens_reported, error.tokens_reported
    return tokens, None


@dataclass(frozen=True, slots=True)
class Requests:
    """Makes requests for one client.

    Args:
        meter: told of each before it is made, and when it has ended, before its vectors are used.
        now: gives the time, UTC.
        clock_s: monotonic seconds.
    """

    client: str
    allowance: Allowance
    meter: Meter
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock_s: Callable[[], float] = time.monotonic

    def make(
        self,
        endpoint: Endpoint,
        texts: Sequence[str],
        purpose: Purpose,
        tokens: int,
        operation: Operation,
        attempt: int,
        pause: Callable[[float], None],
    ) -> Reply:
        """Ask an endpoint once; its breaker and its gate learn from what comes.

        Args:
            tokens: of the texts, as counted here.
            attempt: 1 for the first request with these texts.
        Raises:
            LimitReached, LimitTooSmall, BudgetUsedUp: as `Allowance.reserve`; no request was made.
            SinkUnavailable: the accounts cannot be kept.
            PipelineError: as `Provider.embed`.
        """
        with endpoint.gate.passing(pause):
            provider, info = endpoint.provider, endpoint.provider.info
            reservation = self.allowance.reserve(self.estimate(endpoint, tokens, len(texts)))
            call = ProviderCall(
                call_id=reservation.reservation_id,
                integration=endpoint.name,
                provider=endpoint.integration.provider,
                model=info.model,
                operation=operation,
                inputs=len(texts),
                tokens=tokens,
                tokens_reported=None,
                usd=Decimal(0),
                latency_s=0.0,
                attempt=attempt,
                error_type=None,
                request_id=None,
                occurred_at=self.now(),
            )
            self._open(call, reservation, info)
            began_s = self.clock_s()
            try:
                reply = provider.embed(texts, purpose)
            except BaseException as error:
                call = replace(call, latency_s=self.clock_s() - began_s, error_type=type(error).__name__)
                billed, reported = billed_tokens(error, tokens)
                self._account(call, reservation, info, billed, reported)
                if isinstance(error, PASSING):
                    endpoint.breaker.note_failure(error)
                raise
            call = replace(call, latency_s=self.clock_s() - began_s, request_id=reply.request_id)
            billed = tokens if reply.tokens_reported is None else reply.tokens_reported
            self._account(call, reservation, info, billed, reply.tokens_reported)
        endpoint.gate.note_answer()
        endpoint.breaker.note_answer()
        return reply

    def _open(self, call: ProviderCall, reservation: Reservation, info: ModelInfo) -> None:
        try:
            self.meter(replace(call, usd=_usd(info, call.tokens), error_type=UNFINISHED))
        except BaseException:
            self.allowance.release(reservation)
            raise

    def _account(
        self, call: ProviderCall, reservation: Reservation, info: ModelInfo, billed: int, reported: int | None
    ) -> None:
        usd = _usd(info, billed)
        self.meter(replace(call, usd=usd, tokens_reported=reported, occurred_at=self.now()))
        if billed:
            self.allowance.settle(reservation, billed, usd)
        else:
            self.allowance.release(reservation)

    def estimate(self, endpoint: Endpoint, tokens: int, inputs: int) -> Estimate:
        """The most that a request may take.

        Args:
            tokens: of its texts, as counted here.
        """
        integration, info = endpoint.integration, endpoint.provider.info
        most = most_billed(integration.provider, tokens, inputs)
        return Estimate(
            self.client, integration.provider, 1, most, _usd(info, most), integration.performance.timeout_s
        )


def _usd(info: ModelInfo, tokens: int) -> Decimal:
    return cost_usd(tokens, price_asked(info))

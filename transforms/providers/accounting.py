"""One request that may be billed: reserved and in the ledger before it is made, completed and settled after."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Protocol, TypeVar

from schemas.errors import BadAnswer, InputRefused, ProviderUnavailable, RateLimited, SetupError
from schemas.integrations import Integration
from schemas.usage import UNFINISHED, Price, cost_usd
from transforms.allowance.base import Allowance, Estimate, Reservation
from transforms.providers.base import most_billed
from transforms.providers.metering import Meter, Operation, ProviderCall

NEVER_BILLED = (RateLimited, InputRefused, SetupError)
"""Refused by the provider, or not even asked: a key that is not there."""


class Answered(Protocol):
    """What is written down of an answer."""

    @property
    def tokens_reported(self) -> int | None:
        """As billed; None where the endpoint does not say."""
        ...

    @property
    def request_id(self) -> str | None:
        """The provider's own."""
        ...


A = TypeVar("A", bound=Answered)


@dataclass(frozen=True, slots=True)
class Asking:
    """A request before it is made.

    Args:
        model: as in the ledger.
        inputs: texts.
        tokens: of them, as counted here.
        attempt: 1 for the first request with these texts.
    """

    integration: Integration
    model: str
    price: Price
    operation: Operation
    inputs: int
    tokens: int
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Accounts:
    """What one client's requests are counted in.

    Args:
        meter: told of each before it is made, and when it has ended, before its answer is used.
        now: gives the time, UTC.
        clock_s: monotonic seconds.
    """

    client: str
    allowance: Allowance
    meter: Meter
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock_s: Callable[[], float] = time.monotonic

    def ask(self, asking: Asking, request: Callable[[], A]) -> A:
        """Do `request`, which asks an endpoint once.

        Raises:
            LimitReached, LimitTooSmall, BudgetUsedUp: as `Allowance.reserve`; no request was made.
            SinkUnavailable: the accounts cannot be kept.
            Exception: as `request` did.
        """
        reservation = self.allowance.reserve(self.estimate(asking))
        call = ProviderCall(
            call_id=reservation.reservation_id,
            integration=asking.integration.name,
            provider=asking.integration.provider,
            model=asking.model,
            operation=asking.operation,
            inputs=asking.inputs,
            tokens=asking.tokens,
            tokens_reported=None,
            usd=cost_usd(asking.tokens, asking.price),
            latency_s=0.0,
            attempt=asking.attempt,
            error_type=UNFINISHED,
            request_id=None,
            occurred_at=self.now(),
        )
        self._open(call, reservation)
        began_s = self.clock_s()
        try:
            answer = request()
        except BaseException as error:
            ended = replace(call, latency_s=self.clock_s() - began_s, error_type=type(error).__name__)
            billed, reported = billed_tokens(error, asking.tokens)
            self._close(ended, reservation, asking.price, billed, reported)
            raise
        reported = answer.tokens_reported
        ended = replace(
            call, latency_s=self.clock_s() - began_s, error_type=None, request_id=answer.request_id
        )
        self._close(
            ended, reservation, asking.price, asking.tokens if reported is None else reported, reported
        )
        return answer

    def estimate(self, asking: Asking) -> Estimate:
        """The most that a request may take. Of moderation dollars alone: providers limit its requests apart."""
        integration = asking.integration
        most = most_billed(integration.provider, asking.tokens, asking.inputs)
        usd, timeout_s = cost_usd(most, asking.price), integration.performance.timeout_s
        if asking.operation == "moderate":
            return Estimate(self.client, integration.provider, 0, 0, usd, timeout_s)
        return Estimate(self.client, integration.provider, 1, most, usd, timeout_s)

    def _open(self, call: ProviderCall, reservation: Reservation) -> None:
        try:
            self.meter(call)
        except BaseException:
            self.allowance.release(reservation)
            raise

    def _close(
        self, call: ProviderCall, reservation: Reservation, price: Price, billed: int, reported: int | None
    ) -> None:
        usd = cost_usd(billed, price) if billed else Decimal(0)
        self.meter(replace(call, usd=usd, tokens_reported=reported, occurred_at=self.now()))
        if billed:
            self.allowance.settle(reservation, 0 if call.operation == "moderate" else billed, usd)
        else:
            self.allowance.release(reservation)


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

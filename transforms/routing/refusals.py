"""Why an endpoint is not asked now, and for how long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from schemas.errors import (
    AccessRefused,
    BadConfig,
    BudgetUsedUp,
    CanaryMismatch,
    LimitReached,
    LimitTooSmall,
    OutOfCredit,
    Parked,
    PipelineError,
    QueryRefused,
    RateLimited,
    WrongAddress,
)
from transforms.routing.breaker import DIFFERS_PAUSE_S, LONGEST_PAUSE_S, REFUSED_PAUSE_S
from transforms.routing.endpoint import Endpoint

T = TypeVar("T")

REFUSING = (AccessRefused, WrongAddress, OutOfCredit, QueryRefused, BadConfig, CanaryMismatch)
"""What only a person can change."""
LIMITS = (LimitReached, LimitTooSmall, BudgetUsedUp)
"""What we do not allow ourselves."""


class NotNow(Exception):
    """An endpoint is not asked.

    Args:
        wait_s: until it may be; None where waiting does not help.
        blames_texts: it answers others.
    """

    def __init__(self, reason: str, wait_s: float | None = None, blames_texts: bool = False) -> None:
        super().__init__(reason, wait_s, blames_texts)
        self.reason = reason
        self.wait_s = wait_s
        self.blames_texts = blames_texts


def or_not_now(endpoint: Endpoint, work: Callable[[], T], inputs: int = 1) -> T:
    """Do `work`, which asks an endpoint; it is left alone for a while after what does not pass in a moment.

    Args:
        inputs: texts that are asked about.
    Raises:
        NotNow: for a rate limit, a limit or budget of our own, or what only a person can change.
        PipelineError: all other failures, as they are.
    """
    try:
        return work()
    except RateLimited as error:
        raise NotNow(str(error), endpoint.gate.note_limited(error.retry_after_s)) from None
    except LimitReached as error:
        raise NotNow(str(error), error.retry_after_s) from None
    except LimitTooSmall as error:
        raise NotNow(str(error), blames_texts=inputs > 1) from None
    except BudgetUsedUp as error:
        raise NotNow(str(error)) from None
    except REFUSING as error:
        endpoint.breaker.refuse(str(error), rest_s(error) or 0.0)
        endpoint.reopen()
        raise NotNow(str(error), endpoint.breaker.due_in_s) from None


def rest_s(error: Exception) -> float | None:
    """For how long an endpoint is left alone after a failure; None where that grows with their number."""
    if isinstance(error, CanaryMismatch):
        return DIFFERS_PAUSE_S
    if isinstance(error, REFUSING):
        return REFUSED_PAUSE_S
    if isinstance(error, RateLimited | LimitReached):
        return error.retry_after_s
    if isinstance(error, LIMITS):
        return LONGEST_PAUSE_S
    return None if isinstance(error, PipelineError) else 0.0


def parked(refusals: Sequence[tuple[str, NotNow]]) -> Parked:
    """What is said where no endpoint can be asked.

    Args:
        refusals: name of an endpoint, and why not.
    """
    waits = [refusal.wait_s for _, refusal in refusals if refusal.wait_s is not None]
    reasons = "; ".join(
        refusal.reason if name in refusal.reason else f"{name}: {refusal.reason}"
        for name, refusal in refusals
    )
    return Parked(f"no endpoint can be asked: {reasons}", min(waits, default=None))

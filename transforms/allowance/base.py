"""The contract of an allowance: what a client may use at a provider, asked before each request.

Each request is reserved at an estimate that errs to the high side, then settled at what it came to, or released if
nothing was billed. All workers share the counts, so that eight of them spend no more than one may.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one request will take, at most.

    Args:
        provider: as in the ledger (`ModelInfo.provider`).
        requests: 1, unless a client library makes more of it; 0 for what only dollars are counted of.
        tokens: of all inputs, as counted here.
        usd: their price.
        duration_s: longest that the request may take, its timeout. A reservation that is neither settled nor released
            by then, and some, is its worker's last.
    """

    client: str
    provider: str
    requests: int
    tokens: int
    usd: Decimal
    duration_s: float = 60


@dataclass(frozen=True, slots=True)
class Reservation:
    """An estimate that was granted.

    Args:
        reservation_id: also the `event_id` of the request's row in the ledger. By it the cost of a request is found
            whose worker died before it could settle; without such a row it counts at its estimate.
        counted: somewhere; False where no limit and no budget applies.
    """

    reservation_id: UUID
    estimate: Estimate
    counted: bool = True


class Allowance(Protocol):
    """What clients may use. Methods may be called from several threads."""

    def reserve(self, estimate: Estimate) -> Reservation:
        """Count `estimate` before its request is made.

        Raises:
            LimitReached: not now; says which limit, and in how many seconds there is room.
            LimitTooSmall: a limit has no room for this request even alone.
            BudgetUsedUp: the month's budget cannot pay for it.
            SinkUnavailable: the shared counts cannot be reached: no request may be made.
            SetupError: they never could.
        """
        ...

    def settle(self, reservation: Reservation, tokens: int, usd: Decimal) -> None:
        """Put what the request came to in the estimate's place; once, further calls change nothing.

        Call it after the request is in the ledger. It never fails the work that was paid for: where the counts cannot
        be reached that is logged, and the estimate stands until the ledger is asked.
        """
        ...

    def release(self, reservation: Reservation) -> None:
        """Nothing was billed: give tokens and dollars back. Never fails, as `settle`.

        The request itself stays counted for its minute, as providers count refused ones too.
        """
        ...

    def close(self) -> None:
        """Give connections back; the next call makes new ones."""
        ...

"""When a source is looked at again. Pure, but for the jitter."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from tenacity import RetryCallState, Retrying, wait_random_exponential

MAX_BACK_OFF_S = 900.0


def after_success(started_at: datetime, now: datetime, interval_s: float) -> datetime:
    """The next start: whole intervals after the last one, so that it does not drift; those missed are left out."""
    passed = max(1, math.ceil((now - started_at).total_seconds() / interval_s))
    return started_at + timedelta(seconds=passed * interval_s)


def back_off_s(failures: int, interval_s: float, asked_s: float | None = None) -> float:
    """Seconds to wait after so many failures in a row: at random between the interval and its doubling each time.

    Args:
        asked_s: how long the source asked us to wait.
    """
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = failures
    longest = max(interval_s, MAX_BACK_OFF_S)
    return max(asked_s or 0.0, wait_random_exponential(interval_s, longest, min=interval_s)(state))

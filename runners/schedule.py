"""When a watcher looks at what. Pure, but for the jitter."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

from tenacity import RetryCallState, Retrying, wait_random_exponential

MAX_BACK_OFF_S = 900.0
SETTLE_S = 1.0
MAX_SETTLE_S = 4.0
IDLE_SHARE = 9.0

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


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


def refresh_at(first_change_s: float, last_change_s: float, refreshed_s: float, took_s: float) -> float:
    """When the FAISS index is brought up to date: when changes pause, or have gone on for a while.

    But never for more than a tenth of the time: an index that takes a minute is refreshed every ten.

    Args:
        first_change_s: that the index lacks, on a monotonic clock, like all but the last.
        took_s: what the last refresh took; it ended at `refreshed_s`.
    """
    settled_s = min(last_change_s + SETTLE_S, first_change_s + MAX_SETTLE_S)
    return max(settled_s, refreshed_s + IDLE_SHARE * took_s)


def parse_duration(text: str) -> float:
    """Seconds in `90`, `90s`, `10m` or `1h30m`.

    Raises:
        ValueError: it is none of these.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise ValueError(f"{text!r}: expected a duration such as 90s, 10m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(hours * 3600 + minutes * 60 + seconds)

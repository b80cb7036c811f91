"""When a watcher refreshes its index, and for how long it watches. Pure."""

from __future__ import annotations

import re

SETTLE_S = 1.0
MAX_SETTLE_S = 4.0
IDLE_SHARE = 9.0

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?")


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

"""How a record can end. For every run: read = the sum over all outcomes."""

from __future__ import annotations

from enum import StrEnum

SKIPPED_PREFIX = "skipped:"


class Outcome(StrEnum):
    """Beside these, `skipped:<reason>` counts records a source passed over."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    STALE = "stale"  # an older version arrived after a newer one
    DELETED = "deleted"
    DEAD_LETTERED = "dead_lettered"

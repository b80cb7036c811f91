"""How a record can end. For every run: read = the sum over all outcomes."""

from __future__ import annotations

from enum import StrEnum

SKIPPED_PREFIX = "skipped:"

MODERATED = ("judged", "flagged", "refused", "passed")
"""What moderation makes of a document: found good; found bad; judged by nobody, and therefore refused or let pass."""


class Outcome(StrEnum):
    """Beside these, `skipped:<reason>` counts records a source passed over."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    STALE = "stale"  # an older version arrived after a newer one
    DELETED = "deleted"
    DEAD_LETTERED = "dead_lettered"

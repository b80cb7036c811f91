"""Where following a source stands: the part of a streaming job's state that says how to go on. Pure.

A round is one reading of all that changed since the one before. It may take several bundles, and a bundle may be
repeated: whatever a `Place` says was given, was given at least once.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from extractors.base import Page
from extractors.schedule import after_success, back_off_s


class Place(BaseModel):
    """The state of a source; JSON in a checkpoint, so unknown fields of a later version are passed over.

    Args:
        processing: hexadecimal digest of what is done to its records; under another one the cursor is worth nothing.
        cursor: of the source, after all that was given.
        stamp: of a source that has one, as it was when last read completely.
        began_at: when the round under way began; None between rounds.
        complete_at: all that the source had then was given: the watermark. None before the first whole round.
        due_at: when to go on; None at once.
        failures: rounds in a row that failed, the last with `error`.
        waiting_for: why the source itself put off the rest of the round to `due_at`.
        noted: what was given is stored, and Postgres says so.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    processing: str = ""
    cursor: dict[str, Any] | None = None
    stamp: str | None = None
    began_at: AwareDatetime | None = None
    complete_at: AwareDatetime | None = None
    due_at: AwareDatetime | None = None
    failures: int = Field(default=0, ge=0)
    error: str | None = None
    waiting_for: str | None = None
    noted: bool = True

    def begun(self, now: datetime) -> Place:
        """A round begins, or goes on."""
        return self.model_copy(update={"began_at": self.began_at or now, "due_at": None, "waiting_for": None})

    def after(self, page: Page) -> Place:
        """The page was given. One without records moves the cursor alone."""
        cursor = None if page.cursor is None else dict(page.cursor)
        return self.model_copy(update={"cursor": cursor, "noted": self.noted and page.read == 0})

    def ended(self, now: datetime, interval_s: float, stamp: str | None = None) -> Place:
        """The round has come to the source's end."""
        began_at = self.began_at or now
        return self.model_copy(
            update={
                "began_at": None,
                "complete_at": began_at,
                "due_at": after_success(began_at, now, interval_s),
                "stamp": stamp,
                "failures": 0,
                "error": None,
            }
        )

    def ended_in_part(self, now: datetime, interval_s: float, error: str) -> Place:
        """The round has come to its end, but for a part that the source itself spares for a while."""
        ended = self.ended(now, interval_s)
        return ended.model_copy(update={"complete_at": self.complete_at, "failures": 1, "error": error})

    def failed(self, now: datetime, interval_s: float, error: str, asked_s: float | None = None) -> Place:
        """The round failed; the next one goes on after what was given.

        Args:
            error: one line.
            asked_s: how long the source asked us to wait.
        """
        failures = self.failures + 1
        wait_s = back_off_s(failures, interval_s, asked_s)
        return self.model_copy(
            update={
                "began_at": None,
                "due_at": now + timedelta(seconds=wait_s),
                "failures": failures,
                "error": error,
            }
        )

    def waits(self, now: datetime, reason: str, wait_s: float) -> Place:
        """The source asks to go on later with this round."""
        return self.model_copy(update={"due_at": now + timedelta(seconds=wait_s), "waiting_for": reason})

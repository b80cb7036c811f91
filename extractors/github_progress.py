"""How far the lists of each repository have been read: the cursor of a live GitHub source."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from extractors.base import Cursor
from extractors.github_payloads import Item
from schemas.documents import BEGINNING
from schemas.ids import digest

MAX_GIVEN = 500  # records of the overlap that are remembered, the newest
# A list of no more records is asked for from the same moment on, for its ETag. A page that may be full (at 30, where
# `per_page` is not heeded) stays as it is, and so does its ETag, when more come after it.
SHORT_LIST = 29
WARM = timedelta(seconds=2)  # times have whole seconds: what changed just now may change again unseen


@dataclass(slots=True)
class Mark:
    """How far one list has been read.

    Args:
        since: where the next poll begins; None at the list's beginning.
        etag: of the first page from `since` on.
        given: native id -> digest of those from `since` on that have been given out.
    """

    since: datetime | None = None
    etag: str | None = None
    given: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Sweep:
    """A complete listing under way.

    Args:
        began_at: ours, when it began.
        stream: name of the list that is being read.
        since: where to go on in it.
    """

    began_at: datetime
    stream: str
    since: datetime | None = None


@dataclass(slots=True)
class Repository:
    """How far one repository has been read; a list without a mark has never been read to its end."""

    swept_at: datetime | None = None
    sweep: Sweep | None = None
    marks: dict[str, Mark] = field(default_factory=dict)

    def swept(self, streams: Sequence[str]) -> None:
        """The sweep has read its list to the end; it goes on with the next of `streams`, or is over."""
        if self.sweep is not None:
            following = streams[streams.index(self.sweep.stream) + 1 :]
            began_at = self.sweep.began_at
            self.sweep = Sweep(began_at, following[0]) if following else None
            self.swept_at = self.swept_at if following else began_at

    def is_due(self, now: datetime, interval: timedelta) -> bool:
        """Whether everything is to be listed again. A clock that was set back does not put it off."""
        return (
            self.sweep is not None
            or self.swept_at is None
            or not timedelta(0) <= now - self.swept_at < interval
        )


Progress = dict[str, Repository]
"""`owner/repo` as configured, in lower case -> how far it has been read."""


@dataclass(slots=True)
class _Saved:
    """The form of the cursor; another `version` is not understood, and everything is read again."""

    __pydantic_config__ = ConfigDict(extra="ignore")

    version: int
    repositories: Progress


_VERSION = 1
_saved = TypeAdapter(_Saved)


def load(cursor: Cursor | None, repositories: Sequence[str]) -> Progress:
    """Progress in `cursor`; what it does not know begins anew, what is no longer configured is dropped."""
    known: Mapping[str, Repository] = {}
    if cursor is not None:
        try:
            saved = _saved.validate_python(cursor)
        except ValidationError:
            pass  # of another version: to read everything again is always right
        else:
            known = saved.repositories if saved.version == _VERSION else {}
    return {name.lower(): known.get(name.lower(), Repository()) for name in repositories}


def save(progress: Progress) -> dict[str, Any]:
    """JSON-able; shares nothing with `progress`."""
    saved: dict[str, Any] = _saved.dump_python(_Saved(_VERSION, progress), mode="json")
    return saved


def state_of(item: Item) -> str:
    """Digest of an item as it is listed; a review moves the time of its pull request and nothing else."""
    return digest(item.payload, item.updated_at.isoformat().encode()).hex()[:16]


class Pass:
    """What one reading of a list to its end has come to know; makes the mark to poll from afterwards.

    Args:
        since: as the list was asked for.
        etag: of its first page.
        answered_at: the server's clock then.
    """

    def __init__(
        self, since: datetime | None, etag: str | None, answered_at: datetime, overlap: timedelta
    ) -> None:
        self._since = since
        self._etag = etag
        self._answered_at = answered_at
        self._overlap = overlap
        self._newest: datetime | None = None
        self._recent: list[tuple[datetime, str, str]] = []
        self._again: set[str] = set()

    def add(self, items: Sequence[Item], halves: Container[str] = ()) -> None:
        """Items of the next page, in its order.

        Args:
            halves: native ids of those that a part could not be had of. They are given again by every poll within
                the overlap of their change, though the list stays as it is; what comes later a sweep finds.
        """
        for item in items:
            self._newest = max(self._newest or item.updated_at, item.updated_at)
            if item.native_id in halves and item.updated_at > self._answered_at - self._overlap:
                self._etag = None
                self._again.add(item.native_id)
        self._recent += [(item.updated_at, item.native_id, state_of(item)) for item in items]
        self._recent = self._recent[-MAX_GIVEN:]

    def mark(self, *, is_only: bool) -> Mark:
        """The mark after the last page.

        Args:
            is_only: there was one page.
        """
        following = self._next_since()
        is_far_enough_back = self._since is None or following is None or self._since <= following
        is_short = is_only and len(self._recent) <= SHORT_LIST and is_far_enough_back
        since = self._since if is_short else following
        calm = self._answered_at - WARM
        is_calm = self._newest is None or self._newest <= calm
        given = {
            native_id: state
            for updated_at, native_id, state in self._recent
            if updated_at <= calm and (since is None or updated_at >= since) and native_id not in self._again
        }
        return Mark(since, self._etag if is_short and is_calm else None, given)

    def _next_since(self) -> datetime | None:
        """The overlap before the newest change; before the time of asking, when too much changed at once."""
        if (
            self._newest is None or self._newest - BEGINNING <= self._overlap
        ):  # no record, or none with a time
            return self._since
        newest = min(self._newest, self._answered_at)  # the future is a broken clock's
        changed_at_once = sum(updated_at >= newest - self._overlap for updated_at, _, _ in self._recent)
        return (newest if changed_at_once <= SHORT_LIST else self._answered_at) - self._overlap

"""The contract of a source: pages out, a cursor that resumes, tombstones for what is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from schemas.documents import DeadLetter, SourceRecord, Tombstone
from schemas.documents import Reference as Reference

Cursor = Mapping[str, Any]
"""Opaque to all but its source; JSON-able."""


OnWait = Callable[[str, float], None]
"""Told why and for how many seconds a source is about to wait."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some records of a source, and the place just after them.

    `read` = len(records) + len(tombstones) + len(dead_letters) + sum(skipped.values()): nothing vanishes.

    Args:
        skipped: reason -> count of records that are none of ours (an event type without text, say).
        cursor: resumes after the last thing in this page; None when the source is at its end and the next
            run starts anew from its beginning.
    """

    records: tuple[SourceRecord, ...] = ()
    tombstones: tuple[Tombstone, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    cursor: Cursor | None = None

    @property
    def read(self) -> int:
        return len(self.records) + len(self.tombstones) + len(self.dead_letters) + sum(self.skipped.values())


class Extractor(Protocol):
    """A source. It does no extraction of text: that is a pure function of the record's format, run on workers."""

    name: str

    def pages(self, cursor: Cursor | None) -> Iterator[Page]:
        """Yield pages after `cursor` (None: from the beginning), each of at most some hundred records.

        Pages are made lazily, with bounded memory; the generator may be abandoned at any page. Reading again
        from a page's cursor gives what followed it, at least once.

        Raises:
            SetupError: the source cannot be read at all; said before the first page where that can be known.
        """
        ...

    def estimate(self, cursor: Cursor | None) -> int | None:
        """Records still to come after `cursor`, for an ETA; None when unknown. Cheap."""
        ...

    def close(self) -> None:
        """Give up what it holds open; it is not used any more."""
        ...


@runtime_checkable
class Verifiable(Protocol):
    """A source that can be asked what it holds, so that deletions are found and news is looked up."""

    def census(self) -> Iterator[Sequence[Reference]]:
        """Every document that the source holds now, by some hundreds. Complete when it ends without an exception.

        Raises:
            PipelineError: any part could not be listed; what was yielded before proves nothing missing.
        """
        ...

    def look_again(self, references: Sequence[Reference]) -> Iterator[Page]:
        """Look at each by itself: a record where it is there, a tombstone where the source says that it is gone.

        One that moved away (a transferred issue) is gone. Nothing is said of one that cannot be looked at.
        Cursors of these pages mean nothing.

        Raises:
            OutOfSight: after all pages: a part of the source is gone whole, or hidden, and with it some of these.
            PipelineError: the source cannot be asked, or refuses.
        """
        ...


@runtime_checkable
class Checkable(Protocol):
    """A source that can be tried at little cost."""

    def check(self) -> str:
        """Ask whether it can be read, without reading it; what was found, in a few words.

        Raises:
            PipelineError: it cannot, and what to change.
        """
        ...


@runtime_checkable
class Stamped(Protocol):
    """A source that can tell at no cost that it has nothing new, so that it need not be read."""

    def stamp(self) -> str:
        """The same for as long as reading it again would give what it gave before.

        Raises:
            SetupError: the source is not there.
        """
        ...

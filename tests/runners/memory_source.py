"""A source in memory that changes, lists and fails as it is told to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from extractors.base import Cursor, Extractor, OnWait, Page
from runners.slices import BuildExtractor
from schemas.documents import Format, Kind, Reference, SourceRecord, Tombstone
from schemas.errors import OutOfSight, PipelineError, SourceTimeout
from schemas.sources import ExportSource, Source

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Item:
    """A document of the source: its only text is its title."""

    title: str
    updated_at: datetime


@dataclass
class MemorySource:
    """Implements `Extractor` and `Verifiable`.

    Args:
        hidden: ids that listings and censuses leave out, though they are there.
        unanswered: ids that nothing is said of.
        out_of_sight: as `unanswered`, and that is said after all pages.
        listing: how the next listing comes: `twice` gives each page two times, `backwards` in reverse.
        sweep: list everything, not only what changed since.
        fails_in: steps (pages and parts of a census) until the next failure; None never fails.
        census_error: raised at the end of every census.
    """

    name: str = "tickets"
    client: str = "acme"
    page_records: int = 3
    items: dict[str, Item] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    unanswered: set[str] = field(default_factory=set)
    out_of_sight: set[str] = field(default_factory=set)
    listing: str = "plain"
    sweep: bool = False
    fails_in: int | None = None
    census_error: PipelineError | None = None
    looked_at: list[str] = field(default_factory=list)
    now: datetime = BEGIN

    def put(self, native_id: str, title: str) -> None:
        """Create or edit."""
        self.now += timedelta(seconds=1)
        self.items[native_id] = Item(title, self.now)

    def change_silently(self, native_id: str, title: str) -> None:
        """As an edit that does not move the time of the last update."""
        self.now += timedelta(seconds=1)
        self.items[native_id] = replace(self.items[native_id], title=title)

    def delete(self, native_id: str) -> None:
        self.now += timedelta(seconds=1)
        del self.items[native_id]

    # Extractor

    def pages(self, cursor: Cursor | None) -> Iterator[Page]:
        since = datetime.fromisoformat(cursor["since"]) if cursor and not self.sweep else BEGIN
        listed = sorted(
            (item.updated_at, native_id)
            for native_id, item in self.items.items()
            if item.updated_at >= since and native_id not in self.hidden
        )
        parts = [listed[n : n + self.page_records] for n in range(0, len(listed), self.page_records)]
        if self.listing == "backwards":
            parts.reverse()
        elif self.listing == "twice":
            parts = [part for part in parts for _ in range(2)]
        unmoved = {"since": since.isoformat()}
        for part in parts:
            self._step()
            yield Page(records=tuple(self._record(native_id) for _, native_id in part), cursor=unmoved)
        self._step()
        yield Page(cursor={"since": max([since, *(at for at, _ in listed)]).isoformat()})

    def estimate(self, cursor: Cursor | None) -> int | None:
        return None

    def close(self) -> None:
        return

    # Verifiable

    def census(self) -> Iterator[Sequence[Reference]]:
        listed = [native_id for native_id in self.items if native_id not in self.hidden]
        for start in range(0, len(listed), self.page_records):
            self._step()
            part = listed[start : start + self.page_records]
            yield [Reference(Kind.ISSUE, native_id, f"MILL-{native_id}") for native_id in part]
        self._step()
        if self.census_error is not None:
            raise self.census_error

    def look_again(self, references: Sequence[Reference]) -> Iterator[Page]:
        for start in range(0, len(references), self.page_records):
            self._step()
            asked = [one.native_id for one in references[start : start + self.page_records]]
            self.looked_at += asked
            answered = [
                native_id for native_id in asked if native_id not in self.unanswered | self.out_of_sight
            ]
            yield Page(
                records=tuple(self._record(one) for one in answered if one in self.items),
                tombstones=tuple(
                    Tombstone(self.client, self.name, Kind.ISSUE, one, self.now, "404")
                    for one in answered
                    if one not in self.items
                ),
            )

        if self.out_of_sight & {one.native_id for one in references}:
            raise OutOfSight(f"source {self.name!r}: project MILL is out of sight")

    def _record(self, native_id: str) -> SourceRecord:
        item = self.items[native_id]
        payload = {
            "id": native_id,
            "key": f"MILL-{native_id}",
            "fields": {
                "summary": item.title,
                "updated": item.updated_at.isoformat(),
                "created": BEGIN.isoformat(),
                "issuetype": {"name": "Bug"},
                "status": {"name": "Open"},
                "project": {"key": "MILL", "name": "Millpond"},
                "comment": {"total": 0, "comments": []},
            },
        }
        return SourceRecord(
            self.client,
            self.name,
            Format.JIRA_ISSUE,
            Kind.ISSUE,
            native_id,
            orjson.dumps(payload),
            item.updated_at,
            self.now,
        )

    def _step(self) -> None:
        if self.fails_in is not None:
            self.fails_in -= 1
            if self.fails_in < 0:
                self.fails_in = None
                raise SourceTimeout(f"source {self.name!r} did not answer")


def configured(name: str = "tickets", poll_interval_s: float = 60) -> ExportSource:
    """Settings of a source in memory: those of an export, of which only the name and the interval count."""
    return ExportSource(type="export", name=name, paths=("nowhere",), poll_interval_s=poll_interval_s)


def building(*sources: Extractor) -> BuildExtractor:
    """Finds a source by its name."""

    def build(source: Source, client: str, data_dir: Path, on_wait: OnWait) -> Extractor:
        return next(one for one in sources if one.name == source.name)

    return build

"""A fake Jira that is served, and what an index would hold of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from extractors.base import Cursor, Page
from extractors.jira_site import JiraSite
from schemas.documents import SourceRecord
from schemas.sources import JiraSource
from tests.fakes.jira import FakeJira
from tests.fakes.serving import Faults, serve

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    """Time passes when someone waits, and when a test says so."""

    def __init__(self) -> None:
        self.moment = START
        self.slept_s = 0.0

    def __call__(self) -> datetime:
        return self.moment

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self.moment += timedelta(seconds=seconds)

    def pass_s(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


class World:
    """The site, its clock, and everything that was read so far."""

    def __init__(self, jira: FakeJira, clock: Clock, faults: Faults, url: str) -> None:
        self.jira, self.clock, self.faults, self.url = jira, clock, faults, url
        self.cursor: Cursor | None = None
        self.held: dict[str, SourceRecord] = {}
        self.waits: list[str] = []
        self.sites: dict[bytes, JiraSite] = {}
        self.skew_s = 0.0  # of our own clock, ahead of the site's

    def settings(self, **options: Any) -> JiraSource:
        return JiraSource.model_validate({"type": "jira", "name": "tracker", "site_url": self.url, **options})

    def site(self, **options: Any) -> JiraSite:
        """The same for the same options, as `watch` keeps it."""

        def on_wait(why: str, seconds: float) -> None:
            self.waits.append(why)

        known = orjson.dumps(options, option=orjson.OPT_SORT_KEYS)
        if known not in self.sites:
            settings = self.settings(**options)
            self.sites[known] = JiraSite(settings, "acme", on_wait, now=self.now, sleep=self.clock.sleep)
        return self.sites[known]

    def now(self) -> datetime:
        """As our own clock shows it."""
        return self.clock() + timedelta(seconds=self.skew_s)

    def close(self) -> None:
        for site in self.sites.values():
            site.close()

    def sync(self, site: JiraSite | None = None, *, most_pages: int | None = None) -> list[Page]:
        """Read on from the cursor, perhaps not to the end, and keep what came."""
        pages = []
        for page in (site or self.site()).pages(self.cursor):
            pages.append(page)
            self.keep(page)
            self.cursor = json.loads(json.dumps(page.cursor))
            if len(pages) == most_pages:
                break
        return pages

    def keep(self, page: Page) -> None:
        self.held |= {record.native_id: record for record in page.records}
        for tombstone in page.tombstones:
            self.held.pop(tombstone.native_id, None)

    def summaries(self) -> dict[int, str]:
        return {
            int(number): orjson.loads(record.payload)["fields"].get("summary", "")
            for number, record in self.held.items()
        }

    def truth(self) -> dict[int, str]:
        return {number: issue.fields["summary"] for number, issue in self.jira.issues.items()}


@contextmanager
def world(**options: Any) -> Iterator[World]:
    clock = Clock()
    jira = FakeJira(clock, **options)
    faults = Faults(jira.app)
    with serve(faults) as url:
        made = World(jira, clock, faults, url)
        try:
            yield made
        finally:
            made.close()


def numbers(pages: list[Page]) -> list[int]:
    return [int(record.native_id) for page in pages for record in page.records]

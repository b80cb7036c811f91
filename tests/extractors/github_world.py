"""A fake GitHub with a repository in it, and a source that reads it: what the tests of the live source share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from extractors.base import Cursor, Page
from extractors.github_live import GitHubRepositories
from schemas.documents import Kind, SourceRecord
from schemas.sources import GitHubSource
from tests.fakes.github import FakeGitHub
from tests.fakes.github_contents import Repository
from tests.fakes.serving import Faults

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    """Sleeping passes the time."""

    def __init__(self) -> None:
        self.moment = START
        self.slept_s = 0.0

    def now(self) -> datetime:
        return self.moment

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self.moment += timedelta(seconds=seconds)


class World:
    """A fake GitHub with a repository, and a source that reads it."""

    def __init__(self, url: str, clock: Clock, github: FakeGitHub, faults: Faults) -> None:
        self.url, self.clock, self.github, self.faults = url, clock, github, faults
        self.sluice = github.repository("acme/sluice")
        self.cursor: Cursor | None = None
        self.latest: dict[tuple[Kind, str], SourceRecord] = {}

    def settings(self, **more: Any) -> GitHubSource:
        fields = {"name": "gh", "repositories": ("acme/sluice",), "api_url": self.url, "token": "env:T"}
        return GitHubSource(type="github", **fields | more)

    @contextmanager
    def source(self, **more: Any) -> Iterator[GitHubRepositories]:
        source = GitHubRepositories(
            self.settings(**more), "acme", lambda *_: None, now=self.clock.now, sleep=self.clock.sleep
        )
        try:
            yield source
        finally:
            source.close()

    def read(self, minutes: float = 1, **more: Any) -> list[SourceRecord]:
        """A run some minutes later, from the cursor of the last one; what it gave."""
        self.clock.moment += timedelta(minutes=minutes)
        with self.source(**more) as source:
            return [record for page in self._kept(source) for record in page.records]

    def _kept(self, source: GitHubRepositories) -> Iterator[Page]:
        for page in source.pages(self.cursor):
            self.cursor = orjson.loads(orjson.dumps(page.cursor))
            self.latest |= {(record.kind, record.native_id): record for record in page.records}
            yield page

    def census(self, **more: Any) -> set[tuple[Kind, str]]:
        with self.source(**more) as source:
            return {(r.kind, r.native_id) for references in source.census() for r in references}

    def asked(self) -> dict[str, int]:
        """What was asked since the last call."""
        asked = {f"{what} {status}": count for (what, status), count in self.github.requests.items()}
        self.github.requests.clear()
        return asked


def populated(world: World) -> Repository:
    """An issue with a comment, a pull request with a review, a review comment and a comment."""
    sluice = world.sluice
    issue = world.github.create(sluice, body="It stalls.", labels=[{"name": "zeal"}, {"name": "bug"}])
    world.github.comment(sluice, issue)
    pull = world.github.create(sluice, pull=True, body="Fixes #1")
    world.github.review(sluice, pull, "Nearly.", "CHANGES_REQUESTED")
    world.github.review_comment(sluice, pull)
    world.github.comment(sluice, pull, user=None)
    return sluice

"""A real stream of changes through everything: after each listing the store is what GitHub listed.

308 listings that differ, with changes that say nothing of themselves, and issues that listings lacked for weeks,
though they were there. `HEADRACE_TEST_LISTINGS=308` takes them all.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks.stand_in import no_model
from extractors.base import Extractor, OnWait
from extractors.github_live import GitHubRepositories
from extractors.github_payloads import Item
from pipelines.verify import verify
from runners.slices import BuildExtractor
from schemas.config import Config, Reconcile
from schemas.documents import BEGINNING, Kind
from schemas.ids import payload_digest
from schemas.sources import GitHubSource, Source
from tests.extractors.github_world import Clock
from tests.extractors.update_stream import REPOSITORY, Expected, Listing, listings, unannounced
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.serving import serve
from tests.runners.live_world import TOKEN_VARIABLE
from tests.runners.looking import Watcher
from transforms import runs
from transforms.postgres import Store

LISTINGS = int(os.environ.get("HEADRACE_TEST_LISTINGS", "30"))
RECONCILED_EVERY = 10  # looks


class Replay:
    """A fake GitHub that shows one listing after the other, and what a store that follows it has to hold.

    Attributes:
        late: whose last change only the next sweep sees.
        kept: held, though the listing lacks them.
        gone: deleted at GitHub while listings lacked them, with their native ids.
    """

    def __init__(self, github: FakeGitHub, clock: Clock, store: Store) -> None:
        self._github, self._clock, self._store = github, clock, store
        self._repository = github.repository(REPOSITORY)
        self._expected = Expected()
        self._shown: dict[str, Item] = {}
        self._last: dict[str, Item] = {}
        self._held: set[str] = set()
        self._since = BEGINNING
        self._swept_at: object = None
        self.late: set[str] = set()
        self.kept: set[str] = set()
        self.gone: dict[str, str] = {}
        self.counts = Counter[str]()

    def show(self, listing: Listing) -> None:
        """This is what GitHub has now."""
        self._clock.moment = listing.moment + timedelta(seconds=5)
        self._repository.deleted -= listing.issues.keys()
        self._github.show(self._repository, listing.issues.values(), listing.pulls.values())
        before, self._shown = self._shown, dict(self._expected(listing))
        self._last |= self._shown
        self.late |= unannounced(before, self._shown, self._since)
        self._since = listing.moment
        self.counts["went missing"] += len(before.keys() - self._shown.keys())
        self.counts["came back"] += len((self.kept | self.gone.keys()) & self._shown.keys())
        self.kept = (self.kept | (before.keys() & self._held)) - self._shown.keys()
        self.gone = {key: row for key, row in self.gone.items() if key not in self._shown}

    def delete_one_that_is_missing(self) -> None:
        for key in sorted(self.kept):
            item = self._last[key]
            if item.kind is Kind.ISSUE:
                self._github.delete(self._repository, item.number)
                self.gone[key] = item.native_id
                self.kept.remove(key)
                self.counts["deleted"] += 1
                return

    def note_sweep(self, swept_at: object) -> None:
        if swept_at != self._swept_at:
            self.late.clear()
            self.counts["sweeps"] += 1
        self._swept_at = swept_at

    def compare(self) -> None:
        """What is listed is held as it is listed; what is not is held, too, unless it is gone."""
        with self._store.connect() as connection:
            rows = connection.execute(
                "SELECT key, payload_digest FROM documents WHERE deleted_at IS NULL"
            ).fetchall()
            deleted = connection.execute("SELECT native_id FROM documents WHERE deleted_at IS NOT NULL")
            buried = {native_id for (native_id,) in deleted}
        held = {key: bytes(digest) for key, digest in rows}
        wrong = {
            key
            for key, item in self._shown.items()
            if held.get(key) != payload_digest(item.format, item.payload)
        }
        assert wrong <= self.late
        assert held.keys() - self._shown.keys() == self.kept
        back = {self._shown[key].native_id for key in self.late & self._shown.keys()}
        assert set(self.gone.values()) <= buried <= {*self.gone.values(), *back}
        self._held = set(held)
        self.counts["waited for a sweep"] += len(wrong)


def some(found: Iterator[Listing], wanted: int, of: int) -> Iterator[Listing]:
    """So many of them, evenly, the last one included."""
    for number, listing in enumerate(found, 1):
        if number * wanted // of > (number - 1) * wanted // of:
            yield listing


@contextmanager
def replay(store: Store) -> Iterator[tuple[Replay, str, BuildExtractor]]:
    clock = Clock()
    github = FakeGitHub(clock.now, limit=10**9)

    def build(source: Source, client: str, data_dir: Path, on_wait: OnWait) -> Extractor:
        assert isinstance(source, GitHubSource)
        return GitHubRepositories(source, client, on_wait, now=clock.now, sleep=clock.sleep)

    with serve(github) as url:
        yield Replay(github, clock, store), url, build


def swept_at(store: Store) -> object:
    with store.connect() as connection:
        row = connection.execute(
            "SELECT cursor #>> ARRAY['repositories', %s, 'swept_at'] FROM source_cursors", [REPOSITORY]
        ).fetchone()
    return row and row[0]


@pytest.mark.shared_data
@pytest.mark.slow
def test_after_each_listing_the_store_is_what_was_listed_and_only_what_is_gone_is_deleted(
    make_config: Callable[..., Config],
    database: Store,
    shared_data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    began_s = time.monotonic()
    total = sum(1 for _ in listings(shared_data))
    with no_model(), replay(database) as (shown, url, build), database.connect() as connection:
        source = GitHubSource(
            type="github",
            name="drafts",
            repositories=(REPOSITORY,),
            api_url=url,
            token=f"env:{TOKEN_VARIABLE}",
        )
        config = make_config().model_copy(update={"sources": (source,), "reconcile": Reconcile(max_share=1)})
        store = Store(config.postgres.dsn or "")
        with runs.only_writer(connection, "acme"):
            watcher = Watcher(config, connection, store, lambda line: None, build, None)
            for number, listing in enumerate(some(listings(shared_data), LISTINGS, total), 1):
                shown.show(listing)
                assert watcher.look("poll") == []
                shown.note_sweep(swept_at(database))
                shown.compare()
                if number % RECONCILED_EVERY == 0:
                    shown.delete_one_that_is_missing()
                    assert watcher.look("reconcile") == []
                    shown.compare()
            watcher._leave()
        assert verify(config, "acme").ok
    assert shown.counts["deleted"] > 1
    assert shown.counts["came back"] > 50
    print(f"\n{LISTINGS} listings in {time.monotonic() - began_s:.0f} s: {dict(shown.counts)}")

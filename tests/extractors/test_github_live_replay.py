"""A real stream of changes, listing after listing as GitHub gave them: polls and sweeps give all of it back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from extractors.base import Reference
from extractors.github_payloads import Item
from schemas.documents import BEGINNING
from tests.extractors.github_world import World
from tests.extractors.update_stream import REPOSITORY, Expected, listings, unannounced

pytestmark = pytest.mark.shared_data


@pytest.mark.slow
def test_polls_and_sweeps_give_every_listing_and_bury_nothing(world: World, shared_data: Path) -> None:
    repository = world.github.repository(REPOSITORY)
    expected = Expected()
    before: dict[str, Item] = {}
    since = BEGINNING
    given: dict[str, bytes] = {}
    references: dict[str, Reference] = {}
    late: set[str] = set()
    sweeps: set[str] = set()
    looked_at = 0
    for listing in listings(shared_data):
        world.clock.moment = listing.moment + timedelta(seconds=5)
        world.github.show(repository, listing.issues.values(), listing.pulls.values())
        with world.source(repositories=(REPOSITORY,)) as source:
            for page in source.pages(world.cursor):
                assert not page.tombstones
                assert not page.dead_letters
                world.cursor = orjson.loads(orjson.dumps(page.cursor))
                for record in page.records:
                    given[record.locator] = record.payload
                    references[record.locator] = Reference(record.kind, record.native_id, record.locator)
        assert world.cursor is not None
        swept_at = world.cursor["repositories"][REPOSITORY]["swept_at"]
        now = expected(listing)
        late = set() if swept_at not in sweeps else late | unannounced(before, now, since)
        sweeps.add(swept_at)
        assert {key for key, item in now.items() if given.get(key) != item.payload} <= late
        before, since = now, listing.moment
        if len(sweeps) % 10 == 5:
            looked_at += look_at_unlisted(world, list(references.values()))
    assert len(sweeps) > 40
    assert looked_at > 100


def look_at_unlisted(world: World, references: Sequence[Reference]) -> int:
    """What a reconciliation does; how many were missing from the listing and are there all the same."""
    with world.source(repositories=(REPOSITORY,)) as source:
        listed = {reference for references in source.census() for reference in references}
        unlisted = [reference for reference in references if reference not in listed]
        pages = list(source.look_again(unlisted))
    assert not any(page.tombstones for page in pages)
    assert sum(len(page.records) for page in pages) == len(unlisted)
    return len(unlisted)

"""A real stream of changes, listing after listing as GitHub gave them: polls and sweeps give all of it back."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson
import pytest

from extractors.base import Reference
from extractors.github_payloads import item_of, refs_of, with_refs
from tests.extractors.github_world import World

pytestmark = pytest.mark.shared_data

Json = dict[str, Any]
Listing = dict[int, Json]
REPOSITORY = "quicwg/base-drafts"


def listings(shared_data: Path) -> Iterator[tuple[datetime, set[int], Listing, Listing]]:
    """Each listing: when, numbers of what is new in it with a time before the last one, issues, pulls."""
    with gzip.open(shared_data / "github" / "rest_issue_update_stream.jsonl.gz") as lines:
        operations = [orjson.loads(line) for line in lines]
    shown: dict[str, Listing] = {"issue": {}, "pull": {}}
    before = ""
    for moment, group in groupby(operations, key=itemgetter("snapshot_at")):
        unannounced: set[int] = set()
        for operation in group:
            number, record = operation["number"], operation["record"]
            if operation["op"] == "vanished":
                shown[operation["kind"]].pop(number, None)
                continue
            shown[operation["kind"]][number] = record
            if record["updated_at"] < before:
                unannounced.add(number)
        yield datetime.fromisoformat(moment), unannounced, shown["issue"], shown["pull"]
        before = moment


def payload(issue: Json, pull: Json | None) -> bytes:
    """What is to be known of an issue in a listing."""
    item = item_of(issue)
    assert item is not None
    refs = refs_of(pull) if issue.get("pull_request") else None
    return with_refs(item, refs).payload if refs else item.payload


class Expected:
    """Payloads of a listing; most are those of the listing before."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Json, Json | None, bytes]] = {}

    def __call__(self, issues: Listing, pulls: Listing) -> dict[str, bytes]:
        for number, issue in issues.items():
            pull, known = pulls.get(number), self._known.get(number)
            if known is None or known[0] is not issue or known[1] is not pull:
                self._known[number] = (issue, pull, payload(issue, pull))
        return {f"{REPOSITORY}#{number}": self._known[number][2] for number in issues}


@pytest.mark.slow
def test_polls_and_sweeps_give_every_listing_and_bury_nothing(world: World, shared_data: Path) -> None:
    repository = world.github.repository(REPOSITORY)
    expected = Expected()
    given: dict[str, bytes] = {}
    references: dict[str, Reference] = {}
    late: set[str] = set()
    sweeps: set[str] = set()
    looked_at = 0
    for moment, unannounced, issues, pulls in listings(shared_data):
        world.clock.moment = moment + timedelta(seconds=5)
        world.github.show(repository, issues.values(), pulls.values())
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
        late = (
            set() if swept_at not in sweeps else late | {f"{REPOSITORY}#{number}" for number in unannounced}
        )
        sweeps.add(swept_at)
        wrong = {key for key, value in expected(issues, pulls).items() if given.get(key) != value}
        assert wrong <= late
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

"""A real stream of changes as the listings that it was taken from: one repository, two months, 400 listings."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from extractors.github_payloads import Item, item_of, refs_of, with_refs

Json = dict[str, Any]
Records = dict[int, Json]
REPOSITORY = "quicwg/base-drafts"


@dataclass(frozen=True, slots=True)
class Listing:
    """All issues (pull requests among them) and pull requests by number, as GitHub gave them at a moment.

    The mappings are those of the next listing, too: look at them before it comes.

    Args:
        operations: that lead here from the listing before.
    """

    moment: datetime
    issues: Records
    pulls: Records
    operations: int


def listings(shared_data: Path) -> Iterator[Listing]:
    """Each listing, oldest first."""
    with gzip.open(shared_data / "github" / "rest_issue_update_stream.jsonl.gz") as lines:
        operations = [orjson.loads(line) for line in lines]
    shown: dict[str, Records] = {"issue": {}, "pull": {}}
    for moment, group in groupby(operations, key=itemgetter("snapshot_at")):
        made = 0
        for operation in group:
            made += 1
            number, record = operation["number"], operation["record"]
            if operation["op"] == "vanished":
                shown[operation["kind"]].pop(number, None)
            else:
                shown[operation["kind"]][number] = record
        yield Listing(datetime.fromisoformat(moment), shown["issue"], shown["pull"], made)


class Expected:
    """What is to be known of a listing's issues; most is as in the listing before."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Json, Json | None, Item]] = {}

    def __call__(self, listing: Listing) -> dict[str, Item]:
        """`owner/repo#number` -> the issue or pull request."""
        for number, issue in listing.issues.items():
            pull, known = listing.pulls.get(number), self._known.get(number)
            if known is None or known[0] is not issue or known[1] is not pull:
                self._known[number] = (issue, pull, _item(issue, pull))
        return {f"{REPOSITORY}#{number}": self._known[number][2] for number in listing.issues}


def _item(issue: Json, pull: Json | None) -> Item:
    item = item_of(issue)
    assert item is not None
    refs = refs_of(pull) if issue.get("pull_request") else None
    return with_refs(item, refs) if refs else item


def unannounced(before: dict[str, Item], now: dict[str, Item], since: datetime) -> set[str]:
    """What differs from the listing of `since`, and gives an earlier time for that: polls cannot see it."""
    return {
        key
        for key, item in now.items()
        if item.updated_at < since and (key not in before or before[key].payload != item.payload)
    }

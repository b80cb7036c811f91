"""Whatever happens at GitHub and however runs end, an index that follows the source ends as GitHub is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from itertools import islice
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors.base import Cursor, Page, Reference
from extractors.github_live import GitHubRepositories
from schemas.documents import Kind
from schemas.errors import NotAllowed, PartUnread, WrongAddress
from tests.extractors.github_world import Clock, World
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.serving import Faults, Stage, answer, github_secondary_limit, torn

NAMES = ("acme/sluice", "acme/weir")
PLACES = st.integers(0, 40)
REFUSALS = (PartUnread, NotAllowed, WrongAddress)
UNSEEN = ("silent", "vanish", "show", "switch issues", "refuse")  # what polls alone do not see, or get behind
STEPS = st.one_of(
    st.tuples(st.sampled_from(("create", "create_pull", "pass")), PLACES),
    st.tuples(
        st.sampled_from(("edit", "silent", "comment", "review", "review_comment", "edit_comment")), PLACES
    ),
    st.tuples(
        st.sampled_from(("delete", "delete_comment", "delete_review", "transfer", "vanish", "show")), PLACES
    ),
    st.tuples(st.sampled_from(("switch issues", "switch issues", "refuse")), PLACES),
    st.tuples(st.sampled_from(("read", "read", "killed", "moving", "fault", "reconcile")), PLACES),
)


class Index:
    """What a store would hold that is given pages, and keeps the cursor with them."""

    def __init__(self) -> None:
        self.records: dict[tuple[Kind, str], tuple[str, bytes]] = {}
        self.cursor: Cursor | None = None

    def take(self, pages: Iterator[Page], *, keep_cursor: bool = True) -> None:
        for page in pages:
            for record in page.records:
                self.records[record.kind, record.native_id] = (record.locator, record.payload)
            for tombstone in page.tombstones:
                self.records.pop((tombstone.kind, tombstone.native_id), None)
            if keep_cursor:
                self.cursor = orjson.loads(orjson.dumps(page.cursor))

    def follow(self, source: GitHubRepositories, pages: int | None = None) -> None:
        with closing(source.pages(self.cursor)) as given, suppress(*REFUSALS):  # type: ignore[type-var]
            self.take(islice(given, pages))

    def reconcile(self, source: GitHubRepositories) -> None:
        try:
            listed = {reference for references in source.census() for reference in references}
        except REFUSALS:
            return
        known = [Reference(kind, row, key) for (kind, row), (key, _) in self.records.items()]
        self.take(source.look_again([one for one in known if one not in listed]), keep_cursor=False)


class History:
    """A world that changes step by step."""

    def __init__(self, world: World) -> None:
        self.world, self.github = world, world.github
        self.repositories = [world.sluice, world.github.repository(NAMES[1])]

    def step(self, what: str, place: int) -> None:
        repository, github = self.repositories[place % 2], self.github
        issues = repository.values["issues"]
        number = _pick(issues, place)
        pulls, comments = repository.pulls, repository.values["comments"]
        match what:
            case "create" | "create_pull":
                github.create(repository, pull=what == "create_pull")
            case "pass":
                self.world.clock.moment += timedelta(seconds=(1, 30, 400, 7200)[place % 4])
            case "edit" if number:
                github.edit(repository, number, title=f"Edit {place} {self.world.clock.moment}")
            case "silent" if number:
                github.silent_update(repository, number, labels=[{"name": f"label {place}"}])
            case "comment" if number:
                github.comment(repository, number, f"Comment {place}")
            case "review" if pull := _pick(pulls, place):
                github.review(repository, pull, f"Review {place}")
            case "review_comment" if pull := _pick(pulls, place):
                github.review_comment(repository, pull, f"Line {place}")
            case "edit_comment" if row := _pick(comments, place):
                github.edit_comment(repository, row, f"Edit {place} {self.world.clock.moment}")
            case "delete_comment" if row := _pick(comments, place):
                github.delete_comment(repository, row)
            case "delete_review" if (pull := _pick(pulls, place)) and repository.reviews[pull]:
                github.delete_review(repository, pull, next(iter(repository.reviews[pull])))
            case "delete" if number and number not in pulls:
                github.delete(repository, number)
            case "transfer" if number and number not in pulls:
                github.transfer(repository, number, self.repositories[1 - place % 2])
            case "vanish" if number:
                github.vanish(repository, number)
            case "show" if number:
                github.silent_update(repository, number)
            case "switch issues":
                repository.has_issues = not repository.has_issues
            case "refuse":
                refusal = answer((403, 404, 451)[place % 3], {}, {"message": "Resource not accessible"})
                self.world.faults.next(refusal, prefix=f"/repos/{repository.full_name}", times=1 + place % 4)
            case "fault":
                fault = torn() if place % 2 else github_secondary_limit(place)
                self.world.faults.next(fault, prefix=("/repos", "/graphql", "/")[place % 3])

    def show_all(self) -> None:
        for repository in self.repositories:
            repository.has_issues = True
            for number in repository.values["issues"]:
                self.github.silent_update(repository, number)

    def truth(self) -> dict[tuple[Kind, str], Any]:
        """(kind, id) -> text by which a state is known."""
        truth: dict[tuple[Kind, str], Any] = {}
        for repository in self.repositories:
            for number, issue in repository.values["issues"].items():
                row = repository.pulls[number]["id"] if number in repository.pulls else issue["id"]
                kind = Kind.PULL if number in repository.pulls else Kind.ISSUE
                truth[kind, str(row)] = (issue["title"], [label["name"] for label in issue["labels"]])
            for row, comment in repository.values["comments"].items():
                truth[Kind.COMMENT, str(row)] = comment["body"]
            for row, comment in repository.values["review_comments"].items():
                truth[Kind.REVIEW_COMMENT, str(row)] = comment["body"]
            for reviews in repository.reviews.values():
                truth |= {(Kind.REVIEW, str(row)): review["body"] for row, review in reviews.items()}
        return truth


def _pick(rows: dict[int, Any], place: int) -> int | None:
    return sorted(rows)[place % len(rows)] if rows else None


def held(index: Index) -> dict[tuple[Kind, str], Any]:
    states: dict[tuple[Kind, str], Any] = {}
    for (kind, row), (_, payload) in index.records.items():
        value = orjson.loads(payload)
        is_issue = kind in (Kind.ISSUE, Kind.PULL)
        states[kind, row] = (value["title"], value["labels"]) if is_issue else value["body"]
    return states


def world_of(stage: tuple[Stage, str], page_size: int, keyset: bool) -> World:
    clock = Clock()
    github = FakeGitHub(clock.now, page_size=page_size, keyset=("issues",) if keyset else (), limit=10**6)
    faults = Faults(github)
    stage[0].app = faults
    return World(stage[1], clock, github, faults)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=60), st.sampled_from([2, 3, 100]), st.booleans())
def test_any_history_ends_in_an_index_that_equals_the_source(
    stage: tuple[Stage, str],
    monkeypatch: pytest.MonkeyPatch,
    steps: list[tuple[str, int]],
    page_size: int,
    keyset: bool,
) -> None:
    monkeypatch.setenv("T", TOKEN)
    world = world_of(stage, page_size, keyset)
    history, index = History(world), Index()
    with world.source(repositories=NAMES) as source:
        for what, place in steps:
            match what:
                case "read":
                    index.follow(source)
                case "killed":
                    index.follow(source, pages=1 + place % 3)
                case "moving":
                    with suppress(*REFUSALS):
                        for page in source.pages(index.cursor):
                            index.take(iter([page]))
                            history.step(
                                ("edit", "comment", "delete_comment", "delete")[place % 4], place + 1
                            )
                case "reconcile":
                    index.reconcile(source)
                case _:
                    history.step(what, place)
        world.faults.clear()
        history.show_all()
        for _ in range(2):  # the end of a sweep that was cut off, then one that begins now
            world.clock.moment += timedelta(hours=25)
            index.follow(source)
        index.reconcile(source)
        assert held(index) == history.truth()
        index.follow(source)
        world.asked()
        index.follow(source)
        assert {what.split()[1] for what in world.asked()} <= {"304", "200"}
        assert held(index) == history.truth()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS.filter(lambda step: step[0] not in UNSEEN), max_size=40))
def test_polls_alone_give_every_change_that_says_so(
    stage: tuple[Stage, str], monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int]]
) -> None:
    monkeypatch.setenv("T", TOKEN)
    world = world_of(stage, 3, True)
    history, index = History(world), Index()
    with world.source(repositories=NAMES, sweep_interval_h=10**6) as source:
        index.follow(source)
        for what, place in steps:
            if what in ("read", "killed", "reconcile"):
                index.follow(source, pages=None if what == "read" else 1)
            else:
                history.step(what, place)
        index.follow(source)
        known = held(index)
        assert {key: known.get(key) for key in history.truth()} == history.truth()

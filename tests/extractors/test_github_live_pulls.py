"""Pull requests: branches and reviews by GraphQL or REST, asked again where they stayed away; their own list."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from datetime import timedelta
from typing import Any

import orjson
import pytest

from extractors.base import Reference
from extractors.read import to_document
from schemas.documents import Format, Kind
from tests.extractors.github_world import World, populated
from tests.extractors.test_github_live import ALL_KINDS, kinds
from tests.fakes.serving import App, Receive, Send, answer


def test_a_pull_request_whose_branches_could_not_be_had_is_asked_for_again(world: World) -> None:
    number = world.github.create(world.sluice, pull=True)
    hidden = world.sluice.pulls.pop(number)
    assert [record.format for record in world.read()] == [Format.GITHUB_ISSUE]
    world.sluice.pulls[number] = hidden
    assert [record.format for record in world.read()] == [Format.GITHUB_PULL]
    assert world.read() == []


def test_a_pull_request_whose_branches_stay_away_costs_nothing_once_the_overlap_is_over(world: World) -> None:
    for _ in range(40):
        world.sluice.pulls.pop(world.github.create(world.sluice, pull=True))
    again = [len(world.read()) for _ in range(8)]
    assert again == [40, 40, 40, 40, 40, 0, 0, 0]
    world.asked()
    world.read()
    assert world.asked() == {"/issues 304": 1, "/issues/comments 304": 1, "/pulls/comments 304": 1}


def test_branches_that_could_not_be_had_are_asked_for_again_after_a_crash_too(world: World) -> None:
    world.github.create(world.sluice)
    world.read()
    number = world.github.create(world.sluice, pull=True)
    hidden = world.sluice.pulls.pop(number)
    for _ in range(500):  # five pages are gathered
        world.clock.moment += timedelta(seconds=0.25)
        world.github.create(world.sluice)
    with world.source() as source:
        page = next(source.pages(world.cursor))
    assert page.cursor != world.cursor
    world.cursor = orjson.loads(orjson.dumps(page.cursor))
    world.sluice.pulls[number] = hidden
    world.read()
    assert Format.GITHUB_PULL in {record.format for record in world.read()}


def test_pull_requests_that_are_rare_in_a_list_are_asked_about_together(world: World) -> None:
    for number in range(700):
        world.github.create(world.sluice, pull=number % 10 == 0)
        world.clock.moment += timedelta(seconds=1)
    records = world.read()
    assert (len(records), kinds(records).count("pull")) == (700, 70)
    assert world.asked()["/graphql 200"] == 2  # five pages, then two
    assert len(world.census()) == 700
    assert world.asked()["/graphql 200"] == 2


def test_a_pull_request_that_changes_while_it_is_listed_is_given_as_it_was_last(world: World) -> None:
    numbers = [world.github.create(world.sluice, pull=number == 0) for number in range(150)]
    world.clock.moment += timedelta(minutes=5)

    async def meanwhile(app: App, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        world.github.edit(world.sluice, numbers[0], title="Pump stalls")
        await app(scope, receive, send)

    world.faults.next(meanwhile, prefix="/repositories")
    records = [record for record in world.read() if record.kind is Kind.PULL]
    assert [to_document(record, world.settings()).title for record in records] == ["Pump stalls"]


def test_pull_requests_are_asked_about_again_only_when_they_moved(world: World) -> None:
    sluice = world.sluice
    for _ in range(120):
        world.github.create(sluice, pull=True)
    world.read()
    assert world.asked()["/graphql 200"] == 2
    world.read()
    world.github.review(sluice, 7, "Good.", "APPROVED")
    world.clock.moment += timedelta(minutes=1)
    world.asked()
    assert kinds(world.read()) == ["pull", "review"]
    assert world.asked()["/graphql 200"] == 1


def test_rest_gives_the_bytes_that_graphql_gives(world: World) -> None:
    sluice = populated(world)
    world.github.review(sluice, 2, "", "APPROVED")
    world.github.review(sluice, 2, "By a bot", "COMMENTED")
    list(sluice.reviews[2].values())[-1]["user"] = {"login": "renovate[bot]", "type": "Bot"}
    list(sluice.reviews[2].values())[-2]["user"] = None
    by_graphql = {record.native_id: record.payload for record in world.read()}
    world.cursor, world.github.graphql = None, False
    by_rest = {record.native_id: record.payload for record in world.read()}
    assert by_rest == by_graphql
    assert world.asked()["/pulls/{}/reviews 200"] == 1


@pytest.mark.parametrize(
    "error",
    [
        {"type": "SOME_ERROR", "message": "Something went wrong while executing your query."},
        {"path": ["repository", "p2", "reviews"], "message": "Timeout on this part"},
        {"extensions": {"code": "undefinedField"}, "message": "Field 'fullDatabaseId' doesn't exist"},
    ],
)
def test_what_graphql_gives_with_errors_is_asked_for_by_rest(world: World, error: dict[str, Any]) -> None:
    populated(world)
    world.github.graphql_errors.append(error)
    assert kinds(world.read()) == ALL_KINDS
    assert world.asked()["/pulls/{}/reviews 200"] == 1


def test_a_limit_inside_a_good_graphql_answer_is_waited_out(world: World) -> None:
    populated(world)
    world.github.graphql_errors.append({"type": "RATE_LIMITED", "message": "API rate limit exceeded"})
    assert kinds(world.read()) == ALL_KINDS
    assert world.asked()["/graphql 200"] == 2
    assert 3500 < world.clock.slept_s < 3700


def test_a_query_that_takes_too_long_is_halved(world: World) -> None:
    for _ in range(60):
        world.github.create(world.sluice, pull=True)
    world.faults.next(answer(502), prefix="/graphql")
    assert len(world.read()) == 60
    assert world.asked()["/graphql 200"] == 2


def test_without_a_token_pull_requests_are_read_by_rest(world: World) -> None:
    populated(world)
    assert kinds(world.read(token=None)) == ALL_KINDS
    assert "/graphql 200" not in world.asked()


def test_more_reviews_than_a_query_gives_are_all_read(world: World) -> None:
    world.github.page_size = 25
    world.github.create(world.sluice, pull=True)
    for number in range(70):
        world.github.review(world.sluice, 1, f"Point {number}")
    assert len(world.read()) == 71


def test_a_repository_whose_issues_are_switched_off_is_said_and_its_rest_read(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    sluice = populated(world)
    sluice.has_issues = False
    rest = ["comment", "comment", "pull", "review", "review_comment"]
    with caplog.at_level(logging.WARNING):
        assert kinds(world.read()) == rest
    assert caplog.messages == [
        'source "gh": acme/sluice has no list of issues (HTTP 410): they are switched off'
    ]
    assert sorted(str(kind) for kind, _ in world.census()) == rest
    sluice.has_issues = True
    assert kinds(world.read(24 * 60)) == ALL_KINDS


def test_pull_requests_are_followed_when_issues_are_switched_off_and_on(world: World) -> None:
    sluice = populated(world)
    by_issues = {record.native_id: record.payload for record in world.read() if record.kind is Kind.PULL}
    sluice.has_issues = False
    (pull,) = [record for record in world.read() if record.kind is Kind.PULL]
    assert pull.native_id in by_issues
    assert pull.payload == by_issues[pull.native_id].replace(b'"comments":1,', b'"comments":null,')
    world.read()
    world.asked()
    assert world.read() == []
    assert world.asked() == {"/pulls 304": 1, "/issues/comments 304": 1, "/pulls/comments 304": 1}
    world.github.edit(sluice, 2, title="Pump stalls", updated_at="2026-03-01T12:04:10Z")
    assert "Pump stalls" in {to_document(record, world.settings()).title for record in world.read()}
    with world.source() as source:
        (page,) = source.look_again([Reference(Kind.PULL, pull.native_id, "acme/sluice#2")])
    assert [record.payload for record in page.records] == [world.latest[Kind.PULL, pull.native_id].payload]
    sluice.has_issues = True
    world.read(24 * 60)
    world.asked()
    world.read()
    assert not any(what.startswith("/pulls ") for what in world.asked())


@pytest.mark.parametrize("page_size", [2, 7, 100])
def test_no_pull_request_is_passed_over_while_its_list_moves_under_the_reader(
    world: World, page_size: int
) -> None:
    world.github.page_size, world.sluice.has_issues = page_size, False
    for _ in range(40):
        world.github.create(world.sluice, pull=True)
        world.clock.moment += timedelta(minutes=10)
    with world.source() as source:
        for number, page in enumerate(source.pages(None), start=1):
            world.latest |= {(record.kind, record.native_id): record for record in page.records}
            world.cursor = orjson.loads(orjson.dumps(page.cursor))
            world.clock.moment += timedelta(seconds=5)
            world.github.edit(world.sluice, number, title="Moved to the front")
    world.read()
    titles = {to_document(record, world.settings()).title for record in world.latest.values()}
    assert len(world.latest) == 40
    assert titles == {issue["title"] for issue in world.sluice.values["issues"].values()}


def test_a_reading_of_pull_requests_alone_that_is_killed_begins_again(world: World) -> None:
    world.github.page_size, world.sluice.has_issues = 2, False
    for _ in range(30):
        world.github.create(world.sluice, pull=True)
        world.clock.moment += timedelta(minutes=10)
    with world.source() as source:
        page = next(source.pages(None))
    assert len(page.records) < 30
    world.cursor = orjson.loads(orjson.dumps(page.cursor))
    assert len(world.read()) == 30


def test_a_poll_of_pull_requests_alone_reads_back_to_what_is_known(world: World) -> None:
    world.github.page_size, world.sluice.has_issues = 2, False
    for _ in range(30):
        world.github.create(world.sluice, pull=True)
        world.clock.moment += timedelta(minutes=10)
    world.read()
    world.asked()
    world.github.edit(world.sluice, 7, title="Pump stalls")
    assert "acme/sluice#7" in {record.locator for record in world.read()}
    assert world.asked()["/pulls 200"] <= 2

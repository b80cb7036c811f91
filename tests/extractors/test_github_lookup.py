"""A document is gone when GitHub says so for it, and never because it could not be seen."""

from __future__ import annotations

from datetime import timedelta

import pytest

from extractors.base import Page, Reference
from schemas.documents import Kind
from tests.extractors.github_world import World, populated
from tests.fakes.serving import answer, github_secondary_limit


def looked(world: World, *references: Reference, **settings: object) -> Page:
    with world.source(**settings) as source:
        (page,) = source.look_again(references)
    assert page.read == len(references)
    return page


def references(world: World) -> dict[Kind, Reference]:
    with world.source() as source:
        return {reference.kind: reference for listed in source.census() for reference in listed}


def test_what_is_there_is_given_as_a_run_gives_it(world: World) -> None:
    populated(world)
    world.read()
    page = looked(world, *references(world).values())
    assert {(r.kind, r.native_id) for r in page.records} <= set(world.latest)
    assert all(r.payload == world.latest[r.kind, r.native_id].payload for r in page.records)
    assert len(page.records) == 5


def test_what_was_deleted_is_a_tombstone_of_now(world: World) -> None:
    sluice = populated(world)
    known = references(world)
    world.clock.moment += timedelta(hours=1)
    world.github.delete_comment(sluice, int(known[Kind.COMMENT].native_id))
    world.github.delete_comment(sluice, int(known[Kind.REVIEW_COMMENT].native_id))
    world.github.delete_review(sluice, 2, int(known[Kind.REVIEW].native_id))
    world.github.delete(sluice, 1)
    page = looked(world, *known.values())
    assert {(t.kind, t.reason) for t in page.tombstones} == {
        (kind, "deleted") for kind in (Kind.ISSUE, Kind.COMMENT, Kind.REVIEW, Kind.REVIEW_COMMENT)
    }
    assert {t.updated_at for t in page.tombstones} == {world.clock.moment}
    assert [r.kind for r in page.records] == [Kind.PULL]


def test_what_vanished_from_the_listing_alone_is_still_there(world: World) -> None:
    sluice = populated(world)
    issue = references(world)[Kind.ISSUE]
    world.github.vanish(sluice, 1)
    assert Kind.ISSUE not in references(world)
    assert [record.native_id for record in looked(world, issue).records] == [issue.native_id]


def test_a_transferred_issue_is_gone_and_says_where_to(world: World) -> None:
    sluice = populated(world)
    issue = references(world)[Kind.ISSUE]
    world.github.transfer(sluice, 1, world.github.repository("acme/weir"))
    for settings in ({}, {"repositories": ("acme/sluice", "acme/weir")}):
        (tombstone,) = looked(world, issue, **settings).tombstones
        assert tombstone.reason == "transferred to acme/weir"
    hidden = world.github.repository("acme/vault", visible=False)
    issue = Reference(Kind.ISSUE, "77", "acme/sluice#3")
    assert world.github.create(sluice) == 3
    world.github.transfer(sluice, 3, hidden)
    assert looked(world, issue).tombstones[0].reason == "transferred out of sight"


def test_what_kept_its_id_in_a_repository_that_is_not_configured_is_gone(world: World) -> None:
    sluice = populated(world)
    comment = references(world)[Kind.COMMENT]
    world.github.repository("acme/weir")
    said = sluice.values["comments"][int(comment.native_id)]
    moved = said | {"issue_url": "https://api.github.com/repos/acme/weir/issues/9"}
    path = f"/repos/acme/sluice/issues/comments/{comment.native_id}"
    world.faults.next(answer(200, {}, moved), prefix=path, times=2)
    assert looked(world, comment).tombstones[0].reason == "transferred to acme/weir"
    both = ("acme/sluice", "acme/weir")
    assert [record.locator for record in looked(world, comment, repositories=both).records] == [
        f"acme/weir#9 (comment {comment.native_id})"
    ]


def test_another_issue_under_the_number_is_not_the_one_that_was(world: World) -> None:
    populated(world)
    issue = references(world)[Kind.ISSUE]
    again = world.github.repository("acme/sluice")
    world.github.create(again)
    (tombstone,) = looked(world, issue).tombstones
    assert tombstone.reason == "replaced by another with its number"


def test_a_renamed_repository_has_lost_nothing(world: World) -> None:
    sluice = populated(world)
    known = references(world)
    world.github.rename(sluice, "acme/weir")
    for configured in ("acme/sluice", "acme/weir"):
        page = looked(world, *known.values(), repositories=(configured,))
        assert len(page.records) == 5
    world.github.delete(sluice, 1)
    assert len(looked(world, known[Kind.ISSUE], repositories=("acme/weir",)).tombstones) == 1
    renamed = references(world)[Kind.PULL]
    assert renamed.key == "acme/weir#2"
    assert len(looked(world, renamed).records) == 1


def test_a_repository_out_of_sight_says_nothing_of_its_issues(world: World) -> None:
    sluice = populated(world)
    known = references(world)
    sluice.visible = False
    page = looked(world, *known.values())
    assert page.skipped == {"of a repository that is out of sight": 5}


def test_issues_that_were_switched_off_are_not_deleted(world: World) -> None:
    sluice = populated(world)
    known = references(world)
    sluice.has_issues = False
    page = looked(world, *known.values())
    assert page.skipped == {"of a repository whose issues are switched off, or out of sight": 1}
    assert {record.kind for record in page.records} >= {Kind.PULL, Kind.REVIEW, Kind.REVIEW_COMMENT}


def test_pull_requests_that_were_switched_off_or_hidden_are_not_deleted(world: World) -> None:
    sluice = populated(world)
    known = references(world)
    sluice.has_pulls = False
    page = looked(world, known[Kind.REVIEW], known[Kind.REVIEW_COMMENT])
    assert page.skipped == {"of a repository whose pulls are switched off, or out of sight": 2}
    sluice.has_pulls = True
    world.faults.next(
        answer(404, {}, {"message": "Not Found"}), prefix="/repos/acme/sluice/pulls", times=3
    )  # a token that may no longer read them
    page = looked(world, known[Kind.REVIEW], known[Kind.REVIEW_COMMENT])
    assert page.skipped == {"of a repository whose pulls are switched off, or out of sight": 2}


@pytest.mark.parametrize("status", [403, 451])
def test_a_refusal_says_nothing(world: World, status: int) -> None:
    populated(world)
    issue = references(world)[Kind.ISSUE]
    world.faults.next(answer(status, {}, {"message": "no"}), prefix="/repos/acme/sluice/issues/1")
    assert looked(world, issue).skipped == {"not to be seen": 1}


def test_a_limit_is_waited_out_and_no_refusal(world: World) -> None:
    populated(world)
    issue = references(world)[Kind.ISSUE]
    world.faults.next(github_secondary_limit(retry_after_s=7), prefix="/repos/acme/sluice/issues/1")
    assert len(looked(world, issue).records) == 1
    assert world.clock.slept_s == 7


@pytest.mark.parametrize(
    "reference",
    [
        Reference(Kind.ISSUE, "1", "other/place#1"),
        Reference(Kind.ISSUE, "1", "acme/..#1"),
        Reference(Kind.COMMENT, "../1", "acme/sluice#1 (comment 1)"),
        Reference(Kind.COMMENT, "commit:5", "acme/sluice@0123 (comment 5)"),
        Reference(Kind.COMMIT, "0" * 40, "acme/sluice#1"),
        Reference(Kind.ISSUE, "1"),
    ],
)
def test_what_is_not_of_this_source_is_not_asked_for(world: World, reference: Reference) -> None:
    page = looked(world, reference)
    assert sum(page.skipped.values()) == 1
    assert not any("/issues" in path or ".." in path for path in world.faults.paths())

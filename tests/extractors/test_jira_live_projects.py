"""A project that is out of sight takes no issue with it; which one it is, is said with its setting."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from extractors.base import Reference
from schemas.documents import Kind
from schemas.errors import OutOfSight, QueryRefused, SourceUnavailable
from tests.extractors.jira_world import World, world
from tests.fakes.serving import answer


@pytest.fixture(params=["cloud", "data_center"])
def w(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(data_center=request.param == "data_center") as made:
        yield made


def looked_at(w: World, *ids: int, **options: Any) -> tuple[list[int], list[int], str]:
    """(there, gone, what was said after that)"""
    references = [Reference(Kind.ISSUE, str(number), w.jira.keys[number]) for number in ids]
    there, gone = [], []
    try:
        for page in w.site(**options).look_again(references):
            there += [int(record.native_id) for record in page.records]
            gone += [int(tombstone.native_id) for tombstone in page.tombstones]
    except OutOfSight as error:
        return there, gone, str(pickle.loads(pickle.dumps(error)))
    return there, gone, ""


def test_a_project_that_the_account_lost_takes_no_issue_with_it_and_is_named(w: World) -> None:
    lost = [w.jira.create("LOST", summary="a") for _ in range(120)]
    stays, deleted = w.jira.create("ABC", summary="b"), w.jira.create("ABC", summary="c")
    w.jira.delete(deleted)
    w.jira.lost = {"LOST"}
    there, gone, said = looked_at(w, *lost, stays, deleted)
    assert (there, gone) == ([stays], [deleted])
    assert said.startswith('source "tracker": project LOST is not there, or hidden from the account of token')
    assert "\n" not in said
    assert (w.jira.asked["mypermissions"], w.jira.asked["issue"]) == (2, 1)


def test_a_project_whose_settings_alone_are_still_seen_is_lost(w: World) -> None:
    number = w.jira.create("LOST", summary="a")
    w.jira.lost = w.jira.administered = {"LOST"}
    assert looked_at(w, number)[:2] == ([], [])


def test_what_a_security_level_hides_in_a_project_in_sight_is_gone(w: World) -> None:
    hidden, _ = w.jira.create("ABC", summary="a"), w.jira.create("ABC", summary="b")
    w.jira.hidden = {hidden}
    assert looked_at(w, hidden) == ([], [hidden], "")


def test_of_an_issue_without_a_key_a_404_says_nothing(w: World) -> None:
    number = w.jira.create("ABC", summary="a")
    w.jira.delete(number)
    for key in ("", "ABC", "acme/sluice#4", "ABC-1) OR (id > 0"):
        assert [
            page.tombstones for page in w.site().look_again([Reference(Kind.ISSUE, str(number), key)])
        ] == [()]


def test_an_issue_without_a_key_is_looked_at_where_the_search_does_not_know_it(w: World) -> None:
    w.jira.search_lag_s = 600
    ids = [w.jira.create("ABC", summary=summary) for summary in "ab"]
    (page,) = w.site().look_again([Reference(Kind.ISSUE, str(number)) for number in ids])
    assert [int(record.native_id) for record in page.records] == ids


def test_an_issue_named_twice_is_known_by_the_key_that_it_has(w: World) -> None:
    number = w.jira.create("ABC", summary="a")
    w.jira.delete(number)
    for keys in (["ABC-1", ""], ["", "ABC-1"]):
        (page,) = w.site().look_again([Reference(Kind.ISSUE, str(number), key) for key in keys])
        assert [int(tombstone.native_id) for tombstone in page.tombstones] == [number]


def test_a_whole_project_goes_by_no_setting_alone(w: World) -> None:
    w.jira.create("ABC", summary="a")
    number = w.jira.create("LOST", summary="b")
    w.jira.delete_project("LOST")
    for projects in ([], ["ABC"], ["ABC", "LOST"]):
        there, gone, said = looked_at(w, number, projects=projects)
        assert (there, gone) == ([], [])
        assert said.endswith("have projects name the others and run `headrace forget`")


def test_whoever_does_not_say_what_the_account_may_do_deletes_nothing(w: World) -> None:
    number = w.jira.create("ABC", summary="a")
    w.jira.delete(number)
    for body in (
        {},
        [],
        {"permissions": {}},
        {"permissions": {"BROWSE_PROJECTS": {"havePermission": "yes"}}},
    ):
        w.faults.next(
            answer(200, body=body), prefix=f"/rest/api/{2 if w.jira.data_center else 3}/mypermissions"
        )
        with pytest.raises(SourceUnavailable, match="does not say whether project ABC"):
            looked_at(w, number)


def test_a_project_in_the_configuration_that_is_out_of_sight_is_named(w: World) -> None:
    w.jira.create("ABC", summary="a")
    for refused in (
        lambda: w.sync(w.site(projects=["ABC", "OPS"])),
        lambda: list(w.site(projects=["ABC", "OPS"]).census()),
    ):
        with pytest.raises(QueryRefused) as caught:
            refused()
        assert str(caught.value) == (
            'source "tracker": project OPS is not there, or hidden from the account of token: correct projects, or '
            "give the account Browse projects there"
        )


def test_no_more_projects_are_asked_for_than_are_named(w: World) -> None:
    with pytest.raises(QueryRefused, match=r"projects P0, P1, P2, P3, P4, \.\.\. are not there"):
        w.sync(w.site(projects=[f"P{number}" for number in range(200)]))
    assert w.jira.asked["mypermissions"] == 6

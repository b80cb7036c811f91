"""Whatever happens at a site, in whatever order, and wherever reading is cut off: in the end it is all there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extractors.base import Reference
from schemas.documents import Kind
from tests.extractors.jira_world import Clock, World
from tests.fakes.jira import FakeJira
from tests.fakes.serving import Faults, serve

LONGEST_LAG_S = 250  # within the overlap of 300 s


@dataclass(frozen=True)
class Event:
    """Something at the site after a while; `choice` picks the issue, the search learns of it `lag_s` later."""

    what: str
    choice: int
    after_s: int
    lag_s: int


events = st.builds(
    Event,
    st.sampled_from(["create", "create", "edit", "edit", "comment", "delete_comment", "move", "delete"]),
    st.integers(0, 30),
    st.sampled_from([0, 0, 1, 7, 100, 400, 4000]),
    st.sampled_from([0, 0, 20, LONGEST_LAG_S]),
)


def happen(w: World, event: Event) -> None:
    jira = w.jira
    w.clock.pass_s(event.after_s)
    jira.search_lag_s = event.lag_s
    if event.what == "create" or not jira.issues:
        jira.create("ABC", summary=f"s{event.choice}")
        return
    number = sorted(jira.issues)[event.choice % len(jira.issues)]
    match event.what:
        case "edit":
            jira.edit(number, summary=f"t{event.choice} {w.clock():%H%M%S}")
        case "comment":
            jira.comment(number, f"c{event.choice}")
        case "delete_comment" if jira.issues[number].comments:
            jira.delete_comment(number, int(jira.issues[number].comments[0]["id"]))
        case "move":
            jira.move(number, "XYZ")
        case "delete":
            jira.delete(number)


def reconcile(w: World) -> None:
    """What a census lacks is looked at, and deleted only where Jira says so."""
    listed = {reference.native_id for some in w.site().census() for reference in some}
    missing = [Reference(Kind.ISSUE, number, w.jira.keys[int(number)]) for number in w.held.keys() - listed]
    for page in w.site().look_again(missing):
        w.keep(page)


def shown(payload: bytes) -> tuple[str, str, list[str]]:
    value = orjson.loads(payload)
    said = [comment["body"] for comment in value["fields"]["comment"]["comments"]]
    return value["key"], value["fields"].get("summary", ""), said


def truth(jira: FakeJira) -> dict[str, tuple[str, str, list[str]]]:
    return {
        str(number): (issue.key, issue.fields["summary"], [comment["body"] for comment in issue.comments])
        for number, issue in jira.issues.items()
    }


class _Switch:
    """One server for all examples."""

    app: Any

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[_Switch, str]]:
    switch = _Switch()
    with serve(switch) as url:
        yield switch, url


@pytest.mark.parametrize("data_center", [False, True])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    acts=st.lists(
        st.tuples(
            st.lists(events, max_size=6),  # before a reading
            st.lists(st.lists(events, max_size=3), max_size=4),  # before each of its requests
            st.integers(0, 4),  # pages after which it is killed; 0 for none
        ),
        min_size=1,
        max_size=4,
    ),
    page_cap=st.sampled_from([2, 3, 5, None]),
    epoch_dates=st.booleans(),
)
def test_every_history_ends_in_what_is_there(
    data_center: bool,
    served: tuple[_Switch, str],
    acts: list[tuple[list[Event], list[list[Event]], int]],
    page_cap: int | None,
    epoch_dates: bool,
) -> None:
    clock = Clock()
    jira = FakeJira(clock, data_center=data_center, page_cap=page_cap, epoch_dates=epoch_dates)
    faults = Faults(jira.app)
    switch, url = served
    switch.app = faults
    w = World(jira, clock, faults, url)
    for before, meanwhile, killed_after in acts:
        for event in before:
            happen(w, event)
        coming = iter(meanwhile)

        def some_more(endpoint: str, coming: Iterator[list[Event]] = coming) -> None:
            if endpoint in ("search", "bulkfetch"):
                for event in next(coming, []):
                    happen(w, event)

        jira.before = some_more
        w.sync(w.site(sweep_interval_h=10_000), most_pages=killed_after or None)
        jira.before = lambda endpoint: None
    clock.pass_s(LONGEST_LAG_S)
    w.sync(w.site(sweep_interval_h=10_000))
    reconcile(w)
    w.close()
    assert {number: shown(record.payload) for number, record in w.held.items()} == truth(jira)

"""A Jira site is read whole, kept in step, and never believed when it merely falls silent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from extractors.base import Page, Reference
from extractors.jira_search import RESTARTS
from extractors.jira_site import MAX_GIVEN
from extractors.read import build_extractor
from schemas.documents import Kind
from schemas.errors import BadConfig, SourceUnavailable
from schemas.sources import JiraSource
from tests.extractors.jira_world import World, numbers, world


@pytest.fixture(params=["cloud", "data_center"])
def w(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(data_center=request.param == "data_center") as made:
        yield made


def test_everything_is_read_and_then_only_what_changed(w: World) -> None:
    ids = []
    for number in range(7):
        ids.append(w.jira.create(summary=f"s{number}"))
        w.clock.pass_s(600)
    assert numbers(w.sync()) == ids
    w.clock.pass_s(600)
    w.jira.edit(ids[2], summary="changed")
    w.jira.comment(ids[4], "a word")
    assert numbers(w.sync()) == [ids[6], ids[2], ids[4]]  # the newest is always within the overlap
    assert w.summaries() == w.truth()


def test_what_was_given_is_not_asked_for_again_while_it_is_still_listed(w: World) -> None:
    w.jira.create(summary="old")
    w.sync()
    ids = [w.jira.create(summary=f"s{number}") for number in range(3)]
    w.clock.pass_s(59)
    assert numbers(w.sync())[-3:] == ids
    assert numbers(w.sync())[-3:] == ids  # changed so lately that it may change again and say the same time
    w.clock.pass_s(1)
    assert numbers(w.sync())[-3:] == ids
    w.jira.asked.clear()
    assert numbers(w.sync()) == []
    assert w.jira.asked.total() == 1
    w.jira.edit(ids[1], summary="once more")
    assert numbers(w.sync()) == ids[1:2]
    assert w.summaries() == w.truth()


def test_no_more_is_remembered_of_what_was_given_than_fits_a_cursor(w: World) -> None:
    w.jira.create(summary="old")
    w.sync()
    for number in range(MAX_GIVEN + 20):
        w.jira.create(summary=f"s{number}")
    w.clock.pass_s(60)
    w.sync()
    assert w.cursor is not None
    assert len(w.cursor["given"]) == MAX_GIVEN


def test_the_same_issue_gives_the_same_bytes(w: World) -> None:
    number = w.jira.create(summary="s", labels=["b", "a"])
    for each in range(30):
        w.jira.comment(number, f"c{each}")
    w.sync()
    before = w.held[str(number)].payload
    w.clock.pass_s(30)
    again = w.sync()
    assert numbers(again) == [number]  # the overlap
    assert w.held[str(number)].payload == before
    assert w.held[str(number)].observed_at == w.clock()
    found = next(iter(w.site().look_again([Reference(Kind.ISSUE, str(number))])))
    assert found.records[0].payload == before


def test_a_reading_that_stops_anywhere_goes_on_without_loss(w: World) -> None:
    w.jira.page_cap = 3
    for number in range(20):
        w.jira.create(summary=f"s{number}")
        w.clock.pass_s(100 * (number % 3))
    for attempt in range(6):
        w.sync(most_pages=3 + 2 * attempt)
    assert w.summaries() == w.truth()


def test_a_short_page_is_not_the_last(w: World) -> None:
    w.jira.page_cap = 2
    for number in range(9):
        w.jira.create(summary=f"s{number}")
    w.sync()
    assert w.summaries() == w.truth()


def test_changes_while_pages_are_read_lose_nothing(w: World) -> None:
    w.jira.page_cap = 3
    ids = []
    for number in range(12):
        ids.append(w.jira.create(summary=f"s{number}"))
        w.clock.pass_s(1000)
    w.sync()
    for number in ids:
        w.jira.edit(number, summary=f"t{number}")
        w.clock.pass_s(1000)
    turn = iter(ids)

    def meanwhile(endpoint: str) -> None:
        if endpoint in ("search", "bulkfetch") and (number := next(turn, None)):
            w.clock.pass_s(400)
            w.jira.edit(number, summary="once more")

    w.jira.before = meanwhile
    w.sync()
    w.jira.before = lambda endpoint: None
    w.clock.pass_s(1000)
    w.sync()
    assert w.summaries() == w.truth()


def test_a_deletion_while_everything_is_listed_hides_no_other_issue(w: World) -> None:
    w.jira.page_cap = 3
    ids = []
    for number in range(12):
        ids.append(w.jira.create(summary=f"s{number}"))
        w.clock.pass_s(1)
    doomed = iter(ids[:4])

    def meanwhile(endpoint: str) -> None:
        if endpoint == "search" and (number := next(doomed, None)):
            w.jira.delete(number)

    w.jira.before = meanwhile
    w.sync()
    assert w.truth().items() <= w.summaries().items()


def test_a_page_token_that_expired_ends_the_reading_and_the_next_goes_on_where_it_was() -> None:
    with world(page_cap=100) as w:
        for number in range(350):
            w.jira.create(summary=f"s{number}")
            w.clock.pass_s(1)
        pages = w.site(poll_interval_s=9**9).pages(None)
        for _ in range(2):
            page = next(pages)
            w.keep(page)
            w.cursor = page.cursor
        w.clock.pass_s(8 * 24 * 3600)
        with pytest.raises(SourceUnavailable, match="does not go on with a listing that it began: run again"):
            list(pages)
        assert 150 <= len(numbers(w.sync(w.site(overlap_s=0)))) < 200
        assert w.summaries() == w.truth()


def test_a_listing_that_shifts_at_every_page_is_given_up() -> None:
    with world(data_center=True, page_cap=3) as w:
        for number in range(60):
            w.jira.create(summary=f"s{number}")  # all at the same moment

        def meanwhile(endpoint: str) -> None:
            if endpoint == "search":
                w.jira.delete(min(w.jira.issues))
                w.jira.create(summary="another")

        w.jira.before = meanwhile
        with pytest.raises(SourceUnavailable, match="kept changing while it was read"):
            list(w.site().census())
        assert w.jira.asked["search"] == 2 * (1 + RESTARTS)  # the first made headway


def test_the_first_mark_is_the_newest_change(w: World) -> None:
    number = w.jira.create(summary="a")
    w.clock.pass_s(1000)
    w.jira.create(summary="b")
    w.clock.pass_s(1000)
    w.jira.edit(number, summary="c")
    w.sync(most_pages=1)
    assert w.cursor is not None
    assert w.cursor["mark_ms"] == w.clock().timestamp() * 1000


def test_a_search_that_lags_behind_is_caught_up_with(w: World) -> None:
    w.jira.search_lag_s = 120
    first = w.jira.create(summary="a")
    w.clock.pass_s(600)
    w.jira.create(summary="moves the mark on")
    w.clock.pass_s(600)
    w.sync()
    w.jira.edit(first, summary="late in the index")
    w.clock.pass_s(60)
    w.jira.search_lag_s = 0
    w.jira.create(summary="early in the index")
    w.sync()
    assert w.summaries()[first] == "a"
    w.clock.pass_s(120)
    w.sync()
    assert w.summaries() == w.truth()


def test_an_issue_that_is_newer_than_its_place_in_the_listing_takes_the_mark_nowhere(w: World) -> None:
    w.jira.page_cap = 3
    ids = [w.jira.create(summary="a") for _ in range(8)]
    w.clock.pass_s(1000)
    w.sync()
    for number in ids:
        w.jira.edit(number, summary="b")
        w.clock.pass_s(1000)
    w.jira.search_lag_s = 600
    w.jira.edit(ids[2], summary="c")
    w.sync(most_pages=1)
    w.clock.pass_s(600)
    w.sync()
    assert w.summaries() == w.truth()


def test_the_mark_is_taken_from_issues_and_not_from_the_clock(w: World) -> None:
    number = w.jira.create(summary="a")
    moment = w.clock()
    w.clock.pass_s(5 * 3600)
    w.sync()
    assert w.cursor is not None
    assert w.cursor["mark_ms"] == moment.timestamp() * 1000
    w.jira.redate(number, w.clock() + timedelta(days=3000))
    w.sync()
    assert w.cursor["mark_ms"] == w.clock().timestamp() * 1000
    w.clock.pass_s(60)
    w.jira.create(summary="found all the same")
    w.sync()
    assert w.summaries() == w.truth()


def test_a_sweep_finds_what_changed_without_saying_so(w: World) -> None:
    number = w.jira.create(summary="a")
    w.clock.pass_s(3600)
    w.sync()
    w.jira.edit_silently(number, summary="b")
    w.clock.pass_s(20 * 3600)
    assert numbers(w.sync(w.site(overlap_s=0))) == [number]  # its mark is read again, always
    w.jira.edit(number, summary="c")
    other = w.jira.create(summary="d")
    w.clock.pass_s(1)
    w.sync()
    w.jira.edit_silently(number, summary="e")
    w.clock.pass_s(5 * 3600)
    w.sync(w.site(overlap_s=0, sweep_interval_h=24))
    assert {number, other} == set(w.summaries())
    w.clock.pass_s(24 * 3600)
    w.sync()
    assert w.summaries() == w.truth()


def test_changes_are_not_kept_waiting_by_a_sweep(w: World) -> None:
    for number in range(250):
        w.jira.create(summary=f"s{number}")
        w.clock.pass_s(60)
    first = min(w.jira.issues)
    pages = w.site(poll_interval_s=30).pages(None)
    seen: list[Page] = [next(pages)]
    w.jira.edit(first, summary="news")
    w.clock.pass_s(31)
    seen += [next(pages), next(pages)]
    assert first in numbers(seen[1:])
    pages.close()  # type: ignore[attr-defined]


def test_another_filter_asks_for_everything_again(w: World) -> None:
    old = w.jira.create("XYZ", summary="b")
    w.clock.pass_s(9999)  # out of every overlap
    w.jira.create("ABC", summary="a")
    w.sync(w.site(projects=["ABC"]))
    assert old not in w.summaries()
    assert old in numbers(w.sync(w.site(projects=["ABC", "XYZ"])))


def test_only_the_projects_and_the_filter_are_read(w: World) -> None:
    wanted = w.jira.create("ABC", summary="a", labels=["public"])
    w.jira.create("ABC", summary="b")
    w.jira.create("XYZ", summary="c", labels=["public"])
    w.sync(w.site(projects=["ABC"], jql='labels = "public" OR labels = other'))
    assert list(w.summaries()) == [wanted]


@pytest.mark.parametrize(
    "jql", ["a = 1) OR (b = 2", "labels = x ORDER BY created", 'labels = "x', "((a = 1)"]
)
def test_a_filter_that_would_break_out_is_refused(jql: str) -> None:
    settings = JiraSource(type="jira", name="tracker", site_url="https://jira.example", jql=jql)
    with pytest.raises(BadConfig, match=r"sources\.tracker\.jql"):
        build_extractor(settings, "acme", Path(), print)


def test_a_filter_may_hold_what_looks_like_an_order_in_quotes() -> None:
    jql = """text ~ "order by (" AND labels in ('it''s', "a\\")")"""
    build_extractor(
        JiraSource(type="jira", name="t", site_url="https://jira.example", jql=jql), "acme", Path(), print
    )


def test_an_empty_site_is_said_to_be_empty(w: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pages = w.sync()
    assert [page.read for page in pages] == [0]
    assert "no issue is to be seen" in caplog.text
    w.jira.create(summary="a")
    w.sync()
    assert w.summaries() == w.truth()


# Minutes in place of milliseconds


@pytest.mark.parametrize("zone", ["America/St_Johns", "Pacific/Kiritimati", "UTC", "Europe/Oslo"])
def test_a_server_that_refuses_milliseconds_is_asked_by_minutes_of_the_account(
    zone: str, w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKER", "token")
    w.jira.epoch_dates, w.jira.time_zone, w.jira.accepts = False, zone, "Bearer token"
    site = w.site(token="env:TRACKER", overlap_s=0)
    numbers_made = [w.jira.create(summary="a")]
    w.clock.pass_s(3600)
    w.sync(site)
    for hours in range(0, 24 * 3, 5):
        w.clock.pass_s(5 * 3600)
        numbers_made.append(w.jira.create(summary=f"h{hours}"))
        w.sync(site)
    assert list(w.summaries()) == numbers_made
    assert w.jira.asked["myself"] == 1


def test_without_an_account_minutes_are_asked_for_early_enough(w: World) -> None:
    w.jira.epoch_dates, w.jira.time_zone = False, "Pacific/Niue"  # 11 hours behind
    w.jira.create(summary="a")
    w.clock.pass_s(3600)
    w.sync()
    w.jira.create(summary="b")
    w.clock.pass_s(3600)
    w.sync()
    assert w.summaries() == w.truth()


def test_the_hour_that_comes_twice_loses_nothing(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER", "token")
    w.jira.epoch_dates, w.jira.time_zone, w.jira.accepts = False, "Europe/Oslo", "Bearer token"
    w.clock.moment = datetime(2026, 10, 24, 23, 0, tzinfo=UTC)
    site = w.site(token="env:TRACKER", overlap_s=0)
    for _ in range(20):
        w.jira.create(summary="x")
        w.sync(site)
        w.clock.pass_s(599)
    w.sync(site)
    assert w.summaries() == w.truth()


# Clocks, and a search that lags


@pytest.mark.parametrize("hours", [-30, -1, 1, 30])
def test_a_wrong_clock_of_ours_loses_nothing_and_asks_for_nothing_twice(hours: int, w: World) -> None:
    w.skew_s = hours * 3600
    w.jira.redate(w.jira.create(summary="from the future"), w.clock() + timedelta(days=3000))
    w.jira.create(summary="a")
    w.sync()
    for number in range(40):
        w.clock.pass_s(120)
        w.jira.create(summary=f"s{number}")
        w.sync()
    assert w.summaries() == w.truth()
    assert w.cursor is not None
    assert w.cursor["mark_ms"] == w.clock().timestamp() * 1000
    w.clock.pass_s(400)
    assert len(numbers(w.sync())) <= 3
    assert w.summaries() == w.truth()


def test_many_changes_before_a_quiet_night_are_not_listed_all_through_it(w: World) -> None:
    w.jira.create(summary="old")
    w.clock.pass_s(3600)
    w.sync()
    for number in range(MAX_GIVEN + 700):
        w.jira.create(summary=f"s{number}")
        w.clock.pass_s(0.1)
    w.sync()
    for _ in range(5):
        w.clock.pass_s(60)
        w.sync()
    w.jira.asked.clear()
    for _ in range(60):
        w.clock.pass_s(60)
        assert numbers(w.sync()) == []
    assert w.jira.asked == {"search": 60}
    late = w.jira.create(summary="news")
    assert numbers(w.sync())[-1] == late
    assert w.summaries() == w.truth()


@pytest.mark.parametrize("lag_s", [0, 100, 299])
def test_what_the_search_learns_within_the_overlap_is_found_though_the_mark_stands_still(
    lag_s: int, w: World
) -> None:
    w.jira.create(summary="old")
    w.sync()
    for number in range(10):
        w.clock.pass_s(1000)
        w.jira.search_lag_s = lag_s
        w.jira.create(summary=f"late {number}")
        w.jira.search_lag_s = 0
        w.clock.pass_s(1)
        w.jira.create(summary=f"at once {number}")
        for _ in range(number):
            w.sync()
            w.clock.pass_s(299 / number)
    w.clock.pass_s(300)
    w.sync()
    assert w.summaries() == w.truth()

"""A live GitHub source gives what changed, all that there is when a sweep is due, and asks no more than it must."""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import timedelta
from itertools import islice

import orjson
import pytest

from extractors.formats import Found, recognise
from extractors.github_live import GitHubRepositories
from extractors.read import to_document
from schemas.documents import Format, Kind, SourceRecord
from schemas.errors import AccessRefused, BrokenAnswer, WrongAddress
from tests.extractors.github_world import START, World, populated
from tests.fakes.serving import answer, github_secondary_limit, redirect


def kinds(records: list[SourceRecord]) -> list[str]:
    return sorted(str(record.kind) for record in records)


ALL_KINDS = ["comment", "comment", "issue", "pull", "review", "review_comment"]


def test_the_first_run_gives_everything_and_every_record_makes_a_document(world: World) -> None:
    populated(world)
    records = world.read()
    assert kinds(records) == ALL_KINDS
    documents = {record.kind: to_document(record, world.settings()) for record in records}
    pull = documents[Kind.PULL]
    assert (pull.key, pull.attributes["base"], pull.attributes["head"]) == (
        "acme/sluice#2",
        "main",
        "branch-2",
    )
    assert "Labels: bug, zeal" in documents[Kind.ISSUE].text
    assert documents[Kind.REVIEW].key.startswith("acme/sluice#2 (review ")
    assert documents[Kind.REVIEW].attributes["state"] == "CHANGES_REQUESTED"
    assert all(
        record.observed_at >= START and record.locator == documents_key(record, world) for record in records
    )


def documents_key(record: SourceRecord, world: World) -> str:
    return to_document(record, world.settings()).key


def test_a_record_has_the_identity_that_an_export_of_it_has(world: World) -> None:
    sluice = populated(world)
    world.read()
    rest = [*sluice.values["issues"].values(), *sluice.values["comments"].values()]
    rest += [*sluice.values["review_comments"].values(), *sluice.reviews[2].values()]
    exported = {
        (found.kind, found.native_id)
        for value in rest
        for found in recognise(value)
        if isinstance(found, Found)
    }
    assert exported == set(world.latest)
    for record in world.latest.values():
        (again,) = recognise(orjson.loads(record.payload))
        assert isinstance(again, Found)
        assert (again.format, again.kind, again.native_id) == (record.format, record.kind, record.native_id)


def test_a_poll_without_a_change_is_three_free_requests(world: World) -> None:
    populated(world)
    world.read()
    world.asked()
    assert world.read() == []
    assert world.asked() == {"/issues 304": 1, "/issues/comments 304": 1, "/pulls/comments 304": 1}


def test_a_change_costs_one_request_and_is_given_once(world: World) -> None:
    sluice = populated(world)
    world.read()
    world.read()
    world.asked()
    world.github.edit(sluice, 1, title="Pump stalls", updated_at="2026-03-01T12:01:30Z")
    (record,) = world.read()
    assert to_document(record, world.settings()).title == "Pump stalls"
    assert world.asked() == {"/issues 200": 1, "/issues/comments 304": 1, "/pulls/comments 304": 1}
    assert world.read() == []
    assert world.asked() == {"/issues 304": 1, "/issues/comments 304": 1, "/pulls/comments 304": 1}


def test_what_is_listed_late_is_given_by_the_poll_after_a_run_that_was_cut_off(world: World) -> None:
    sluice = world.sluice
    for _ in range(120):
        world.github.create(sluice)
        world.clock.moment += timedelta(seconds=1)
    world.github.vanish(sluice, 98)  # listed with its neighbours, but later
    with world.source() as source:
        page = next(source.pages(None))
    world.cursor = orjson.loads(orjson.dumps(page.cursor))
    assert len(page.records) == 100
    world.read()
    world.github.silent_update(sluice, 98)
    assert "acme/sluice#98" in {record.locator for record in world.read()}


def test_a_full_page_does_not_hide_what_comes_after_it(world: World) -> None:
    world.github.page_size = 30  # whatever is asked for
    for number in range(1, 36):
        world.github.create(world.sluice)
        assert [record.locator for record in world.read()] == [f"acme/sluice#{number}"]


def test_without_comments_nothing_but_issues_is_asked_for(world: World) -> None:
    populated(world)
    assert kinds(world.read(comments=False)) == ["issue", "pull"]
    assert set(world.asked()) == {"/issues 200", "/graphql 200"}
    assert {kind for kind, _ in world.census(comments=False)} == {Kind.ISSUE, Kind.PULL}


def test_a_sweep_finds_what_changed_without_saying_so(world: World) -> None:
    sluice = populated(world)
    world.read()
    world.github.silent_update(sluice, 1, labels=[{"name": "regression"}])
    sluice.pulls[2]["base"]["ref"] = "stable"
    world.read()
    changed = [record for record in world.read(minutes=24 * 60) if record.kind in (Kind.ISSUE, Kind.PULL)]
    issue, pull = (to_document(record, world.settings()) for record in changed)
    assert issue.attributes["labels"] == ["regression"]
    assert pull.attributes["base"] == "stable"


def test_what_nobody_reads_of_a_payload_changes_no_byte(world: World) -> None:
    sluice = populated(world)
    before = {record.native_id: record.payload for record in world.read()}
    for value in sluice.values["issues"].values():
        value["user"] |= {"avatar_url": "https://elsewhere", "site_admin": True}
        value["labels"].reverse()
        value["reactions"] = {"total_count": 7}
    for number in (1, 2):
        world.github.silent_update(sluice, number, closed_by=None, locked=True)
    assert {record.native_id: record.payload for record in world.read(24 * 60)} == before


def test_two_changes_within_the_second_of_a_poll_are_both_seen(world: World) -> None:
    world.github.create(world.sluice, pull=True)
    world.read()
    world.github.review(world.sluice, 1, "First.")
    assert kinds(world.read(0)) == ["pull", "review"]
    world.github.review(world.sluice, 1, "Second.")
    assert kinds(world.read(0)) == ["pull", "review", "review"]


def test_a_change_that_is_listed_late_is_given_by_the_next_poll(world: World) -> None:
    sluice = world.sluice
    for _ in range(60):
        world.github.create(sluice)
        world.clock.moment += timedelta(seconds=5)
    world.read()
    world.github.edit(sluice, 1, title="Listed late")
    world.github.vanish(sluice, 1)
    world.clock.moment += timedelta(seconds=100)
    for number in range(2, 60):
        world.github.edit(sluice, number)
    assert len(world.read()) == 58
    world.github.silent_update(sluice, 1)
    assert [orjson.loads(record.payload)["title"] for record in world.read()] == ["Listed late"]


@pytest.mark.parametrize("keyset", [(), ("issues", "comments")])
@pytest.mark.parametrize("page_size", [2, 3, 7])
def test_no_record_is_passed_over_while_the_list_moves(
    world: World, keyset: tuple[str, ...], page_size: int
) -> None:
    world.github.keyset, world.github.page_size = set(keyset), page_size
    sluice = world.sluice
    for _ in range(12):
        world.github.create(sluice)
        world.clock.moment += timedelta(seconds=30)
    with world.source() as source:
        for number, page in enumerate(source.pages(None), start=1):
            world.latest |= {(record.kind, record.native_id): record for record in page.records}
            if number < 6:
                world.clock.moment += timedelta(seconds=2)
                world.github.edit(sluice, number, title="Moved to the end")
                world.github.delete(sluice, 12 - number)
    assert {str(issue["id"]) for issue in sluice.values["issues"].values()} <= {i for _, i in world.latest}


def test_a_run_killed_at_any_page_loses_nothing(world: World) -> None:
    world.github.page_size = 3
    sluice = world.sluice
    for number in range(1, 9):
        world.github.create(sluice, pull=number % 2 == 0)
        world.github.comment(sluice, number)
        world.clock.moment += timedelta(seconds=20)
    for _ in range(100):
        with world.source() as source:
            page = next(source.pages(world.cursor), None)
        if page is None:
            break
        world.cursor = orjson.loads(orjson.dumps(page.cursor))
        world.latest |= {(record.kind, record.native_id): record for record in page.records}
    assert set(world.latest) == world.census()


def test_a_link_with_a_place_in_the_order_is_followed_as_it_stands(world: World) -> None:
    for _ in range(250):
        world.github.create(world.sluice)
        world.clock.moment += timedelta(seconds=1)
    assert len(world.read()) == 250
    lists = [seen for seen in world.faults.requests if seen.path.endswith("/issues")]
    assert [("after" in seen.query, seen.path) for seen in lists] == [
        (False, "/repos/acme/sluice/issues"),
        (True, f"/repositories/{world.sluice.id}/issues"),
        (True, f"/repositories/{world.sluice.id}/issues"),
    ]


def test_every_list_is_asked_for_since_shortly_before_the_newest_change(world: World) -> None:
    for number in range(1, 41):
        world.github.create(world.sluice, pull=number == 1)
        world.github.comment(world.sluice, number)
        world.github.review_comment(world.sluice, 1)
        world.clock.moment += timedelta(minutes=1)
    world.read()
    newest = world.clock.moment - timedelta(minutes=2)
    world.faults.clear()
    world.read()
    since = {
        seen.path.removeprefix("/repos/acme/sluice"): seen.query["since"]
        for seen in world.faults.requests[:3]
    }
    assert since == dict.fromkeys(
        ("/issues", "/issues/comments", "/pulls/comments"),
        f"{newest - timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}",
    )


def test_deep_pages_that_are_refused_are_reached_by_time(world: World) -> None:
    world.github.keyset, world.github.page_size, world.github.deepest_page = set(), 2, 2
    for number in range(9):
        world.github.create(world.sluice)
        world.clock.moment += timedelta(seconds=number % 3)
    assert len({record.native_id for record in world.read()}) == 9


def test_a_full_page_without_its_link_does_not_end_a_list(world: World) -> None:
    for _ in range(150):
        world.github.create(world.sluice)
        world.clock.moment += timedelta(seconds=3)
    whole = world.census()
    body = b"[" + b",".join(list(world.sluice.lists["issues"].bodies.values())[:100]) + b"]"
    world.faults.next(answer(200, {}, body), prefix="/repos/acme/sluice/issues")
    assert world.census() == whole


def test_a_census_is_everything(world: World) -> None:
    populated(world)
    world.read()
    assert world.census() == set(world.latest)


@pytest.mark.parametrize(
    "body",
    [
        b'[{"message": "API rate limit exceeded", "documentation_url": "https://x"}]',
        b'{"message": "Server Error"}',
        b'[{"id": 3}]',
    ],
)
def test_a_census_with_an_error_in_it_raises(world: World, body: bytes) -> None:
    populated(world)
    world.faults.next(answer(200, {}, body), prefix="/repos/acme/sluice/issues/comments")
    with pytest.raises(BrokenAnswer, match=r"torn|no record"):
        world.census()


def test_an_element_that_is_no_record_is_a_dead_letter_and_the_rest_is_read(world: World) -> None:
    world.github.create(world.sluice)
    body = orjson.dumps([{"id": 3}, world.sluice.values["issues"][1]])
    world.faults.next(answer(200, {}, body), prefix="/repos/acme/sluice/issues")
    with world.source() as source:
        page = next(source.pages(None))
    assert (len(page.records), len(page.dead_letters), page.read) == (1, 1, 2)
    assert page.dead_letters[0].record.format is Format.UNKNOWN


def test_an_error_in_place_of_a_record_makes_no_dead_letter_and_the_list_is_read_again(world: World) -> None:
    world.github.create(world.sluice)
    error = {"message": "API rate limit exceeded", "documentation_url": "https://docs.github.com/rest"}
    body = orjson.dumps([world.sluice.values["issues"][1], error])
    world.faults.next(answer(200, {}, body), prefix="/repos/acme/sluice/issues")
    with pytest.raises(BrokenAnswer, match="came torn"):
        world.read()
    assert (world.cursor, kinds(world.read())) == (None, ["issue"])


def test_records_without_a_time_are_read_and_lead_nowhere(world: World) -> None:
    for _ in range(60):
        world.github.create(world.sluice, updated_at="", created_at=None)
    assert len(world.read()) == len(world.latest) == 60
    world.read()


def test_a_pending_review_is_counted_and_not_given(world: World) -> None:
    world.github.create(world.sluice, pull=True)
    world.github.review(world.sluice, 1, "Draft", "PENDING")
    with world.source() as source:
        page = next(source.pages(None))
    assert (kinds(list(page.records)), page.skipped) == (["pull"], {"pending review": 1})


def test_polls_go_on_while_a_sweep_runs(world: World) -> None:
    world.github.page_size = 5
    sluice = world.sluice
    for number in range(1, 31):
        world.github.create(sluice)
        world.github.comment(sluice, number)
        world.clock.moment += timedelta(seconds=40)
    world.read()
    world.clock.moment += timedelta(hours=24)
    late: list[int] = []
    with world.source() as source:
        for number, page in enumerate(source.pages(world.cursor)):
            world.clock.moment += timedelta(seconds=30)
            if number == 2:
                comment = world.github.comment(sluice, 9, "News while sweeping")
            late += [number for record in page.records if b"News while sweeping" in record.payload]
    assert comment
    assert late[0] <= 6


def test_a_repository_with_nothing_in_it_has_nothing(world: World) -> None:
    assert world.read() == []
    assert world.census() == set()
    world.asked()
    assert world.read() == []
    assert sum(world.asked().values()) == 3


def test_a_conflict_means_that_there_is_no_such_list_yet(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    populated(world)
    world.faults.next(
        answer(409, {}, {"message": "Git Repository is empty."}), prefix="/repos/acme/sluice/pulls"
    )
    assert kinds(world.read()) == ["comment", "comment", "issue", "pull", "review"]
    assert caplog.messages[0].endswith("acme/sluice has no list of review_comments (HTTP 409): it is empty")
    assert "review_comment" in kinds(world.read(24 * 60))


def test_a_wait_is_told_before_it_begins(world: World) -> None:
    populated(world)
    told: list[tuple[str, float]] = []
    world.faults.next(github_secondary_limit(retry_after_s=7))
    world.github.limit, world.github._used = 1000, 799
    source = GitHubRepositories(
        world.settings(),
        "acme",
        lambda why, seconds: told.append((why, seconds + world.clock.slept_s)),
        now=world.clock.now,
        sleep=world.clock.sleep,
    )
    with closing(source):
        assert sum(len(page.records) for page in source.pages(None)) == len(ALL_KINDS)
    (limit, until_s), (reserve, full_at_s) = told
    assert (limit.split(": ")[1].startswith("GitHub at"), limit.endswith("limits requests")) == (True, True)
    assert reserve.endswith("the reserve of requests is reached")
    assert (until_s, full_at_s) == (7, world.clock.slept_s)


def test_a_renamed_repository_is_followed_and_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    sluice = populated(world)
    world.read()
    world.github.rename(sluice, "acme/weir")
    with caplog.at_level(logging.WARNING):
        records = world.read(24 * 60)
    assert {(record.kind, record.native_id) for record in records} == set(world.latest)
    assert len(world.latest) == len(ALL_KINDS)
    assert to_document(records[0], world.settings()).key == "acme/weir#1"
    assert caplog.messages == ['source "gh": acme/sluice has another name now: change `repositories`']


def test_another_version_of_the_cursor_reads_everything_again(world: World) -> None:
    populated(world)
    world.read()
    for cursor in ({"version": 99, "repositories": {}}, {"file": "x"}):
        world.cursor = cursor
        assert kinds(world.read()) == ALL_KINDS


def test_credentials_do_not_follow_a_link_or_a_redirect_elsewhere(world: World) -> None:
    populated(world)
    link = {"link": '<https://evil.example/repos?after=1>; rel="next"'}
    world.faults.next(answer(200, link, b"[]"), prefix="/repos/acme/sluice/issues")
    with pytest.raises(WrongAddress, match=r"evil\.example"):
        world.read()
    world.faults.next(redirect("https://evil.example/"), prefix="/repos/acme/sluice/issues")
    with pytest.raises(WrongAddress, match=r"evil\.example"):
        world.read()


def test_a_list_that_leads_back_to_itself_is_refused(world: World) -> None:
    populated(world)
    here = f"{world.url}/repos/acme/sluice/issues?after=x&sort=updated&direction=asc"
    body = b"[" + world.sluice.lists["issues"].bodies[1] + b"]"
    for _ in range(2):
        world.faults.next(
            answer(200, {"link": f'<{here}>; rel="next"'}, body), prefix="/repos/acme/sluice/issues"
        )
    with pytest.raises(BrokenAnswer, match="repeats itself"):
        world.read()


def test_a_secondary_limit_delays_and_loses_nothing(world: World) -> None:
    populated(world)
    world.faults.next(github_secondary_limit(), times=2)
    assert kinds(world.read()) == ALL_KINDS
    assert world.clock.slept_s == 60 + 120


def test_the_reserve_is_left_to_others(world: World) -> None:
    populated(world)
    world.github.limit = 204
    world.read(reserve=203)
    assert world.clock.slept_s == 0  # a quarter of a small limit is all that is left
    world.github.limit = 1000
    world.cursor, world.github._used = None, 799
    world.read(reserve=200)
    assert 3000 < world.clock.slept_s < 3700


def test_wrong_credentials_name_the_setting_and_not_the_token(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T", "ghp_wrong")
    with pytest.raises(AccessRefused, match="check token") as caught:
        world.read()
    assert "ghp_wrong" not in str(caught.value)


def test_github_enterprise_is_asked_below_its_prefix(world: World) -> None:
    populated(world)
    assert kinds(world.read(api_url=f"{world.url}/api/v3")) == ALL_KINDS
    assert {path.split("/repo")[0] for path in world.faults.paths()} == {"/api/v3", "/api/graphql"}


def test_pages_are_bounded_and_resumable_where_a_pull_request_has_many_reviews(world: World) -> None:
    world.github.create(world.sluice, pull=True)
    for number in range(1100):
        world.github.review(world.sluice, 1, f"Point {number}")
    with world.source() as source:
        first, second, third = islice(source.pages(None), 3)
        assert [len(page.records) for page in (first, second, third)] == [500, 500, 101]
        again = next(source.pages(orjson.loads(orjson.dumps(second.cursor))))
    assert [r.native_id for r in again.records] == [r.native_id for r in first.records]

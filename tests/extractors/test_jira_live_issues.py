"""What is in an issue of a live Jira: all of its comments, whatever breaks; what is gone, when Jira says so."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from extractors.base import Page, Reference, Verifiable
from extractors.exports import ExportFiles
from extractors.jira_payloads import Reading, canonical
from extractors.read import build_extractor, extraction_settings, to_document
from schemas.documents import Document, Format, Kind, Link
from schemas.errors import InvalidPayload, SourceUnavailable
from schemas.sources import ExportSource
from tests.extractors.jira_world import World, numbers, world
from tests.fakes.jira import EPIC_FIELD
from tests.fakes.serving import answer, torn, web_page


@pytest.fixture(params=["cloud", "data_center"])
def w(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(data_center=request.param == "data_center") as made:
        yield made


@pytest.fixture
def cloud() -> Iterator[World]:
    with world() as made:
        yield made


def documents(w: World, **options: Any) -> dict[str, Document]:
    settings = w.settings(**options)
    found = (to_document(record, settings) for record in w.held.values())
    return {document.key: document for document in found}


def references(w: World, *ids: int) -> list[Reference]:
    return [Reference(Kind.ISSUE, str(number), w.jira.keys[number]) for number in ids]


def looked_at(w: World, *ids: int, **options: Any) -> Page:
    pages = list(w.site(**options).look_again(references(w, *ids)))
    return Page(
        tuple(record for page in pages for record in page.records),
        tuple(tombstone for page in pages for tombstone in page.tombstones),
        tuple(letter for page in pages for letter in page.dead_letters),
    )


# Comments


def test_all_comments_are_there_though_few_are_inline(w: World) -> None:
    number = w.jira.create(summary="s")
    for each in range(224):
        w.jira.comment(number, f"comment {each:03}.")
    w.sync()
    (document,) = documents(w).values()
    assert (document.comments_total, document.comments_kept) == (224, 224)
    assert [f"comment {each:03}." in document.text for each in range(224)] == [True] * 224
    assert w.jira.asked["comments"] == (0 if w.jira.data_center else 3)


def test_comments_that_go_or_come_while_they_are_paged_hide_no_other(cloud: World) -> None:
    number = cloud.jira.create(summary="s")
    made = [cloud.jira.comment(number, f"c{each:03}") for each in range(250)]
    first = iter(made)

    def meanwhile(endpoint: str) -> None:
        if endpoint == "comments" and cloud.jira.asked["comments"] in (2, 5):
            cloud.jira.delete_comment(number, next(first))
            if cloud.jira.asked["comments"] == 5:
                cloud.jira.comment(number, "the latest")

    cloud.jira.before = meanwhile
    cloud.sync()
    (document,) = documents(cloud).values()
    assert all(f"c{each:03}" in document.text for each in range(2, 250))
    cloud.jira.before = lambda endpoint: None
    cloud.sync()
    (document,) = documents(cloud).values()
    assert document.comments_total == 249
    assert "the latest" in document.text


def test_comments_too_many_for_one_answer_are_asked_for_in_smaller_pages(cloud: World) -> None:
    number = cloud.jira.create(summary="s")
    for each in range(30):
        cloud.jira.comment(number, f"c{each:03}")
    path = f"/rest/api/3/issue/{number}/comment"
    cloud.faults.next(torn(), prefix=path, times=3)
    cloud.sync()
    (document,) = documents(cloud).values()
    assert document.comments_kept == 30


@pytest.mark.parametrize("kept", [False, True])
def test_restricted_comments_are_counted_and_read_only_if_wanted(kept: bool, w: World) -> None:
    w.jira.service_desks = {"ABC"}
    number = w.jira.create(summary="s")
    w.jira.comment(number, "for all", jsdPublic=True)
    w.jira.comment(number, "for admins", visibility={"type": "role", "value": "Administrators"})
    w.jira.comment(number, "for agents", jsdPublic=False)
    w.sync(w.site(restricted_comments=kept))
    (document,) = documents(w, restricted_comments=kept).values()
    assert document.comments_dropped == ({} if kept else {"restricted": 2})
    payload = document.record.payload
    assert [text in document.text for text in ("for all", "for admins", "for agents")] == [True, kept, kept]
    assert [text in payload for text in (b"for admins", b"for agents")] == [kept, kept]
    assert w.jira.asked["comments"] == (1 if w.jira.data_center and not kept else 0)


def test_comments_that_are_left_out_are_neither_paged_nor_kept(cloud: World) -> None:
    number = cloud.jira.create(summary="s")
    for _ in range(25):
        cloud.jira.comment(number, "a word")
    cloud.sync(cloud.site(comments=False))
    (document,) = documents(cloud, comments=False).values()
    assert cloud.jira.asked["comments"] == 0
    assert b"a word" not in document.record.payload
    assert (document.comments_total, document.comments_kept) == (25, 0)


# Fields


def test_parents_subtasks_and_links_are_links_and_the_address_is_the_site_s(w: World) -> None:
    blocks = {"name": "Blocks", "inward": "is blocked by", "outward": "blocks", "self": "https://x"}
    w.jira.create(
        summary="see DEF-9",
        parent="ABC-77",
        subtasks=[{"key": "ABC-5", "fields": {"summary": "x"}}],
        issuelinks=[{"type": blocks, "outwardIssue": {"key": "DEF-1", "fields": {}}}],
    )
    w.sync()
    (document,) = documents(w).values()
    assert set(document.links) == {
        Link("parent", "jira_issue", "ABC-77"),
        Link("subtask", "jira_issue", "ABC-5"),
        Link("blocks", "jira_issue", "DEF-1"),
        Link("mentions", "jira_issue", "DEF-9"),
    }
    assert document.url == f"{w.url}/browse/ABC-1"


def test_on_data_center_the_epic_is_found_in_its_field() -> None:
    with world(data_center=True) as w:
        w.jira.create(summary="s", **{EPIC_FIELD: "ABC-300"})
        w.jira.create(summary="s", **{EPIC_FIELD: None})
        w.sync()
        assert documents(w)["ABC-1"].links == (Link("epic", "jira_issue", "ABC-300"),)
        assert documents(w)["ABC-2"].links == ()


def test_custom_fields_are_asked_for_by_name(w: World) -> None:
    options = {"custom_fields": {"customfield_10042": "Acceptance criteria"}}
    w.jira.create(summary="s", customfield_10042="It *works*", customfield_7="never")
    w.sync(w.site(**options))
    (document,) = documents(w, **options).values()
    assert "## Acceptance criteria\n\nIt **works**" in document.text
    assert b"never" not in document.record.payload


def test_what_changes_without_being_read_changes_no_byte(w: World) -> None:
    number = w.jira.create(summary="s", status="Open")
    w.sync()
    before = w.held[str(number)].payload
    issue = w.jira.issues[number]
    issue.fields |= {"votes": {"votes": 3}, "status": {"name": "Open", "iconUrl": "https://x/y.png"}}
    issue.fields |= {"watches": {"watchCount": 7}, "summary": "s"}
    assert looked_at(w, number).records[0].payload == before


def nested(levels: int) -> Any:
    node: Any = {"type": "text", "text": "at the bottom"}
    for _ in range(levels):
        node = {"type": "bulletList", "content": [node]}
    return {"type": "doc", "version": 1, "content": [node]}


def test_text_that_is_nested_deeply_is_kept_and_what_no_one_can_write_is_refused() -> None:
    def payload(levels: int) -> bytes:
        return canonical({"id": "1", "key": "ABC-1", "fields": {"description": nested(levels)}}, Reading())

    assert orjson.loads(payload(200))["fields"]["description"] == nested(200)
    assert payload(120).endswith(b'"id":"1","key":"ABC-1"}')
    with pytest.raises(InvalidPayload, match="nested"):
        payload(5000)


def test_a_moved_issue_is_the_same_document_under_another_key(w: World) -> None:
    number = w.jira.create("ABC", summary="s")
    w.sync()
    identity = w.held[str(number)].document_id
    w.jira.move(number, "XYZ")
    w.sync()
    assert w.held[str(number)].document_id == identity
    assert list(documents(w)) == ["XYZ-1"]


def test_what_is_asked_of_a_source_decides_how_its_records_are_read() -> None:
    with world() as w:
        plain = extraction_settings(w.settings())
        for options in ({"restricted_comments": True}, {"custom_fields": {"customfield_1": "A"}}):
            assert extraction_settings(w.settings(**options)) != plain
        assert extraction_settings(w.settings(projects=["ABC"])) == plain


# What breaks


def test_one_issue_that_breaks_every_answer_becomes_a_dead_letter_and_the_others_come(w: World) -> None:
    ids = [w.jira.create(summary=f"s{number}") for number in range(130)]
    w.jira.broken = {ids[57]}
    pages = w.sync()
    assert set(numbers(pages)) == set(ids) - {ids[57]}
    (letter,) = [letter for page in pages for letter in page.dead_letters]
    assert letter.record.native_id == str(ids[57])
    assert (letter.stage, letter.error_type, letter.retriable) == ("read", "BrokenAnswer", True)
    assert letter.record.format is Format.UNKNOWN


def test_an_issue_that_is_too_much_beside_others_is_asked_for_alone(cloud: World) -> None:
    ids = [cloud.jira.create(summary=f"s{number}") for number in range(10)]
    cloud.jira.unhandy = {ids[3], ids[4]}
    assert sorted(numbers(cloud.sync())) == ids


def test_a_site_that_is_out_of_order_makes_no_dead_letters(w: World) -> None:
    for number in range(5):
        w.jira.create(summary=f"s{number}")
    w.sync()
    w.faults.next(answer(502), prefix="/rest/api", times=1000)
    with pytest.raises(SourceUnavailable):
        w.sync()


def test_a_server_that_tears_everything_makes_no_dead_letters(w: World) -> None:
    w.jira.broken = {w.jira.create(summary=f"s{number}") for number in range(5)}
    with pytest.raises(SourceUnavailable):
        w.sync()
    assert w.held == {}


def test_a_torn_answer_is_asked_for_again(w: World) -> None:
    w.jira.create(summary="s")
    path = "/rest/api/2/search" if w.jira.data_center else "/rest/api/3/issue"
    w.faults.next(torn(), prefix=path)
    w.sync()
    assert w.summaries() == w.truth()


@pytest.mark.parametrize(
    "body", [{}, {"issues": None}, {"errorMessages": ["limit"]}, [], {"issues": [{"id": "x"}]}]
)
def test_an_answer_without_issues_is_not_taken_for_an_empty_site(body: Any, w: World) -> None:
    w.jira.create(summary="s")
    w.sync()
    w.faults.next(answer(200, body=body), prefix="/rest/api", method="POST")
    with pytest.raises(SourceUnavailable, match="list of issues"):
        w.sync()
    w.faults.next(answer(200, body=body), prefix="/rest/api", method="POST")
    with pytest.raises(SourceUnavailable):
        list(w.site().census())


# Looking again, and the census


def test_looking_again_tells_what_is_there_from_what_is_gone(w: World) -> None:
    there, gone, hidden, forbidden = (w.jira.create(summary=name) for name in "abcd")
    w.jira.delete(gone)
    w.jira.hidden, w.jira.forbidden = {hidden}, {forbidden}
    found = looked_at(w, there, gone, hidden)
    assert [int(record.native_id) for record in found.records] == [there]
    assert [int(tombstone.native_id) for tombstone in found.tombstones] == [gone, hidden]
    assert found.tombstones[0].reason == "Jira answers 404: deleted, or hidden from this account"
    assert found.tombstones[0].updated_at == w.clock()
    assert looked_at(w, forbidden) == Page()


def test_looking_again_sees_what_the_search_does_not_know_yet(w: World) -> None:
    w.jira.search_lag_s = 600
    number = w.jira.create(summary="new")
    assert [int(record.native_id) for record in looked_at(w, number).records] == [number]


def test_what_left_the_projects_is_gone(w: World) -> None:
    stays, leaves = w.jira.create("ABC", summary="a"), w.jira.create("ABC", summary="b")
    w.jira.move(leaves, "XYZ")
    found = looked_at(w, stays, leaves, projects=["ABC"])
    assert [int(record.native_id) for record in found.records] == [stays]
    assert [int(tombstone.native_id) for tombstone in found.tombstones] == [leaves]


def test_what_joined_the_projects_a_moment_ago_is_not_gone(cloud: World) -> None:
    number = cloud.jira.create("XYZ", summary="a")
    cloud.jira.search_lag_s = 600
    cloud.jira.move(number, "ABC")
    assert looked_at(cloud, number, projects=["ABC"]).tombstones == ()


def test_pages_with_fewer_issues_than_asked_for_bury_none(w: World) -> None:
    w.jira.page_cap = 2
    ids = [w.jira.create("ABC", summary="a") for _ in range(5)]
    leaves = w.jira.create("XYZ", summary="b")
    found = looked_at(w, *ids, leaves, projects=["ABC"])
    assert [int(record.native_id) for record in found.records] == ids
    assert [int(tombstone.native_id) for tombstone in found.tombstones] == [leaves]


def test_nothing_is_said_of_an_issue_that_the_search_does_not_know(w: World) -> None:
    number = w.jira.create("ABC", summary="a")
    w.jira.catch_up()
    del w.jira.index[number]  # as while it is indexed anew
    found = looked_at(w, number, projects=["ABC"])
    assert (found.records, found.tombstones) == ((), ())


@pytest.mark.parametrize(
    "native_id", ["", "ABC-1", "1) OR (id > 0", "../myself", "1" * 30, "commit:4", "１２"]
)
def test_nothing_is_asked_about_what_is_no_issue(native_id: str, cloud: World) -> None:
    references = [Reference(Kind.ISSUE, native_id), Reference(Kind.COMMENT, "10001")]
    assert list(cloud.site().look_again(references)) == []
    assert cloud.faults.requests == []


def test_a_census_names_every_issue_within_the_filter(w: World) -> None:
    w.jira.page_cap = 400
    ids = [w.jira.create("ABC", summary="s") for _ in range(1100)]
    w.jira.create("XYZ", summary="s")
    site = w.site(projects=["ABC"])
    assert isinstance(site, Verifiable)
    found = [reference for some in site.census() for reference in some]
    assert [int(reference.native_id) for reference in found] == ids
    assert found[0].key == "ABC-1"
    assert w.jira.asked["bulkfetch"] == 0


def test_a_server_that_counts_no_further_than_ten_thousand_is_read_beyond() -> None:
    with world(data_center=True) as w:
        ids = []
        for number in range(10_700):
            ids.append(w.jira.create(summary="s"))
            w.clock.pass_s(number % 2)  # many were made at the same moment
        found = [reference for some in w.site().census() for reference in some]
        assert [int(reference.native_id) for reference in found] == ids
        assert w.jira.asked["search"] == 12


def test_a_census_that_breaks_off_says_so(w: World) -> None:
    w.jira.page_cap = 2
    for _ in range(6):
        w.jira.create(summary="s")
    census = w.site().census()
    next(census)
    w.faults.next(web_page(), prefix="/rest/api", times=100)
    with pytest.raises(SourceUnavailable):
        list(census)


# Against real issues


def real(folder: Path) -> list[dict[str, Any]]:
    """With as many comments as there are: the archive had dropped some, not their number."""
    lines = (folder / "jira" / "jira_v2_tidev_sample.jsonl").read_text("utf-8").splitlines()
    issues = [json.loads(line) for line in lines]
    for issue in issues:
        comments = issue["fields"].get("comment") or {}
        comments["total"] = len(comments.get("comments", ()))
    return issues


@pytest.mark.shared_data
def test_real_issues_are_the_same_documents_as_from_an_export(
    shared_data: Path, tmp_path: Path, w: World
) -> None:
    issues = real(shared_data)
    file = tmp_path / "issues.jsonl"
    file.write_bytes(b"\n".join(map(orjson.dumps, issues)))
    export = ExportSource(type="export", name="tracker", paths=(str(file),))
    expected = {
        document.key: document
        for page in ExportFiles(export, "acme").pages(None)
        for document in (to_document(record, export) for record in page.records)
    }
    w.jira.load(issues)
    w.sync()
    found = documents(w)
    assert found.keys() == expected.keys()
    assert len(found) == 163
    for key, document in found.items():
        other = expected[key]
        assert document.record.document_id == other.record.document_id
        assert document.record.updated_at == other.record.updated_at
        for name in ("text", "title", "project", "author", "created_at", "attributes", "links"):
            assert getattr(document, name) == getattr(other, name), (key, name)
        for name in ("comments_total", "comments_kept", "comments_dropped"):
            assert getattr(document, name) == getattr(other, name), (key, name)


@pytest.mark.shared_data
def test_no_more_requests_are_made_than_the_issues_need(shared_data: Path, cloud: World) -> None:
    issues = real(shared_data)
    cloud.jira.load(issues)
    for _ in range(250):
        cloud.jira.create(summary="one more")
    for each in range(120):
        cloud.jira.comment(max(cloud.jira.issues), f"c{each}")
    cloud.sync()
    totals = [len(issue.comments) for issue in cloud.jira.issues.values()]
    assert cloud.jira.asked == {
        "serverInfo": 1,
        "search": 1 + math.ceil(len(totals) / 5000),  # where the mark is, and the ids
        "bulkfetch": math.ceil(len(totals) / 100),
        "comments": sum(math.ceil(total / 100) for total in totals if total > 20),
    }
    cloud.jira.asked.clear()
    cloud.clock.pass_s(9999)
    site = cloud.site(overlap_s=0, deployment="cloud")
    cloud.sync(site)
    assert cloud.jira.asked["search"] == 3 + 1  # 250 changes in pages of 100, and where the mark may go


def test_a_data_center_server_gives_hundreds_of_issues_at_once_until_that_is_too_many() -> None:
    with world(data_center=True) as w:
        for number in range(700):
            w.jira.create(summary=f"s{number}")
        w.sync()
        assert w.jira.asked["search"] == 1 + 1 + 2  # where the mark is, the ids, the issues
        w.jira.asked.clear()
        w.jira.broken.add(min(w.jira.issues))
        site = w.site(poll_interval_s=9999)
        w.cursor = None
        w.sync(site)
        halves = w.jira.asked["search"]
        w.jira.broken.clear()
        w.jira.asked.clear()
        w.cursor = None
        w.sync(site)
        assert w.jira.asked["search"] == 1 + 1 + 7 < halves
        assert w.summaries() == w.truth()


def test_a_configured_jira_is_built() -> None:
    with world() as w:
        assert build_extractor(w.settings(), "acme", Path(), print).name == "tracker"

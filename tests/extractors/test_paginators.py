"""Listings are followed to their end, and to an end."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors import paginators
from extractors.http import Answer
from extractors.paginators import LinkHeader, NextPageToken, PageRequest, Paginator, StartAt, next_link
from schemas.errors import BrokenAnswer

LISTING = PageRequest("/repos/o/r/issues", {"per_page": 100})
SEARCH = PageRequest("/search", {"jql": "project = MILL"})


def answered(
    body: Any, link: str = "", url: str = "https://api.example/repos/o/r/issues?per_page=100"
) -> Answer:
    return Answer(200, url, httpx.Headers({"link": link} if link else {}), body, False)


@pytest.mark.parametrize(
    ("header", "target"),
    [
        (
            '<https://api.github.com/repositories/1/issues?page=2>; rel="next", '
            '<https://api.github.com/repositories/1/issues?page=9>; rel="last"',
            "https://api.github.com/repositories/1/issues?page=2",
        ),
        (
            '<https://api.github.com/x?page=1>; rel="prev", <https://api.github.com/x?after=a,b%3D%3D>; rel="next"',
            "https://api.github.com/x?after=a,b%3D%3D",
        ),
        ("</x?page=2>; rel=next", "/x?page=2"),
        ('</x>; title="a, <b>; rel=\\"next\\""; rel=last', None),
        ('</x>; title="; rel=next"; rel=last', None),
        ('</x>; title="\\"; rel=next', None),
        ("</x>; rel=last; rel=next", None),
        ('</x>; REL = "prev Next"', "/x"),
        ('</x>; relation="next"', None),
        ('<https://api.github.com/x?page=1>; rel="first"', None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_the_next_link_is_found_among_others(header: str, target: str | None) -> None:
    assert next_link(header) == target


@pytest.mark.parametrize("header", ["<" * 50_000, '<x>; a="' + "\\" * 50_000, "<x>;rel" + " " * 50_000])
@pytest.mark.timeout(5)
def test_a_hostile_link_header_is_read_in_no_time(header: str) -> None:
    assert next_link(header) is None


@given(st.text(alphabet='<>;,="\\ relnext', max_size=40))
def test_any_link_header_can_be_read(header: str) -> None:
    target = next_link(header)
    assert target is None or f"<{target}>" in header


def test_a_listing_is_followed_by_its_links_until_there_is_none() -> None:
    follow = LinkHeader()
    second = follow(LISTING, answered([1], '<https://api.example/repositories/7/issues?page=2>; rel="next"'))
    assert second == PageRequest("https://api.example/repositories/7/issues?page=2")
    assert follow(second, answered([2], '<https://api.example/x?page=1>; rel="first"')) is None


def test_a_relative_link_is_seen_from_where_the_answer_came() -> None:
    assert LinkHeader()(LISTING, answered([1], '<?page=2>; rel="next"')) == PageRequest(
        "https://api.example/repos/o/r/issues?page=2"
    )


def test_a_link_that_leads_back_is_refused() -> None:
    follow = LinkHeader()
    page = answered([1], '<https://api.example/x?page=2>; rel="next"')
    following = follow(LISTING, page)
    assert following is not None
    with pytest.raises(BrokenAnswer, match="there before"):
        follow(following, page)


def test_a_token_is_handed_back_with_the_query_it_belongs_to() -> None:
    follow = NextPageToken()
    second = follow(SEARCH, answered({"issues": [{"id": "1"}], "nextPageToken": "t1"}))
    assert second == PageRequest("/search", {"jql": "project = MILL", "nextPageToken": "t1"})
    assert follow(second, answered({"issues": [{"id": "2"}]})) is None


def test_a_token_goes_into_the_body_of_a_post() -> None:
    asked = PageRequest("/search", body={"jql": "project = MILL"})
    following = NextPageToken()(asked, answered({"issues": [1], "nextPageToken": "t1"}))
    assert following == PageRequest("/search", body={"jql": "project = MILL", "nextPageToken": "t1"})


@pytest.mark.parametrize("end", [{}, {"nextPageToken": None}, {"nextPageToken": "t", "isLast": True}])
def test_tokens_end_in_each_of_the_ways_jira_knows(end: dict[str, Any]) -> None:
    assert NextPageToken()(SEARCH, answered({"issues": [1], **end})) is None


def test_the_same_token_again_is_refused() -> None:
    follow = NextPageToken()
    page = answered({"issues": [1], "nextPageToken": "t1"})
    follow(SEARCH, page)
    with pytest.raises(BrokenAnswer, match="there before"):
        follow(SEARCH, page)


def test_an_empty_page_is_passed_over_but_not_for_ever() -> None:
    follow = NextPageToken()
    for number in range(paginators.MAX_EMPTY_PAGES - 1):
        assert follow(SEARCH, answered({"issues": [], "nextPageToken": f"t{number}"})) is not None
    with pytest.raises(BrokenAnswer, match="empty pages"):
        follow(SEARCH, answered({"issues": [], "nextPageToken": "another"}))


def test_start_at_counts_what_came_and_not_what_was_asked_for() -> None:
    follow = StartAt()
    asked = PageRequest("/search", {"maxResults": 1000})
    second = follow(asked, answered({"startAt": 0, "maxResults": 50, "total": 60, "issues": [1] * 50}))
    assert second == PageRequest("/search", {"maxResults": 1000, "startAt": 50})
    assert follow(second, answered({"startAt": 50, "total": 60, "issues": [1] * 10})) is None


def test_a_listing_without_a_total_ends_with_an_empty_page() -> None:
    follow = StartAt("values")
    second = follow(PageRequest("/x"), answered({"values": [1]}))
    assert second is not None
    assert follow(second, answered({"values": []})) is None


def test_a_page_of_what_may_not_be_seen_is_passed_over() -> None:
    follow = StartAt()
    following = follow(PageRequest("/search"), answered({"maxResults": 50, "total": 120, "issues": []}))
    assert following == PageRequest("/search", {"startAt": 50})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"total": 5, "issues": []}, "gave nothing"),
        ({"startAt": 7, "total": 9, "issues": [1]}, "elsewhere"),
        ({"total": -1, "issues": [1]}, "no count"),
        ({"total": "9", "issues": [1]}, "no count"),
        ({"total": 9}, "no list of issues"),
        ([], "no list of issues"),
        (None, "no list of issues"),
    ],
)
def test_a_page_that_does_not_add_up_is_refused(body: Any, why: str) -> None:
    with pytest.raises(BrokenAnswer, match=why):
        StartAt()(PageRequest("/search"), answered(body))


PAGE = st.fixed_dictionaries(
    {"issues": st.lists(st.integers(), max_size=2)},
    optional={
        "nextPageToken": st.sampled_from(["a", "b", "c", "", None, 7]),
        "isLast": st.booleans(),
        "startAt": st.integers(0, 3),
        "total": st.integers(0, 10**9),
        "maxResults": st.integers(0, 3),
    },
)


@given(st.sampled_from([NextPageToken, StartAt]), PAGE)
def test_whatever_a_page_repeats_its_listing_ends(
    kind: type[NextPageToken | StartAt], body: dict[str, Any]
) -> None:
    follow: Paginator = kind()
    request: PageRequest | None = SEARCH
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paginators, "MAX_PAGES", 20)
        for _ in range(30):
            if request is None:
                return
            try:
                request = follow(request, answered(body))
            except BrokenAnswer:
                return
    raise AssertionError("it goes on")

"""What counts as a reference, to what, and whether it fixes it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.references import MAX_LINKS, find_references
from schemas.documents import Link

SHA = "2ac89889f4cc330edd479f8dcbef02828522455b"
HERE = "acme/tunnel"


def keys(text: str, repository: str = HERE) -> list[str]:
    return [link.target_key for link in find_references(text, repository)]


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("see PROJ-12.", Link("mentions", "jira_issue", "PROJ-12")),
        ("[AB2-7] faster", Link("mentions", "jira_issue", "AB2-7")),
        ("Merge branch 'feature/PROJ-12-faster'", Link("mentions", "jira_issue", "PROJ-12")),
        ("https://jira.example.com/browse/PROJ-12?x=1#c", Link("mentions", "jira_issue", "PROJ-12")),
        ("faster (#12)", Link("mentions", "github", "acme/tunnel#12")),
        ("GH-12", Link("mentions", "github", "acme/tunnel#12")),
        ("as in other/place.js#12", Link("mentions", "github", "other/place.js#12")),
        ("https://github.com/o/r/pull/12/files#diff-1", Link("mentions", "github", "o/r#12")),
        ("https://github.acme.com/o/r/issues/12#issuecomment-99", Link("mentions", "github", "o/r#12")),
        (f"https://github.com/o/r/commit/{SHA}", Link("mentions", "commit", SHA)),
        (f"This reverts commit {SHA}.", Link("mentions", "commit", SHA)),
    ],
)
def test_a_reference_becomes_one_link(text: str, link: Link) -> None:
    assert find_references(text, HERE) == (link,)


@pytest.mark.parametrize(
    "text",
    [
        "UTF-8 SHA-1 SHA-256 ISO-8859-1 RFC-2822 CVE-2020-1234 AES-256 X-12 x86-64",
        "id F082145F-2193-4AE9-9EF2-AA37-45823B0FB1AC",
        "proj-12 PROJ-0 PROJ-1.2 PROJ-12a 1PROJ-2",
        "#fff #ffffff #0 #012 &#39; word#12 ##3 #12px #1.5",
        "color: #123456; background-color:#333",
        '[up](#12) <a href="#12">',
        "https://example.com/page#12 https://example.com/PROJ-12",
        "0" * 40,
        SHA.upper(),
        SHA + "0",
        "a" * 64,
    ],
)
def test_what_only_looks_like_a_reference_is_none(text: str) -> None:
    assert keys(text) == []


@pytest.mark.parametrize(
    "word", ["fix", "Fixes", "FIXED", "close", "closes:", "Closed", "resolve", "resolves", "Resolved:"]
)
@pytest.mark.parametrize(
    "target", ["#7", "PROJ-7", "[PROJ-7]", "o/r#7", "https://github.com/o/r/issues/7", SHA]
)
def test_the_words_by_which_github_closes_an_issue_make_a_fix(word: str, target: str) -> None:
    assert [link.relation for link in find_references(f"It {word} {target}.", HERE)] == ["fixes"]


@pytest.mark.parametrize(
    "text", ["suffix #7", "prefixes #7", "bug-fix #7", "fix for #7", "fix\n#7", "fixing #7"]
)
def test_other_words_only_mention(text: str) -> None:
    assert [link.relation for link in find_references(text, HERE)] == ["mentions"]


def test_bare_numbers_need_to_know_their_repository() -> None:
    assert keys("fixes #12, GH-13 and o/r#14", repository="") == ["o/r#14"]


def test_a_target_has_one_link_where_it_first_stood_and_a_fix_wins() -> None:
    found = find_references("see #2, #1, #2; fixes #1; see #1 and acme/tunnel#2", HERE)
    assert found == (Link("mentions", "github", "acme/tunnel#2"), Link("fixes", "github", "acme/tunnel#1"))


def test_a_text_has_at_most_so_many_links_and_a_late_fix_of_one_of_them_still_counts() -> None:
    found = find_references(" ".join(f"#{n}" for n in range(1, 3000)) + " fixes #5", HERE)
    assert len(found) == MAX_LINKS
    assert found[4] == Link("fixes", "github", "acme/tunnel#5")


@given(
    st.lists(
        st.sampled_from(
            ["PROJ-1", "#2", "o/r#3", SHA, "fixes ", ": ", " ", "\n", "https://", "/", "é", "\x00", "(", "-"]
        )
    )
)
def test_any_text_gives_each_target_once(parts: list[str]) -> None:
    found = keys("".join(parts))
    assert len(found) == len(set(found))


@pytest.mark.alone
@pytest.mark.parametrize(
    "piece", ["A", "a/", "#1", "fix ", "PROJ-1 ", "https://", "color:#123 ", "f", "a-", "A1-1-", "/browse/"]
)
def test_time_is_linear_in_the_text(piece: str) -> None:
    started = time.perf_counter()
    find_references(piece * (1_000_000 // len(piece)), HERE)
    assert time.perf_counter() - started < 5

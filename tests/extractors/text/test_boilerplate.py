"""What reaches the database is valid, tidy, and the same when tidied again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.text.boilerplate import is_bot, normalize

ANYTHING = st.text(alphabet=st.characters(exclude_categories=()), max_size=200)
FENCED = st.lists(
    st.sampled_from(
        ["```", "````js", "~~~", "> ```", "- ```", "  ", "", "text  ", "> quote", "1. x\x00", "\r", "\x1b[1m"]
    )
).map("\n".join)

CASES = {
    "line ends": ("a\r\nb\rc\nd", "a\nb\nc\nd"),
    "control characters": ("a\x00b\x07\tc\x7f", "ab\tc"),
    "terminal colours": ("\x1b[1;31mERROR\x1b[0m x", "ERROR x"),
    "form feed": ("a\x0cb", "a\nb"),
    "lone surrogate": ("a\ud800b", "a\ufffdb"),
    "surrogate pair": ("\ud83d\ude00", "😀"),
    "trailing blanks": ("a  \nb\t\n", "a\nb"),
    "blank lines": ("\n\na\n\n \n\nb\n\n", "a\n\nb"),
    "indentation": ("  a\n    b", "  a\n    b"),
    "code": ("x\n\n\n```\na  \n\n\n\nb\n```\n\n\n\ny ", "x\n\n```\na  \n\n\n\nb\n```\n\ny"),
    "code in a quote that ends": ("> ```\n> a  \n\n\n\nb  ", "> ```\n> a  \n\nb"),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_text_is_made_fit_to_store(text: str, expected: str) -> None:
    assert normalize(text) == expected


@given(ANYTHING | FENCED)
def test_normalizing_twice_changes_nothing_more(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once


@given(ANYTHING | FENCED)
def test_the_result_can_always_be_stored(text: str) -> None:
    stored = normalize(text)
    stored.encode("utf-8")
    assert not {char for char in stored if ord(char) < 32 and char not in "\n\t"}


@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cs", "Z")), max_size=100))
def test_nothing_visible_is_lost(text: str) -> None:
    assert normalize(text) == text


@pytest.mark.parametrize(
    ("login", "account_type", "globs", "expected"),
    [
        ("dependabot[bot]", None, [], True),
        ("Renovate[BOT]", "User", [], True),
        ("ci", "Bot", [], True),
        ("ann", "User", ["ci-*"], False),
        ("CI-runner", "User", ["ci-*"], True),
        ("jenkins", None, ["Jenkins"], True),
        ("robot", None, ["*[bot]"], True),  # a glob's brackets are a set of characters
        ("abbot", "User", [], False),
        ("", None, [], False),
    ],
)
def test_machines_are_told_by_account_not_by_text(
    login: str, account_type: str | None, globs: list[str], expected: bool
) -> None:
    assert is_bot(login, account_type, globs) is expected

"""Code keeps within its fence, and a fence left open does not swallow what follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.text.fences import close_open_fence, fence_for, mark_code


@given(st.text(alphabet="`a\n "))
def test_a_fence_is_longer_than_any_run_of_backticks_within(code: str) -> None:
    fence = fence_for(code)
    assert len(fence) >= 3
    assert fence not in code


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb", "00"),
        ("```\na\n```\nb", "1110"),
        ("````\n```\n````\nb", "1110"),
        ("~~~\n```\n~~~\nb", "1110"),
        ("```not``` code", "0"),
        ("```\n```js\n```\nb", "1110"),
        ("- ```\n  a\n  ```\nb", "1110"),
        ("- ```\n  a\nb", "110"),
        ("> ```\n> a\nb", "110"),
        ("1. > ```\n   > a\n   > ```\nb", "1110"),
    ],
)
def test_lines_of_code_are_told_from_text(text: str, expected: str) -> None:
    assert "".join(str(int(is_code)) for _, is_code in mark_code(text.split("\n"))) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a ``` b", "a ``` b"),
        ("```\na", "```\na\n```"),
        ("````js\na\n```\n", "````js\na\n```\n````"),
        ("- ~~~\n  a", "- ~~~\n  a\n  ~~~"),
        ("> ```\n> a", "> ```\n> a\n> ```"),
        ("> ```\n\na", "> ```\n\na"),
    ],
)
def test_an_open_fence_is_closed_where_it_stands(text: str, expected: str) -> None:
    assert close_open_fence(text) == expected


@given(st.lists(st.sampled_from(["```", "~~~", "> ```", "- ````", "a", "", "  ```", "> a"])).map("\n".join))
def test_nothing_added_after_a_closed_text_is_code(text: str) -> None:
    lines = [*close_open_fence(text).split("\n"), "", "after"]
    assert list(mark_code(lines))[-1] == ("after", False)

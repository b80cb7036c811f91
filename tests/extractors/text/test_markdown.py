"""GitHub's Markdown loses its HTML and its template comments, and nothing else."""

from __future__ import annotations

import gzip
import json
import re
import time
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.text import markdown

CASES = {
    "plain Markdown comes back as it is": ("Title\n=====\n* a\n* b <T> a < b", "Title\n=====\n* a\n* b <T> a < b"),
    "line ends": ("a\r\nb", "a\nb"),
    "comment": ("<!-- tell\n\nus -->\n# a\n\nb <!-- c --> d", "# a\n\nb d"),
    "comment without an end": ("a\n\n<!-- b", "a\n\n<!-- b"),
    "comment in code": ("<br>\n\n```html\n<!-- a -->\n![b](c) <b>\n```\n`<!-- d -->`",
                        "```html\n<!-- a -->\n![b](c) <b>\n```\n\n`<!-- d -->`"),
    "image": ("![a b](http://x.example)", "[image: a b]"),
    "image of HTML": ('a <img width=3 src="x" alt="b">', "a [image: b]"),
    "linked image": ("[![build](b.svg)](http://x.example)", "[image: build](http://x.example)"),
    "links": ("<br>[a](http://x.example) http://y.example <http://z.example>",
              "[a](http://x.example) http://y.example <http://z.example>"),
    "details": ("<details><summary>Log</summary>\n\n- a\n\n</details>\n\nb", "**Log**\n\n- a\n\nb"),
    "inline HTML": ("<kbd>Ctrl</kbd><br><b>a</b> *b*", "`Ctrl`\n**a** *b*"),
    "table of HTML": ("<table><tr><td>\n\n**a**\n\n</td><td>b</td></tr></table>", "| **a** | b |\n| --- | --- |"),
    "table of Markdown": ("|a|b|\n|-|-|\n|<b>1</b>|2|", "| a | b |\n| --- | --- |\n| **1** | 2 |"),
    "lists": ("<br>\n\n1. a\n   - b\n2. [x] c", "1. a\n   - b\n2. [x] c"),
    "lines stay lines": ("a<br>\nb\nc", "a\n\nb\nc"),
    "generics are no tags": ("<b>x</b> vector<int> at <stdin> Ptr<cv::Mat>",
                             "**x** vector<int> at <stdin> Ptr<cv::Mat>"),
    "tags that GitHub shows": ("<b>x</b> a <script> tag, <select>", "**x** a <script> tag, <select>"),
    "code without a fence": ("<br>\n\n<View>\n  <Text/>\n</View>", "```\n<View>\n  <Text/>\n</View>\n```"),
    "what looks like a definition": ("<br>\n\n[ERROR]: failed", "[ERROR]: failed"),
    "info of a fence": ("<br>\n\n~~~js title=a\nx\n~~~", "```js title=a\nx\n```"),
    "empty suggestion": ("<br>\n\n```suggestion\n```", "```suggestion\n\n```"),
    "open fence": ("```\na", "```\na\n```"),
    "nothing": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=CASES.keys())
def test_each_construct_reads_as_plain_markdown(text: str, expected: str) -> None:
    assert markdown.to_text(text) == expected


PIECES = (  # noqa: SIM905
    "<b> </b> <details> <summary> </details> <table> <td> <!-- --> <br> <pre> </pre> <stdin> ![ ]( ) [ ] ` ``` ~~~"
    " # > - 1. | * ** _ \\ &amp; < <? <!X"
).split()
SOUP = st.lists(
    st.sampled_from([*PIECES, "\n", "\n\n", "    ", " "]) | st.text(alphabet="kqé", max_size=5)
).map("".join)


@given(SOUP)
def test_words_survive_any_soup_of_markup(soup: str) -> None:
    shown = re.sub(r"<!--.*?(?:-->|$)|\]\(.*?\)|```.*|~~~.*|<[!?].*", " ", soup, flags=re.DOTALL)
    out = markdown.to_text(soup)
    assert [word for word in re.findall(r"[kqé]+", re.sub(r"<[^<>]*>", " ", shown)) if word not in out] == []


@given(st.text() | SOUP)
def test_no_text_makes_it_fail(anything: str) -> None:
    assert isinstance(markdown.to_text("<br>" + anything), str)


@pytest.mark.parametrize("prefix", ["> ", "- ", "  - "])
def test_nesting_beyond_the_parser_keeps_the_text(prefix: str) -> None:
    deep = "\n".join(prefix * level + f"w{level}" for level in range(1, 300))
    assert {f"w{level}" for level in range(1, 300)} <= set(
        re.findall(r"\w+", markdown.to_text("<br>\n\n" + deep))
    )


@pytest.mark.alone
@pytest.mark.parametrize(
    "unit",
    ["![", "[", "![a](b", "<", "<a ", "<!--", "`a``b", "*a**b", "> ", "|a", "<b>*", "[[]]", "<div>", "&"],
)
def test_repeated_markup_takes_no_long_time(unit: str) -> None:
    started = time.perf_counter()
    markdown.to_text("<br>\n\n" + unit * (100_000 // len(unit)))
    assert time.perf_counter() - started < 5


def test_no_word_of_real_bodies_is_lost(shared_data: Path) -> None:
    tags = re.compile(r"</?(?:[abips]|br|em|ul|ol|li|h\d|hr|div|img|kbd|pre|sub|sup|code|span|font|samp|table|tbody"
                      r"|thead|t[rdh]|strong|strike|details|summary|blockquote)\b[^<>]*>")  # fmt: skip
    lost: dict[str, set[str]] = {}
    for body in bodies(shared_data / "github"):
        shown = tags.sub(" ", re.sub(r"<!--.*?-->", " ", body, flags=re.DOTALL))
        shown = re.sub(r"(!\[[^\]]*\])\([^)]*\)", r"\1", shown)
        shown = re.sub(r"&\w+;", lambda entity: unescape(entity[0]), shown)
        # An empty list item leaves no number behind.
        words = {word for word in re.findall(r"[^\W_]+", shown) if not word.isdigit()}
        if missing := words - set(re.findall(r"[^\W_]+", markdown.to_text(body))):
            lost[body[:60]] = missing
    assert lost == {}


def bodies(folder: Path) -> set[str]:
    """Those of issues, pulls, comments and reviews that hold anything to convert, and some that do not."""
    found: set[str] = set()
    for name in ("issues_labelled_nlbse24.jsonl.gz", "issues_prs_with_comments.jsonl.gz"):
        with gzip.open(folder / name) as lines:
            for line in lines:
                record = json.loads(line)
                parts = [record, *record.get("comments", []), *record.get("reviews", [])]
                parts += [
                    comment for review in record.get("reviews", []) for comment in review.get("comments", [])
                ]
                found.update(part["body"].replace("\r\n", "\n") for part in parts if part.get("body"))
    return found

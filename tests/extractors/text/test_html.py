"""HTML becomes Markdown with its structure, and cannot make the parser run wild."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.text import html

CASES = {
    "heading and paragraph": ("<h2>A\n b</h2><p>x  y</p>", "## A b\n\nx y"),
    "marks": ("<b>a </b><i>b</i><del>c</del> <kbd>Ctrl</kbd>", "**a** *b*~~c~~ `Ctrl`"),
    "line break": ("a<br>\n b", "a\nb"),
    "link": ('<a href="http://x.example">t</a> <a href="http://y.example">http://y.example</a>',
             "[t](http://x.example) http://y.example"),
    "linked image": ('<a href="http://x.example"><img src="i.png" alt="build"></a>', "[image: build](http://x.example)"),
    "image without words": ("<img src=x>", "[image]"),
    "nested list": ("<ol start=3><li>a<ul><li>b</ul><li>c</ol>", "3. a\n   - b\n4. c"),
    "list of checks": ("<ul><li><input type=checkbox checked> a<li><input type=checkbox> b</ul>", "- [x] a\n- [ ] b"),
    "code": ('<pre><code class="language-js">a\n\n  b\n</code></pre>', "```js\na\n\n  b\n```"),
    "quote": ("<blockquote><p>a<p>b</blockquote>", "> a\n>\n> b"),
    "table": ("<table><tr><th>h<th>i<tr><td>1<td>a|b</table>", "| h | i |\n| --- | --- |\n| 1 | a\\|b |"),
    "details": ("<details><summary>Log</summary>text</details>", "**Log**\n\ntext"),
    "rule": ("a<hr>b", "a\n\n---\n\nb"),
    "script and style": ("a<script>x()</script><style>p{}</style><!-- c -->b", "ab"),
    "entities": ("&lt;T&gt; &amp; &eacute;", "<T> & é"),
    "unknown element": ("<user-card>Ann</user-card>", "Ann"),
    "superscript": ("10<sup>6</sup>", "10^6"),
    "comment that never ends": ("a <!-- b > c", "a <!-- b > c"),
    "tag that never ends": ("a <div b", "a <div b"),
    "cell outside a table": ("<td>a</td>", "a"),
    "table in a table": (
        "<table><tr><td>a<table><tr><td>b<td>c</table><td>d</table>",
        "| a b c | d |\n| --- | --- |",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), CASES.values(), ids=CASES.keys())
def test_each_element_reads_as_markdown(source: str, expected: str) -> None:
    assert html.to_markdown(source) == expected


TAGS = "b i a p div ul ol li table tr td blockquote pre code h1 br details summary span font sup".split()  # noqa: SIM905
PIECES = st.one_of(
    st.sampled_from([f"<{tag}>" for tag in TAGS] + [f"</{tag}>" for tag in TAGS]),
    st.text(alphabet="kq é\n&;", max_size=8),
)


@given(st.lists(PIECES, max_size=40).map("".join))
def test_words_survive_any_soup_of_tags(soup: str) -> None:
    words = re.findall(r"[kqé]+", re.sub(r"<[^<>]*>", " ", soup))
    out = html.to_markdown(soup)
    assert [word for word in words if word not in out] == []


@given(st.text())
def test_no_text_makes_it_fail(anything: str) -> None:
    assert isinstance(html.to_markdown(anything), str)


HOSTILE = {
    "nested blocks": "<div>" * 100_000,
    "nested lists": "<ul><li>x" * 30_000,
    "nested tables": "<table><tr><td>x" * 20_000,
    "attributes": "<p " + " ".join(f"a{i}" for i in range(50_000)) + ">",
    "attributes behind quoted angles": "<p " + " ".join(f'a{i}=">"' for i in range(50_000)) + ">",
    "formatting copied into every block": "".join(f"<font a={i}>" for i in range(400)) + "<p>x" * 50_000,
    "unmatched closings": "<div></span>" * 50_000,
    "angles": "<" * 300_000,
    "open tags": "<a href=" * 40_000,
    "open comments": "<!--" * 80_000,
}


@pytest.mark.alone
@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_input_takes_no_long_time_and_keeps_its_end(source: str) -> None:
    started = time.perf_counter()
    assert "end" in html.to_markdown(source + " end")
    assert time.perf_counter() - started < 4

"""ADF keeps its words and its structure, however it was made."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors.text import adf


def doc(*content: Any) -> dict[str, Any]:
    return {"type": "doc", "version": 1, "content": list(content)}


def text(value: str, *marks: str | dict[str, Any]) -> dict[str, Any]:
    return {"type": "text", "text": value, "marks": [{"type": m} if isinstance(m, str) else m for m in marks]}


def paragraph(*content: Any) -> dict[str, Any]:
    return {"type": "paragraph", "content": [text(c) if isinstance(c, str) else c for c in content]}


def node(kind: str, *content: Any, **attrs: Any) -> dict[str, Any]:
    return {"type": kind, "attrs": attrs, "content": list(content)}


def item(*content: Any) -> dict[str, Any]:
    return node("listItem", *content)


LINK = {"type": "link", "attrs": {"href": "https://a.example/x"}}

CASES = {
    "heading": (node("heading", text("Title"), level=3), "### Title"),
    "marks": (
        paragraph(text("a ", "strong"), text("b", "em"), text(" c", "strike"), text("d", "code")),
        "**a** *b* ~~c~~`d`",
    ),
    "marks shared by neighbours": (
        paragraph(text("bold ", "strong"), text("both", "strong", "em"), text(" end", "strong")),
        "**bold *both* end**",
    ),
    "marked punctuation": (paragraph(text("code", "code"), text(".", "strong")), "`code`."),
    "link": (paragraph("see ", text("here", LINK)), "see [here](https://a.example/x)"),
    "link that shows its address": (paragraph(text("https://a.example/x", LINK)), "https://a.example/x"),
    "link that is a script": (
        paragraph(text("x", {"type": "link", "attrs": {"href": "javascript:alert(1)"}})),
        "x",
    ),
    "superscript": (
        paragraph("10", text("6", {"type": "subsup", "attrs": {"type": "sup"}})),
        "10^6",
    ),
    "hard break": (paragraph("a", node("hardBreak"), "b"), "a\nb"),
    "nested lists": (
        node(
            "orderedList",
            item(paragraph("one"), node("bulletList", item(paragraph("inner")))),
            item(paragraph("two"), paragraph("more")),
            order=4,
        ),
        "4. one\n   - inner\n5. two\n\n   more",
    ),
    "task list nested without an item": (
        node(
            "taskList",
            node("taskItem", text("done"), state="DONE"),
            node("taskList", node("taskItem", text("sub"), state="TODO")),
            node("taskItem", text("next"), state="TODO"),
        ),
        "- [x] done\n  - [ ] sub\n- [ ] next",
    ),
    "decisions": (node("decisionList", node("decisionItem", text("go"), state="DECIDED")), "- Decision: go"),
    "code": (
        node("codeBlock", text("a = 1\n\n  b ```"), language="python"),
        "````python\na = 1\n\n  b ```\n````",
    ),
    "quote": (node("blockquote", paragraph("a"), paragraph("b")), "> a\n>\n> b"),
    "panel": (node("panel", paragraph("hot"), panelType="warning"), "> **Warning:**\n>\n> hot"),
    "table": (
        node(
            "table",
            node("tableRow", node("tableHeader", paragraph("h")), node("tableHeader", paragraph("i"))),
            node(
                "tableRow",
                node("tableCell", paragraph("1"), paragraph("2")),
                node("tableCell", paragraph("a|b")),
            ),
        ),
        "| h | i |\n| --- | --- |\n| 1 2 | a\\|b |",
    ),
    "table that holds code": (
        node(
            "table",
            node(
                "tableRow",
                node("tableCell", paragraph("log")),
                node("tableCell", node("codeBlock", text("x\ny"))),
            ),
        ),
        "log\n\n```\nx\ny\n```",
    ),
    "expand": (node("expand", paragraph("inside"), title="More"), "**More**\n\ninside"),
    "rule": (doc(paragraph("a"), node("rule"), paragraph("b")), "a\n\n---\n\nb"),
    "mention": (
        paragraph(node("mention", id="7", text="@Ann"), " and ", node("mention", id="8")),
        "@Ann and @8",
    ),
    "emoji": (paragraph(node("emoji", shortName=":a:", text="🅰"), node("emoji", shortName=":b:")), "🅰:b:"),
    "date": (paragraph("due", node("date", timestamp="1767225600000")), "due 2026-01-01"),
    "date that is none": (paragraph(node("date", timestamp="soon")), "soon"),
    "status": (paragraph(node("status", text="DONE", color="green")), "[DONE]"),
    "cards": (
        doc(
            paragraph("in", node("inlineCard", url="https://i.example")),
            node("blockCard", url="https://b.example"),
        ),
        "in https://i.example\n\nhttps://b.example",
    ),
    "media": (
        node("mediaSingle", node("media", alt="plot.png"), node("caption", text("The plot"))),
        "[image: plot.png]\n\nThe plot",
    ),
    "layout": (
        node("layoutSection", node("layoutColumn", paragraph("l")), node("layoutColumn", paragraph("r"))),
        "l\n\nr",
    ),
    "extension": (node("bodiedExtension", paragraph("body"), text="Name"), "Name\n\nbody"),
    "unknown node": (doc(node("fromTheFuture", node("alsoUnknown", text("kept")))), "kept"),
    "heading level out of range": (node("heading", text("t"), level=99), "###### t"),
}


@pytest.mark.parametrize(("given_node", "expected"), CASES.values(), ids=CASES.keys())
def test_each_node_reads_as_markdown(given_node: dict[str, Any], expected: str) -> None:
    assert adf.to_markdown(given_node) == expected


@pytest.mark.parametrize(
    "malformed",
    [
        {},
        {"type": None, "content": "words"},
        {"type": "doc", "content": {"type": "text", "text": "words"}},
        {"type": "doc", "content": ["words", None, 3, [{"type": "text", "text": "words"}]]},
        {"type": "text", "text": 5, "marks": "strong"},
        {"type": "text", "text": "words", "marks": [None, {"type": "link"}, {"type": "link", "attrs": 7}]},
        {"type": "heading", "attrs": {"level": "two"}, "content": [{"type": "text", "text": "words"}]},
        {"type": "tableCell", "content": [{"type": "tableCell", "content": ["words"]}]},
        {"type": "orderedList", "attrs": {"order": -3}, "content": [{"type": "listItem"}, "words"]},
        {"type": "date", "attrs": {"timestamp": 10**30}},
    ],
)
def test_malformed_nodes_give_what_text_they_have(malformed: dict[str, Any]) -> None:
    out = adf.to_markdown(malformed)
    assert ("words" in out) == ("words" in json.dumps(malformed))


KINDS = [
    "doc", "paragraph", "heading", "bulletList", "orderedList", "listItem", "taskList", "taskItem", "blockquote",
    "panel", "table", "tableRow", "tableCell", "tableHeader", "expand", "codeBlock", "layoutSection", "mystery",
    "mediaSingle", "caption", "bodiedExtension", "decisionList", "decisionItem",
]  # fmt: skip
MARKS = st.lists(st.sampled_from(["strong", "em", "strike", "code", "underline", LINK]), max_size=3)
LEAVES = st.builds(lambda value, marks: text(value, *marks), st.text(max_size=20), MARKS)
TREES = st.recursive(
    LEAVES,
    lambda children: st.builds(
        lambda kind, content: {"type": kind, "content": content},
        st.sampled_from(KINDS),
        st.lists(children, max_size=4),
    ),
    max_leaves=25,
)


def words_of(tree: Any) -> list[str]:
    if isinstance(tree, list):
        return [word for child in tree for word in words_of(child)]
    return re.findall(r"[^\W_]+", tree.get("text", "")) + words_of(tree.get("content", []))


@given(TREES)
def test_every_word_of_any_tree_is_kept(tree: dict[str, Any]) -> None:
    out = adf.to_markdown(tree)
    assert [word for word in words_of(tree) if word not in out] == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "content", "attrs", "marks", "text"]), inner)
        | st.fixed_dictionaries(
            {"type": st.sampled_from([*KINDS, "text", "date", "mention"]), "attrs": inner, "content": inner}
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["type", "content", "attrs", "marks", "text"]), JSON))
def test_no_json_object_makes_it_fail(anything: dict[str, Any]) -> None:
    assert isinstance(adf.to_markdown(anything), str)


@pytest.mark.alone
@pytest.mark.parametrize(
    "kinds", [("blockquote",), ("bulletList", "listItem"), ("table", "tableRow", "tableCell")]
)
def test_ten_thousand_levels_lose_no_text_and_take_no_long_time(kinds: tuple[str, ...]) -> None:
    tree: dict[str, Any] = paragraph("bottom")
    for level in range(10_000):
        tree = {"type": kinds[-1], "content": [paragraph(f"w{level}"), tree]}
        for kind in reversed(kinds[:-1]):
            tree = {"type": kind, "content": [tree]}
    started = time.perf_counter()
    out = adf.to_markdown(tree)
    assert time.perf_counter() - started < 10
    assert {f"w{level}" for level in range(10_000)} | {"bottom"} <= set(re.findall(r"\w+", out))


def test_every_word_of_real_documents_is_kept(shared_data: Path) -> None:
    lines = (shared_data / "jira" / "adf_documents.jsonl").read_text().splitlines()
    for line in lines:
        record = json.loads(line)
        out = set(re.findall(r"[^\W_]+", adf.to_markdown(record["adf"])))
        assert set(words_of(record["adf"])) <= out, record["source"]

"""HTML to Markdown, whatever people wrote between the tags."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from html import unescape
from itertools import count, repeat

from selectolax.lexbor import LexborHTMLParser, LexborNode

from extractors.text.boilerplate import replace_surrogates
from extractors.text.writer import CODE, EMPHASIS, STRIKE, STRONG, Mark, MarkdownWriter, Marks, link

_MARKS = {
    **dict.fromkeys(("b", "strong"), STRONG),
    **dict.fromkeys(("i", "em", "dfn"), EMPHASIS),
    **dict.fromkeys(("s", "del", "strike"), STRIKE),
    **dict.fromkeys(("code", "kbd", "samp", "tt"), CODE),
}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_INLINE = frozenset(
    [
        "a",
        "abbr",
        "b",
        "bdi",
        "bdo",
        "big",
        "button",
        "cite",
        "code",
        "data",
        "del",
        "dfn",
        "em",
        "font",
        "i",
        "ins",
        "kbd",
        "label",
        "mark",
        "math",
        "meter",
        "output",
        "picture",
        "progress",
        "q",
        "rp",
        "rt",
        "ruby",
        "s",
        "samp",
        "small",
        "span",
        "strike",
        "strong",
        "sub",
        "sup",
        "svg",
        "time",
        "tt",
        "u",
        "var",
        "wbr",
    ]
)
_DROPPED = frozenset({"script", "style", "template"})
_EMBEDDED = frozenset({"iframe", "video", "audio", "embed"})
_LISTS = frozenset({"ul", "ol", "menu", "dir"})
_BOLD_BLOCKS = frozenset({"summary", "dt", "caption", "figcaption"})

_SPACE = re.compile(r"[ \t\n\r\f]+")
_LANGUAGE = re.compile(r"(?:^|\s)(?:language-|lang-|highlight-source-)(\S+)")
_TAG = re.compile(
    r"""<(?P<close>/?)(?P<name>[a-zA-Z][^\s/>]*+)"""
    r"""(?P<attrs>(?:[^>"'=]++|=\s*+"[^"]*+"|=\s*+'[^']*+'|["'=])*+)>?"""
)
_QUOTED = re.compile(r"""=\s*+(?:"[^"]*+"|'[^']*+')""")
_CLOSES_ITSELF = frozenset(
    "p li td th tr dd dt option br hr img input meta link col area base embed source track wbr".split()  # noqa: SIM905
)

MAX_ATTRIBUTES = 1_000
MAX_PARSER_STEPS = 20_000_000
MAX_COPIED_NODES = 1_000_000


def to_markdown(html: str) -> str:
    """Turn HTML into Markdown; scripts, styles, templates and comments go, every other text stays.

    Input built to keep an HTML parser busy (tags nested by the ten thousand) is read as text without tags.
    """
    source = _show_unfinished(replace_surrogates(html))
    if _is_too_costly(source):
        return unescape(_TAG.sub(" ", source))
    walk = _Walk()
    walk.visit(LexborHTMLParser(source, is_fragment=True).root)
    return walk.writer.finish()


def _show_unfinished(html: str) -> str:
    """A comment or tag that never ends would take all that follows with it; make it text instead."""
    comment = html.find("<!--", max(html.rfind("-->"), 0))
    if comment >= 0:
        html = html[:comment] + html[comment:].replace("<!--", "&lt;!--")
    tag = html.find("<", html.rfind(">") + 1)
    return html if tag < 0 else html[:tag] + html[tag:].replace("<", "&lt;")


def _is_too_costly(html: str) -> bool:
    """Whether the parser would need far more than linear time or memory.

    For each tag it walks up the open elements, and it copies open formatting elements into each new block;
    attributes of a tag are compared with each other.
    """
    open_tags: Counter[str] = Counter()
    depth = deepest = tags = 0
    for tag in _TAG.finditer(html):
        tags += 1
        name = tag["name"].lower()
        if name not in _CLOSES_ITSELF:
            if not tag["close"]:
                open_tags[name] += 1
                depth += 1
                deepest = max(deepest, depth)
            elif open_tags[name]:
                open_tags[name] -= 1
                depth -= 1
        attrs = tag["attrs"]
        if len(attrs) > MAX_ATTRIBUTES and len(_QUOTED.sub("= ", attrs).split()) > MAX_ATTRIBUTES:
            return True
    formatting = sum(left for name, left in open_tags.items() if name in _INLINE)
    return tags * deepest > MAX_PARSER_STEPS or tags * formatting > MAX_COPIED_NODES


class _Walk:
    """Walks the tree on a stack of its own: nodes still to enter, and what to do on leaving those entered."""

    def __init__(self) -> None:
        self.writer = MarkdownWriter()
        self._marks: Marks = ()
        self._lists: list[Iterator[str]] = []  # the markers still to come of each open list
        self._verbatim: list[str] | None = None  # the text of an open <pre>
        self._stack: list[LexborNode | Callable[[], object]] = []

    def visit(self, first: LexborNode | None) -> None:
        self._push(first)
        while self._stack:
            step = self._stack.pop()
            if not isinstance(step, LexborNode):
                step()
            elif step.is_text_node:
                self._text(step.text_content or "")
            elif step.is_element_node:
                self._enter(step, step.tag or "")

    def _push(self, first: LexborNode | None) -> None:
        siblings: list[LexborNode | Callable[[], object]] = []
        while first is not None:
            siblings.append(first)
            first = first.next
        self._stack.extend(reversed(siblings))

    def _text(self, text: str) -> None:
        if self._verbatim is not None:
            self._verbatim.append(text)
            return
        flowing = _SPACE.sub(" ", text)
        self.writer.text(flowing.lstrip(" ") if self.writer.at_space() else flowing, self._marks)

    def _enter(self, node: LexborNode, tag: str) -> None:
        if tag in _DROPPED:
            return
        if self._verbatim is not None:
            if tag == "br":
                self._verbatim.append("\n")
        elif tag in _INLINE:
            self._enter_inline(node, tag)
        elif not self._write_void(node, tag):
            self.writer.end_block()
            self._stack.append(self._enter_block(node, tag))
        self._push(node.child)

    def _enter_inline(self, node: LexborNode, tag: str) -> None:
        if tag == "sup":
            self.writer.text("^", self._marks)
        mark: Mark | None = link(_attribute(node, "href")) if tag == "a" else _MARKS.get(tag)
        if mark is None or mark in self._marks or CODE in self._marks:
            return
        if tag == "a" and any(open_mark.before == "[" for open_mark in self._marks):
            return
        self._stack.append(partial(setattr, self, "_marks", self._marks))
        self._marks = (*self._marks, mark)

    def _write_void(self, node: LexborNode, tag: str) -> bool:
        """Write an element that is its own content; False for any other."""
        writer = self.writer
        match tag:
            case "br":
                writer.text("\n")
            case "hr":
                writer.rule()
            case "img":
                writer.text(_image(node), tuple(mark for mark in self._marks if mark is not CODE))
            case "input":
                if _attribute(node, "type").lower() == "checkbox":
                    writer.text("[x] " if "checked" in node.attributes else "[ ] ")
            case _ if tag in _EMBEDDED and (source := _attribute(node, "src")):
                writer.text(source)
            case _:
                return False
        return True

    def _enter_block(self, node: LexborNode, tag: str) -> Callable[[], object]:
        """Begin a block and return what ends it."""
        writer = self.writer
        if tag in _HEADINGS:
            return partial(writer.end_heading, _HEADINGS[tag])
        if tag in _LISTS:
            return self._enter_list(node, tag)
        match tag:
            case "pre" | "listing" | "xmp" | "plaintext":
                self._verbatim = []
                return partial(self._leave_verbatim, _language(node))
            case "li":
                writer.open_item(next(self._lists[-1]) if self._lists else "- ")
                return writer.close
            case "blockquote":
                writer.open_quote()
                return writer.close
            case "table":
                writer.begin_table()
                return writer.end_table
            case "tr":
                writer.begin_row()
            case "td" | "th":
                return writer.end_cell if writer.begin_cell() else writer.end_block
            case _ if tag in _BOLD_BLOCKS and STRONG not in self._marks and CODE not in self._marks:
                return self._enter_bold(tag)
        return writer.end_block

    def _enter_bold(self, tag: str) -> Callable[[], object]:
        marks = self._marks
        self._marks = (*marks, STRONG)

        def leave() -> None:
            self._marks = marks
            self.writer.end_block()

        return leave

    def _enter_list(self, node: LexborNode, tag: str) -> Callable[[], object]:
        start = _attribute(node, "start")
        first = int(start) if start.isascii() and start.isdigit() and len(start) < 10 else 1
        self._lists.append((f"{number}. " for number in count(first)) if tag == "ol" else repeat("- "))
        nested_without_item = node.parent is not None and node.parent.tag in _LISTS
        if nested_without_item:
            self.writer.open_indent()
        return partial(self._leave_list, nested_without_item)

    def _leave_list(self, nested_without_item: bool) -> None:
        self._lists.pop()
        if nested_without_item:
            self.writer.close()
        else:
            self.writer.end_list()

    def _leave_verbatim(self, language: str) -> None:
        self.writer.code_block("".join(self._verbatim or ()), language)
        self._verbatim = None


def _attribute(node: LexborNode, name: str) -> str:
    return node.attributes.get(name) or ""


def _image(node: LexborNode) -> str:
    alt = _SPACE.sub(" ", _attribute(node, "alt")).strip()
    return f"[image: {alt}]" if alt else "[image]"


def _language(pre: LexborNode) -> str:
    """The language of a code block as the common highlighters note it: on the block, within it or around it."""
    for node in (pre, pre.child, pre.parent):
        if node is not None and node.is_element_node:
            if info := _attribute(node, "data-info"):
                return info
            if found := _LANGUAGE.search(_attribute(node, "class")):
                return found[1]
    return ""

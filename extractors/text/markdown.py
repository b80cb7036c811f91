"""GitHub's Markdown with its HTML and template comments to plain Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token

from extractors.text import html
from extractors.text.fences import close_open_fence

MAX_PARSED_CHARS = 131_072
"""Twice the longest body that GitHub takes; what is longer is kept as it is."""

MAX_BRACKET_STEPS = 100_000
"""Brackets in a text, each times the brackets open around it: what the parser's time for links grows with."""

_MAX_NESTING = 100
_BRACKET_OR_GAP = re.compile(r"[\[\]]|\n\n")
_DEEP_LINE = re.compile(r"^(?:[ \t]|>|[-*+][ \t]|\d{1,9}[.)][ \t])*+", re.MULTILINE)
_MAX_PREFIX_CHARS = (
    80  # tabs count four, so nesting stays below `_MAX_NESTING`, beyond which the parser drops text
)

# What GitHub renders; other tags are shown as they were typed, since most are no HTML: `<stdin>`, `vector<int>`.
_ALLOWED_TAGS = frozenset(
    [
        "a",
        "abbr",
        "b",
        "bdo",
        "blockquote",
        "br",
        "caption",
        "center",
        "cite",
        "code",
        "dd",
        "del",
        "details",
        "dfn",
        "div",
        "dl",
        "dt",
        "em",
        "figcaption",
        "figure",
        "font",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "i",
        "img",
        "ins",
        "kbd",
        "li",
        "mark",
        "ol",
        "p",
        "picture",
        "pre",
        "q",
        "rp",
        "rt",
        "ruby",
        "s",
        "samp",
        "small",
        "source",
        "span",
        "strike",
        "strong",
        "sub",
        "summary",
        "sup",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "time",
        "tr",
        "tt",
        "u",
        "ul",
        "var",
        "wbr",
    ]
)
_TO_CONVERT = re.compile(r"<!--|!\[|</?(?:" + "|".join(sorted(_ALLOWED_TAGS)) + r")(?=[\s/>])", re.IGNORECASE)
_ANGLE = re.compile(r"<(?!!--)(?P<name>/?[a-zA-Z][a-zA-Z0-9-]*(?=[\s/>]))?")


def to_text(text: str) -> str:
    """Turn a body as GitHub stores it into Markdown without HTML.

    Comments go, images give their alternative text, HTML tags become Markdown; code is left to the character.
    Text with neither HTML nor images comes back as it is, but for line ends and a fence left open.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if _TO_CONVERT.search(text) is None or _is_unwieldy(text):
        return close_open_fence(text)
    return html.to_markdown(str(_PARSER.render(text)))


def _is_unwieldy(text: str) -> bool:
    """Whether the parser would take too long over `text`, or nest too deep to keep all of it."""
    if len(text) > MAX_PARSED_CHARS:
        return True
    open_brackets = steps = 0
    for bracket in _BRACKET_OR_GAP.finditer(text):
        match bracket.group():
            case "[":
                open_brackets += 1
            case "]":
                open_brackets -= open_brackets > 0
            case _:
                open_brackets = 0
        steps += open_brackets
    return steps > MAX_BRACKET_STEPS or any(
        len(prefix.group()) + 3 * prefix.group().count("\t") > _MAX_PREFIX_CHARS
        for prefix in _DEEP_LINE.finditer(text)
    )


def _escape_foreign_tags(markup: str) -> str:
    """Escape each `<` that begins neither a comment nor a tag that GitHub renders."""

    def escape(angle: re.Match[str]) -> str:
        name = (angle["name"] or "").lstrip("/").lower()
        return angle.group() if name in _ALLOWED_TAGS else "&lt;" + angle.group()[1:]

    return _ANGLE.sub(escape, markup)


def _render_html_block(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A block that begins with a foreign tag is mostly code without a fence, so its lines are kept."""
    block = tokens[index].content
    safe = _escape_foreign_tags(block)
    if safe.lstrip().startswith("&lt;"):
        return f"<pre>{escapeHtml(block)}</pre>\n"
    return safe


def _render_html_inline(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return _escape_foreign_tags(tokens[index].content)


def _render_fence(self: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    return (
        f'<pre data-info="{escapeHtml(token.info.strip())}"><code>{escapeHtml(token.content)}</code></pre>\n'
    )


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"breaks": True, "maxNesting": _MAX_NESTING})
    # A definition such as `[ERROR]: failed` would vanish from the text, and `Ptr<cv::Mat>` become a link.
    parser.enable(["table", "strikethrough"]).disable(["reference", "autolink"])
    parser.add_render_rule("html_block", _render_html_block)
    parser.add_render_rule("html_inline", _render_html_inline)
    parser.add_render_rule("fence", _render_fence)
    return parser


_PARSER = _parser()

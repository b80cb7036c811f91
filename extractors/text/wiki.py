"""Jira wiki markup to Markdown, in time linear in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import orjson

from extractors.text import adf, html
from extractors.text.writer import MarkdownWriter, code_span, link

_VERBATIM = ("code", "noformat", "html", "adf")
_PANELS = ("panel", "info", "note", "tip", "warning", "expand")
_WITHOUT_TEXT = ("color", "anchor", "section", "column", "toc")

_MACRO = re.compile(
    r"(?<![{\\])\{(?P<name>"
    + "|".join((*_VERBATIM, "quote", *_PANELS))
    + r")(?::(?P<options>[^{}\n]*+))?\}(?!\})",
    re.IGNORECASE,
)
_SILENT_MACRO = re.compile(
    r"(?<![{\\])\{(?:" + "|".join(_WITHOUT_TEXT) + r")(?::[^{}\n]*+)?\}(?!\})", re.IGNORECASE
)

_CLOSING = {name: re.compile(rf"\{{{name}\}}", re.IGNORECASE) for name in _VERBATIM}

_HEADING = re.compile(r"\s*h([1-6])\.(?:\s+|(?=[A-Z*]))(\S.*)")
_QUOTED_LINE = re.compile(r"\s*bq\.\s+(\S.*)")
_RULE = re.compile(r"\s*-{4,}\s*")
_ITEM = re.compile(r"\s*([*#]+|-{1,2})\s+(\S.*)")
_CELL_PIECE = re.compile(r"\\\||\[[^\[\]]*\]|\{\{[^{}]*\}\}|![^!\s|][^!]*!|(?P<border>\|\|?)")

_SPECIAL = re.compile(r"[{\[*_!\\&]")
_INLINE = re.compile(
    r"(?<!\\)\{\{(?P<mono>(?:[^{}\n]|\{[^{}\n]*+\})++)\}\}"
    r"|(?P<url>\b(?:https?|ftp|file)://[^\s|\]}>\"]+)"
    r"|(?<![\w!\\])!(?P<image>https?://[^!\s|]+|[^!\s|][^!\n|]*\.\w{2,5})(?:\|[^!\n|]*)?!"
    r"|(?<!\\)\[(?P<link>[^\[\]\n]+)\]"
    r"|(?<![\w*/.\\])\*(?![\s*])(?P<strong>[^*\n]*[^*\s])\*(?![\w*])"
    r"|(?<![\w\\])_(?![\s_])(?P<emphasis>[^_\n]*[^_\s])_(?!\w)"
)
_ESCAPE = re.compile(r"\\([{}\[\]|!*])|(?<![\w:\\])\\([-_#+^~?])")
_LINE_BREAK = re.compile(r"\\\\(?=\s|$)[ \t]*")
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]*://|mailto:|www\.|[/#^~])\S+", re.IGNORECASE)
_USER = re.compile(r"~(?:accountid:)?(\S[^|]*)")


def to_markdown(text: str) -> str:
    """Turn Jira wiki markup into Markdown.

    Code and preformatted text are kept to the character; one without an end reaches to the end of the text. Words
    in braces that are no macro of Jira's stay as they are, and so do `-dashes-` and snake_case.
    """
    writer = MarkdownWriter()
    for part in _pair_quotes(_parts(text.replace("\r\n", "\n").replace("\r", "\n"))):
        _write(writer, part)
    return writer.finish()


@dataclass(frozen=True, slots=True)
class _Part:
    """A stretch of text, or a macro with its body where that is verbatim."""

    kind: str
    body: str = ""
    options: str = ""


def _parts(text: str) -> Iterator[_Part]:
    start = 0
    unclosed: set[str] = set()  # what was searched for in vain need not be searched for again
    while macro := _MACRO.search(text, start):
        if macro.start() > start:
            yield _Part("text", text[start : macro.start()])
        name, options = macro["name"].lower(), macro["options"] or ""
        start = macro.end()
        if name not in _VERBATIM:
            yield _Part(name, macro.group(), options)
            continue
        closing = None if name in unclosed else _CLOSING[name].search(text, start)
        if closing is not None:
            yield _Part(name, text[start : closing.start()], options)
            start = closing.end()
        elif name in ("code", "noformat"):
            yield _Part(name, text[start:], options)
            start = len(text)
        else:
            unclosed.add(name)
    if start < len(text):
        yield _Part("text", text[start:])


def _pair_quotes(parts: Iterator[_Part]) -> Iterator[_Part]:
    """Tell the opening from the closing `{quote}`; the last of an odd number is dropped."""
    listed = list(parts)
    left = sum(part.kind == "quote" for part in listed)
    is_open = False
    for part in listed:
        if part.kind != "quote":
            yield part
        elif is_open or left > 1:
            is_open = not is_open
            yield _Part("open quote" if is_open else "close quote")
        left -= part.kind == "quote"


def _write(writer: MarkdownWriter, part: _Part) -> None:
    match part.kind:
        case "text":
            _write_text(writer, part.body.lstrip(" \t"))
        case "code" | "noformat":
            language, title = _code_options(part.options)
            if title:
                writer.text(f"{title}:")
            writer.code_block(part.body, language if part.kind == "code" else "")
        case "html":
            writer.raw(html.to_markdown(part.body))
        case "adf":
            writer.raw(_adf_body(part.body))
        case "open quote":
            writer.open_quote()
        case "close quote":
            writer.close()
        case _:
            writer.end_block()
            if title := _option(part.options, "title"):
                writer.text(f"**{title}**")
                writer.end_block()


def _adf_body(body: str) -> str:
    """Jira's export wraps nodes for which wiki markup has no words in `{adf}`, as JSON."""
    try:
        return adf.to_markdown(orjson.loads(body.strip()))
    except orjson.JSONDecodeError:
        return body


def _option(options: str, name: str) -> str:
    for option in options.split("|"):
        key, equals, value = option.partition("=")
        if equals and key.strip().lower() == name:
            return value.strip()
    return ""


def _code_options(options: str) -> tuple[str, str]:
    """Language and title of `{code:...}`; the language may stand alone, as the first."""
    first = options.split("|", 1)[0].strip()
    language = _option(options, "lang") or _option(options, "language") or ("" if "=" in first else first)
    return ("" if language.lower() == "none" else language.lower()), _option(options, "title")


def _write_text(writer: MarkdownWriter, text: str) -> None:
    lines = _Lines(writer)
    for line in (_SILENT_MACRO.sub("", text) if "{" in text else text).split("\n"):
        lines.write(line)
    lines.end()


@dataclass(frozen=True, slots=True)
class _Item:
    """An open list item: its depth as written, its kind of marker, its number."""

    depth: int
    kind: str
    number: int


class _Lines:
    """Writes lines of text between macros, with the list and the table that they are in."""

    def __init__(self, writer: MarkdownWriter) -> None:
        self._writer = writer
        self._items: list[_Item] = []
        self._rows: list[list[str]] = []

    def write(self, line: str) -> None:
        stripped = line.strip()
        first = stripped[:1]
        if first == "|" and len(stripped) > 2 and stripped.endswith("|"):
            self._end_items()
            self._rows.append(_cells(stripped))
            return
        self._end_table()
        if not first:
            self._end_items()
        elif first == "-" and _RULE.fullmatch(line):
            self._end_items()
            self._writer.rule()
        elif first in "*#-" and (item := _ITEM.fullmatch(line)):
            self._write_item(item[1], item[2])
        elif first == "h" and (heading := _HEADING.fullmatch(line)):
            self._end_items()
            self._writer.text(_inline(heading[2]))
            self._writer.end_heading(int(heading[1]))
        elif first == "b" and (quoted := _QUOTED_LINE.fullmatch(line)):
            self._end_items()
            self._writer.open_quote()
            self._writer.text(_inline(quoted[1]))
            self._writer.close()
        else:
            self._writer.text(_inline(line) + "\n")

    def end(self) -> None:
        self._end_table()
        self._end_items()

    def _write_item(self, markers: str, text: str) -> None:
        depth, kind = len(markers), markers[-1]
        number = 1
        if not self._items:
            self._writer.end_block()
        while self._items and self._items[-1].depth >= depth:
            before = self._items.pop()
            self._writer.close()
            number = before.number + 1 if (before.depth, before.kind) == (depth, kind) else 1
        self._items.append(_Item(depth, kind, number))
        self._writer.open_item(f"{number}. " if kind == "#" else "- ")
        self._writer.text(_inline(text) + "\n")

    def _end_items(self) -> None:
        self._writer.end_block()
        for _ in self._items:
            self._writer.close()
        if self._items:
            self._writer.end_list()
        self._items.clear()

    def _end_table(self) -> None:
        if self._rows:
            self._writer.table(self._rows)
            self._rows = []


def _cells(row: str) -> list[str]:
    """The cells of a row, whose borders are no pipe within a link, an image or code."""
    borders = [piece.span() for piece in _CELL_PIECE.finditer(row) if piece["border"]]
    return [_inline(row[left[1] : right[0]].strip()) for left, right in pairwise(borders)]


def _inline(text: str) -> str:
    """Phrases of one line: emphasis, code, links, people, images."""
    if _SPECIAL.search(text) is None:
        return text
    out: list[str] = []
    start = 0
    for phrase in _INLINE.finditer(text):
        out.append(_plain(text[start : phrase.start()]))
        written = _phrase(phrase)
        start = phrase.end()
        if phrase.lastgroup == "link":
            # The bracket that went held two words apart: `checklist[http://...]`, `[~someone]wrote`.
            before, after = text[max(phrase.start() - 1, 0) : phrase.start()], text[start : start + 1]
            written = (
                " " * _would_join(before, written[:1]) + written + " " * _would_join(written[-1:], after)
            )
        out.append(written)
    out.append(_plain(text[start:]))
    return "".join(out)


def _would_join(left: str, right: str) -> bool:
    return left.isalnum() and right.isalnum()


def _plain(text: str) -> str:
    if "\\" in text:
        text = _ESCAPE.sub(r"\1\2", _LINE_BREAK.sub("\n", text))
    return text.replace("&nbsp;", " ")


def _phrase(phrase: re.Match[str]) -> str:
    kind = phrase.lastgroup or ""
    body = phrase[kind]
    match kind:
        case "mono":
            return code_span(body)
        case "image":
            return f"[image: {body}]"
        case "link":
            return _link(body)
        case "strong":
            return f"**{_inline(body)}**"
        case "emphasis":
            return f"*{_inline(body)}*"
        case _:
            return body


def _link(body: str) -> str:
    """`[text|url]`, `[url]`, `[~user]`, `[^file]`; other brackets, as in logs, stay as they are."""
    if user := _USER.fullmatch(body):
        return f"@{user[1].removeprefix('@')}"
    if body.startswith("^"):
        return f"[attachment: {body[1:]}]"
    label, *options = (piece.strip() for piece in body.split("|"))
    target = options[0] if options else label
    if not _ADDRESS.fullmatch(target) or (not options and target[0] in "/#"):
        return f"[{_inline(body)}]"
    if target[0] in "#^~":
        return label
    if target in (label, f"mailto:{label}") or not label:
        return target.removeprefix("mailto:")
    mark = link(target)
    return f"{mark.before}{_inline(label)}{mark.after}" if mark else label

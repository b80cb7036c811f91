"""Atlassian Document Format to Markdown; no text is dropped, whatever the node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import count, repeat
from typing import Any

from extractors.text.writer import CODE, EMPHASIS, STRIKE, STRONG, Mark, MarkdownWriter, Marks, link

_MARKS = {"strong": STRONG, "em": EMPHASIS, "strike": STRIKE}
_PANELS = {
    "info": "Info",
    "note": "Note",
    "tip": "Tip",
    "warning": "Warning",
    "error": "Error",
    "success": "Success",
}
_LISTS = frozenset({"bulletList", "orderedList", "taskList", "decisionList"})


def to_markdown(node: Mapping[str, Any]) -> str:
    """Turn an ADF node, commonly a whole `doc`, into Markdown.

    An unknown node is descended into; a malformed one gives what text can be found in it. Depth is not limited.
    """
    walk = _Walk()
    walk.visit(node)
    return walk.writer.finish()


class _Walk:
    """Walks the tree on a stack of its own: nodes still to enter, and what to do on leaving those entered."""

    def __init__(self) -> None:
        self.writer = MarkdownWriter()
        self._lists: list[Iterator[str]] = []  # the markers still to come of each open list
        self._stack: list[tuple[Any, str] | Callable[[], object]] = []

    def visit(self, root: object) -> None:
        self._stack.append((root, ""))
        while self._stack:
            step = self._stack.pop()
            if not isinstance(step, tuple):
                step()
                continue
            node, parent = step
            if isinstance(node, Mapping):
                self._enter(node, parent)
            elif isinstance(node, list):
                self._stack.extend((child, parent) for child in reversed(node))
            elif isinstance(node, str):
                self.writer.text(node)

    def _enter(self, node: Mapping[str, Any], parent: str) -> None:
        kind = _string(node.get("type"))
        attrs = _mapping(node.get("attrs"))
        inline = _inline_text(kind, node, attrs)
        if inline is not None:
            if kind in ("inlineCard", "date") and not self.writer.at_space():
                self.writer.text(" ")
            self.writer.text(inline, _marks(node))
            self._descend(node, kind)
        elif kind in _LISTS:
            self._enter_list(kind, node, attrs, parent)
        else:
            self._enter_block(kind, node, attrs)

    def _enter_block(self, kind: str, node: Mapping[str, Any], attrs: Mapping[str, Any]) -> None:
        writer = self.writer
        leave: Callable[[], object] = writer.end_block
        writer.end_block()
        match kind:
            case "heading":
                leave = partial(writer.end_heading, _integer(attrs.get("level"), 1))
            case "codeBlock":
                writer.code_block(_all_text(node), _string(attrs.get("language")))
                return
            case "rule":
                writer.rule()
            case "blockquote" | "panel":
                writer.open_quote()
                if label := _PANELS.get(_string(attrs.get("panelType"))):
                    writer.text(f"{label}:", (STRONG,))
                    writer.end_block()
                leave = writer.close
            case "listItem" | "taskItem" | "blockTaskItem" | "decisionItem":
                marker = next(self._lists[-1]) if self._lists else "- "
                writer.open_item(marker)
                writer.text(_item_label(kind, attrs))
                leave = writer.close
            case "expand" | "nestedExpand":
                writer.text(_string(attrs.get("title")), (STRONG,))
                writer.end_block()
            case "table":
                writer.begin_table()
                leave = writer.end_table
            case "tableRow":
                writer.begin_row()
            case "tableHeader" | "tableCell":
                if writer.begin_cell():
                    leave = writer.end_cell
            case "blockCard" | "embedCard":
                writer.text(_card_url(attrs))
            case "extension" | "bodiedExtension" | "multiBodiedExtension":
                writer.text(_string(attrs.get("text")))
                writer.end_block()
            case _:
                writer.text(_string(node.get("text")))
        self._stack.append(leave)
        self._descend(node, kind)

    def _enter_list(self, kind: str, node: Mapping[str, Any], attrs: Mapping[str, Any], parent: str) -> None:
        self.writer.end_block()
        nested_without_item = parent in _LISTS
        if nested_without_item:
            self.writer.open_indent()
        ordered = kind == "orderedList"
        start = _integer(attrs.get("order"), 1)
        self._lists.append((f"{number}. " for number in count(start)) if ordered else repeat("- "))
        self._stack.append(partial(self._leave_list, nested_without_item))
        self._descend(node, kind)

    def _leave_list(self, nested_without_item: bool) -> None:
        self._lists.pop()
        if nested_without_item:
            self.writer.close()
        else:
            self.writer.end_list()

    def _descend(self, node: Mapping[str, Any], kind: str) -> None:
        if content := node.get("content"):
            self._stack.append((content, kind))


def _inline_text(kind: str, node: Mapping[str, Any], attrs: Mapping[str, Any]) -> str | None:
    """The text of an inline node itself; None for a block."""
    match kind:
        case "text":
            return ("^" if _is_superscript(node) else "") + _string(node.get("text"))
        case "hardBreak":
            return "\n"
        case "mention":
            name = _string(attrs.get("text")) or _string(attrs.get("id"))
            return name if name.startswith("@") or not name else f"@{name}"
        case "emoji":
            return _string(attrs.get("text")) or _string(attrs.get("shortName"))
        case "date":
            return _date(attrs.get("timestamp"))
        case "status":
            text = _string(attrs.get("text"))
            return f"[{text}]" if text else ""
        case "inlineCard":
            return _card_url(attrs)
        case "media" | "mediaInline":
            name = _string(attrs.get("alt")) or _string(attrs.get("url"))
            return f"[image: {name}]" if name else ""
        case "placeholder" | "inlineExtension":
            return _string(attrs.get("text"))
        case _:
            return None


def _item_label(kind: str, attrs: Mapping[str, Any]) -> str:
    if kind == "decisionItem":
        return "Decision: "
    if kind == "listItem":
        return ""
    return "[x] " if attrs.get("state") == "DONE" else "[ ] "


def _is_superscript(node: Mapping[str, Any]) -> bool:
    """10 to the 6th must not read as 106."""
    return any(_mapping(_mapping(mark).get("attrs")).get("type") == "sup" for mark in _listed_marks(node))


def _listed_marks(node: Mapping[str, Any]) -> list[Any]:
    listed = node.get("marks")
    return listed if isinstance(listed, list) else []


def _marks(node: Mapping[str, Any]) -> Marks:
    """Outermost first, in one order whatever the order in the node; colour and the like carry no meaning."""
    found: dict[str, Mark] = {}
    for mark in _listed_marks(node):
        kind = _string(_mapping(mark).get("type"))
        if kind == "link":
            if target := link(_string(_mapping(_mapping(mark).get("attrs")).get("href"))):
                found[kind] = target
        elif kind == "code":
            found[kind] = CODE
        elif kind in _MARKS:
            found[kind] = _MARKS[kind]
    return tuple(found[kind] for kind in ("link", "strong", "em", "strike", "code") if kind in found)


def _all_text(node: object) -> str:
    """The text of every node within, as it stands."""
    out: list[str] = []
    stack = [node]
    while stack:
        current = stack.pop()
        if isinstance(current, str):
            out.append(current)
        elif isinstance(current, list):
            stack.extend(reversed(current))
        elif isinstance(current, Mapping):
            attrs = _mapping(current.get("attrs"))
            out.append(_inline_text(_string(current.get("type")), current, attrs) or "")
            if content := current.get("content"):
                stack.append(content)
    return "".join(out)


def _card_url(attrs: Mapping[str, Any]) -> str:
    data = _mapping(attrs.get("data"))
    return _string(attrs.get("url")) or _string(data.get("url")) or _string(data.get("name"))


def _date(timestamp: object) -> str:
    """Milliseconds since 1970 as an ISO date; anything else as it stands."""
    try:
        return datetime.fromtimestamp(int(str(timestamp)) / 1000, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return _string(timestamp)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: object, default: int) -> int:
    return value if isinstance(value, int) and 0 <= value < 1_000_000_000 else default

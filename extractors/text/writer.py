"""Writes Markdown from the events of a walk over a document tree, in time linear in what is written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from extractors.text.fences import close_open_fence, fence_for

MAX_DEPTH = 12
"""Containers nested deeper than this are written without further indentation: each line repeats its indentation."""


class Mark(NamedTuple):
    """What stands before and after a marked run of text."""

    before: str
    after: str


STRONG = Mark("**", "**")
EMPHASIS = Mark("*", "*")
STRIKE = Mark("~~", "~~")
CODE = Mark("`", "`")

Marks = tuple[Mark, ...]
"""Outermost first; `CODE`, where present, is last."""


def link(url: str) -> Mark | None:
    """The mark of a link, or None where the target is no address that a reader could follow."""
    target = url.strip()
    if not target or target[:11].lower().startswith(("data:", "javascript:")):
        return None
    return Mark("[", "](" + re.sub(r"\s", "%20", target) + ")")


def _is_bare_link(text: str, mark: Mark) -> bool:
    return mark.before == "[" and mark.after in (f"]({text})", f"](mailto:{text})", f"]({text}/)")


def code_span(code: str) -> str:
    """`code` between backticks, more of them than any run within; blanks at its ends stay outside."""
    body = code.replace("\n", " ")
    inner = body.strip()
    if not inner:
        return body
    longest = max((len(run.group()) for run in re.finditer("`+", inner)), default=0)
    if longest:
        ticks = "`" * (longest + 1)
        return f"{ticks} {inner} {ticks}"
    lead, tail = len(body) - len(body.lstrip()), len(body.rstrip())
    return f"{body[:lead]}`{inner}`{body[tail:]}"


class _Inline:
    """One paragraph's runs of marked text."""

    def __init__(self) -> None:
        self._runs: list[tuple[Marks, list[str]]] = []

    def add(self, text: str, marks: Marks) -> None:
        if not text:
            return
        if self._runs and self._runs[-1][0] == marks:
            self._runs[-1][1].append(text)
        else:
            self._runs.append((marks, [text]))

    def ends_in_space(self) -> bool:
        return not self._runs or self._runs[-1][1][-1][-1:].isspace()

    def render(self) -> str:
        """Marks are opened after leading and closed before trailing white space, as Markdown asks."""
        out: list[str] = []
        opened: list[tuple[Mark, int]] = []  # a mark and where in `out` it began
        for marks, parts in self._runs:
            text = "".join(parts)
            if not text.strip():
                out.append(text)
                continue
            is_code = bool(marks) and marks[-1] is CODE
            wanted = marks[:-1] if is_code else marks
            if not any(map(str.isalnum, text)):
                wanted = tuple(mark for mark in wanted if mark not in (STRONG, EMPHASIS, STRIKE))
            shared = 0
            while shared < min(len(opened), len(wanted)) and opened[shared][0] == wanted[shared]:
                shared += 1
            self._close(out, opened, shared)
            body = text.lstrip()
            out.append(text[: len(text) - len(body)])
            for mark in wanted[shared:]:
                opened.append((mark, len(out)))
                out.append(mark.before)
            out.append(code_span(body) if is_code else body)
        self._close(out, opened, 0)
        return "".join(out)

    @staticmethod
    def _close(out: list[str], opened: list[tuple[Mark, int]], keep: int) -> None:
        trailing: list[str] = []
        if len(opened) > keep:
            while out and not out[-1].strip():
                trailing.append(out.pop())
            last = out.pop()
            trailing.append(last[len(last.rstrip()) :])
            out.append(last.rstrip())
        while len(opened) > keep:
            mark, start = opened.pop()
            if mark.before == "[":
                label = "".join(out[start + 1 :])
                # An image's own brackets serve as the link's.
                if _is_bare_link(label, mark):
                    out[start:] = [label]
                    continue
                if label.startswith("[image") and label.find("]") == len(label) - 1:
                    out[start:] = [label[:-1]]
            out.append(mark.after)
        out.extend(reversed(trailing))


class _Place(NamedTuple):
    """Where lines are put: what each begins with, and what the next one begins with instead, if anything."""

    rest: str
    pending: str | None


class MarkdownWriter:
    """Builds Markdown out of paragraphs, containers, code and tables.

    Text gathers until a block ends. A container (quote, list item) prefixes the lines written within; a table
    inside a table is written as paragraphs, for Markdown has no other way.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._inline = _Inline()
        self._place = _Place("", None)
        self._places: list[_Place] = []
        self._items: list[bool] = []  # for each open container, whether it is a list item
        self._item_depth = 0
        self._item_depth_outside = 0  # of the open cell
        self._last_rest = ""
        self._last_was_item = False
        self._table_depth = 0
        self._rows: list[list[str]] = []
        self._cell_start: int | None = None

    # Inline

    def text(self, text: str, marks: Marks = ()) -> None:
        """Add to the current paragraph; a newline in `text` is a line break."""
        self._inline.add(text, marks)

    def at_space(self) -> bool:
        """Whether the paragraph is empty or ends in white space."""
        return self._inline.ends_in_space()

    # Blocks

    def end_block(self) -> None:
        """End the current paragraph; nothing happens where it holds no text."""
        self._end_with("")

    def end_heading(self, level: int) -> None:
        """End the current paragraph as a heading of `level` 1 to 6."""
        self._end_with("#" * min(max(level, 1), 6) + " ")

    def _end_with(self, heading: str) -> None:
        text = self._inline.render()
        self._inline = _Inline()
        if not text.strip():
            return
        lines = [line.rstrip() for line in text.strip("\n").split("\n")]
        self._put([heading + " ".join(" ".join(lines).split())] if heading else lines)

    def code_block(self, code: str, info: str = "") -> None:
        """Write `code` to the character within a fence; one line end next to each fence is the fence's own.

        A block without text is written where `info` speaks for itself: an empty `suggestion` deletes a line.
        """
        self.end_block()
        body = code.removeprefix("\n").removesuffix("\n")
        if not body.strip() and not info:
            return
        fence = fence_for(body)
        self._put([fence + re.sub(r"[`\s]+", " ", info).strip(), *body.split("\n"), fence])

    def raw(self, markdown: str) -> None:
        """Write what is Markdown already, as one block."""
        self.end_block()
        if markdown:
            self._put(markdown.split("\n"))

    def rule(self) -> None:
        self.end_block()
        self._put(["---"])

    # Containers

    def open_quote(self) -> None:
        self._open("> ", "> ", is_item=False)

    def open_item(self, marker: str) -> None:
        """Open a list item; `marker` such as `- ` or `12. ` stands before its first line."""
        self._open(marker, " " * len(marker), is_item=True)

    def open_indent(self) -> None:
        """Open a list that stands in another list without an item of its own."""
        self._open("  ", "  ", is_item=False)

    def close(self) -> None:
        """Close the innermost container."""
        self.end_block()
        before = self._places.pop()
        was_item = self._items.pop()
        self._item_depth -= was_item
        # A container in which nothing was written leaves no mark.
        self._place = before if self._place.pending is not None else _Place(before.rest, None)

    def end_list(self) -> None:
        """Separate the list that ended from one that may follow directly."""
        self.end_block()
        if not self._item_depth:
            self._last_was_item = False

    def _open(self, first: str, rest: str, *, is_item: bool) -> None:
        self.end_block()
        place = self._place
        self._places.append(place)
        self._items.append(is_item)
        self._item_depth += is_item
        start = place.rest if place.pending is None else place.pending
        if len(self._places) <= MAX_DEPTH:
            self._place = _Place(place.rest + rest, start + first)
        else:
            self._place = _Place(
                place.rest, start if place.pending is not None else start + first.lstrip("> ")
            )

    def _put(self, lines: list[str]) -> None:
        rest, pending = self._place
        starts_item = pending is not None and self._item_depth > 0
        tight = starts_item and self._last_was_item
        if len(self._lines) > (self._cell_start or 0) and not tight:
            self._lines.append(_shared_start(self._last_rest, rest).rstrip())
        self._lines.append((rest if pending is None else pending) + lines[0])
        self._lines.extend([rest + line for line in lines[1:]] if rest else lines[1:])
        self._place = _Place(rest, None)
        self._last_rest = rest
        self._last_was_item = self._item_depth > 0

    # Tables

    def begin_table(self) -> None:
        self.end_block()
        self._table_depth += 1
        if self._table_depth == 1:
            self._rows = []

    def begin_row(self) -> None:
        self.end_block()
        if self._table_depth == 1 and self._cell_start is None:
            self._rows.append([])

    def begin_cell(self) -> bool:
        """Begin a cell; False where no cell can stand, and then there is none to end."""
        self.end_block()
        if self._table_depth != 1 or not self._rows or self._cell_start is not None:
            return False
        self._places.append(self._place)
        self._items.append(False)
        self._place = _Place("", None)
        self._cell_start = len(self._lines)
        self._item_depth_outside, self._item_depth = self._item_depth, 0
        return True

    def end_cell(self) -> None:
        self.end_block()
        self._rows[-1].append("\n".join(self._lines[self._cell_start :]))
        del self._lines[self._cell_start :]
        self._cell_start = None
        self._place = self._places.pop()
        self._items.pop()
        self._item_depth = self._item_depth_outside

    def end_table(self) -> None:
        self.end_block()
        self._table_depth -= 1
        if self._table_depth == 0:
            self.table(self._rows)
            self._rows = []

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Write rows of cells, the first as the heading.

        One column, or a cell that holds code, is written as paragraphs, for Markdown's tables hold no blocks.
        """
        self.end_block()
        kept = [row for row in rows if any(cell.strip() for cell in row)]
        columns = max(map(len, kept), default=0)
        if columns < 2 or any("```" in cell for row in kept for cell in row):
            for cell in (cell for row in kept for cell in row if cell.strip()):
                self._put(cell.split("\n"))
            return
        lines = [_table_row(row) for row in kept]
        lines[0] = _table_row([*kept[0], *[""] * (columns - len(kept[0]))])
        lines.insert(1, "|" + " --- |" * columns)
        self._put(lines)

    def finish(self) -> str:
        """The Markdown written so far, its fences closed."""
        self.end_block()
        return close_open_fence("\n".join(self._lines))


def _table_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _shared_start(left: str, right: str) -> str:
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))

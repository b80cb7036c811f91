"""Fenced code in Markdown: choosing a fence, and knowing which lines lie inside one."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_OPENING = re.compile(
    r"(?P<prefix>(?:[ \t]|>|[-*+][ \t]|\d{1,9}[.)][ \t])*)(?P<mark>`{3,}|~{3,})(?P<info>.*)"
)
_LIST_MARKER = re.compile(r"[-*+\d.)]")


def fence_for(code: str) -> str:
    """A run of backticks longer than any in `code`, at least three."""
    longest = max((len(run.group()) for run in re.finditer("`{3,}", code)), default=2)
    return "`" * (longest + 1)


@dataclass(frozen=True, slots=True)
class _Fence:
    indent: str  # what the lines of its quote or list item begin with
    mark: str
    in_list: bool

    def is_closed_by(self, line: str) -> bool:
        if self.mark not in line:
            return False
        rest = line.lstrip(" \t>").rstrip()
        return rest.startswith(self.mark) and not rest.strip(self.mark[0])

    def is_left_by(self, line: str) -> bool:
        """A quote or list item that ends takes its open fence with it."""
        if ">" in self.indent:
            return not line.lstrip().startswith(">")
        return self.in_list and bool(line.strip()) and not line.startswith(self.indent)


def _opened_by(line: str) -> _Fence | None:
    opening = _OPENING.match(line)
    if opening is None or (opening["mark"][0] == "`" and "`" in opening["info"]):
        return None
    indent = _LIST_MARKER.sub(" ", opening["prefix"])
    return _Fence(indent, opening["mark"], in_list=indent != opening["prefix"])


def _follow(lines: Iterable[str]) -> Iterator[tuple[str, bool, _Fence | None]]:
    """Each line, whether it is code or a fence, and the fence still open after it."""
    fence: _Fence | None = None
    for line in lines:
        if fence is not None and not fence.is_left_by(line):
            fence = None if fence.is_closed_by(line) else fence
            yield line, True, fence
        else:
            fence = _opened_by(line) if "```" in line or "~~~" in line else None
            yield line, fence is not None, fence


def mark_code(lines: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Each line with whether it belongs to fenced code, the fences themselves included."""
    for line, is_code, _ in _follow(lines):
        yield line, is_code


def close_open_fence(text: str) -> str:
    """Close a code fence left open, so that it cannot swallow what is put after `text`."""
    if "```" not in text and "~~~" not in text:
        return text
    [(_, _, still_open)] = deque(_follow(text.split("\n")), maxlen=1)
    if still_open is None:
        return text
    return f"{text.removesuffix(chr(10))}\n{still_open.indent}{still_open.mark}"

"""Pure: the trailers at the end of a commit message, by the rules of git interpret-trailers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_TRAILERS = 100
MAX_VALUE_CHARS = 500

# git also takes digits, by which "ABC-12: add a flag" and "https://..." would be trailers.
_TRAILER = re.compile(r"(?P<token>[A-Za-z][A-Za-z-]*)[ \t]*:(?!//)(?P<value>.*)")
_CHERRY_PICK = "(cherry picked from commit "
_GIT_GENERATED = ("Signed-off-by: ", _CHERRY_PICK)
_EMAIL = re.compile(r"[ \t]*<[^<>\s]*@[^<>\s]*>")
_IDS = frozenset({"cc", "change-id", "git-svn-id", "message-id"})


@dataclass(frozen=True, slots=True)
class Message:
    """A commit message taken apart.

    Args:
        subject: first paragraph as one line, as git shows it.
        body: the rest, without those trailers that name people or machine ids.
        trailers: token in lower case -> values without e-mail addresses, at most `MAX_TRAILERS` in all.
    """

    subject: str
    body: str
    trailers: Mapping[str, tuple[str, ...]]


def parse_message(message: str) -> Message:
    """Take apart a message that `normalize` has passed.

    The last paragraph, unless it is the first, holds trailers if all of it does, or if git wrote one of them and
    at least a quarter of its lines are trailers. Of these, who signed or reviewed and ids of machines leave the
    text; the others (`Fixes: ABC-12`, and prose such as `Note: ...`) are trailers and stay in it as well.
    """
    first, _, rest = message.strip().partition("\n\n")
    subject = " ".join(first.split())
    before, blank, last = ("\n\n" + rest.rstrip()).rpartition("\n\n")
    lines = last.split("\n")
    if not rest.strip() or not _is_block(lines):
        return Message(subject, rest.strip("\n"), {})
    kept: list[str] = []
    trailers: list[tuple[str, str]] = []
    keeping = True
    for line in lines:
        found = _TRAILER.match(line)
        if found:
            trailers.append((found["token"].lower(), found["value"]))
            keeping = not _is_noise(found["token"].lower())
        elif not line[:1].isspace():
            keeping = not line.startswith(_CHERRY_PICK)
        elif trailers:
            trailers[-1] = (trailers[-1][0], f"{trailers[-1][1]} {line}"[: 2 * MAX_VALUE_CHARS])
        if keeping:
            kept.append(line)
    return Message(subject, (before + blank + "\n".join(kept)).strip("\n"), _grouped(trailers[:MAX_TRAILERS]))


def _is_block(lines: list[str]) -> bool:
    trailers = others = 0
    generated = continues = False
    for line in lines:
        if line[:1].isspace():
            others += not continues
            continue
        continues = bool(_TRAILER.match(line)) or line.startswith(_CHERRY_PICK)
        generated = generated or line.startswith(_GIT_GENERATED)
        trailers += continues
        others += not continues
    return bool(trailers) and (not others or (generated and trailers * 3 >= others))


def _is_noise(token: str) -> bool:
    return token.endswith("-by") or token in _IDS


def _grouped(trailers: list[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    grouped: dict[str, tuple[str, ...]] = {}
    for token, value in trailers:
        shown = " ".join(_EMAIL.sub("", value).split())[:MAX_VALUE_CHARS]
        grouped[token] = (*grouped.get(token, ()), shown)
    return grouped

"""What every text passes before it is stored, and which accounts are machines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from extractors.text.fences import mark_code

_TERMINAL_COLOUR = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_LINE_END = re.compile(r"\r\n|[\r\v\f]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_UNWANTED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def replace_surrogates(text: str) -> str:
    """Join surrogate pairs into their character and put U+FFFD for lone ones, so that UTF-8 can hold the text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _replace_controls(text: str) -> str:
    if _UNWANTED.search(text) is None:
        return text
    return _CONTROL.sub("", _LINE_END.sub("\n", _TERMINAL_COLOUR.sub("", text)))


def normalize(text: str) -> str:
    """Make `text` fit to store: valid UTF-8, no control characters but newline and tab, no idle white space.

    Outside fenced code, trailing blanks go and at most one blank line stays between lines; code keeps both.
    Terminal colour sequences go as a whole. Normalising twice changes nothing more.
    """
    text = _replace_controls(replace_surrogates(text))
    lines: list[str] = []
    blank = True
    for line, is_code in mark_code(text.split("\n")):
        kept = line if is_code else line.rstrip()
        if kept or is_code or not blank:
            lines.append(kept)
        blank = not kept and not is_code
    return "\n".join(lines).strip("\n")


def is_bot(login: str, account_type: str | None, globs: Sequence[str]) -> bool:
    """Whether an account is a machine: by its type `Bot`, a login ending in `[bot]`, or a glob such as `ci-*`.

    Letter case does not matter. A glob is also taken literally, so `renovate[bot]` means that login.
    """
    name = login.casefold()
    if (account_type or "").casefold() == "bot" or name.endswith("[bot]"):
        return True
    return any(name == glob or fnmatchcase(name, glob) for glob in map(str.casefold, globs))

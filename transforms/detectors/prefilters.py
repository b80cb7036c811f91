"""Quick looks at a whole text, where most texts end: what they leave out, a slow expression cannot match.

They read the UTF-8 bytes through a table, in C: a third of the time of the quickest regular expression.
"""

from __future__ import annotations

import string

LONG_WORD = 20
"""Characters of the shortest keys and tokens with a form of their own, their prefix included."""
LONG_NUMBER = 9
"""Digits of the shortest numbers of people."""

_WORD_BYTES = (string.ascii_letters + string.digits + "_-\\").encode()
_TO_WORDS = bytes(ord("x") if byte in _WORD_BYTES or byte >= 0x80 else ord(" ") for byte in range(256))
"""Bytes beyond ASCII count as word: a `\\d` in somebody's expression matches digits of any script."""
_A_WORD = b"x" * LONG_WORD

_TO_DIGITS = bytes(ord("0") if byte in string.digits.encode() else ord(" ") for byte in range(256))
_WITHIN_NUMBERS = " \u00a0.()-".encode()
_A_NUMBER = b"0" * LONG_NUMBER


def long_words(text: str) -> str:
    """The words of a text that have `LONG_WORD` bytes or more, a line each, as they stand there.

    A word is letters, digits, `_`, `-` and backslashes, and whatever is not ASCII.
    """
    encoded = _utf8(text)
    mapped = encoded.translate(_TO_WORDS)
    words = []
    start = mapped.find(_A_WORD)
    while start >= 0:
        end = mapped.find(b" ", start + LONG_WORD)
        words.append(encoded[start : end if end >= 0 else len(encoded)])
        start = mapped.find(_A_WORD, end) if end >= 0 else -1
    return b"\n".join(words).decode("utf-8", "surrogatepass")


def has_long_number(text: str) -> bool:
    """Whether `LONG_NUMBER` digits follow one another with nothing but spaces, dots, hyphens and brackets between."""
    return _A_NUMBER in _utf8(text).translate(_TO_DIGITS, _WITHIN_NUMBERS)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")

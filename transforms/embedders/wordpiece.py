"""BERT's tokenizer, compiled, for words of ASCII letters, digits and punctuation (`kernels/wordpiece.c`).

A tokenizer for any script spends most of its time on what plain text does not need: normal forms and alignments.
Of the text of tickets and commits nearly all is plain. The rest goes back to the caller.
"""

from __future__ import annotations

import ctypes
import string
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from transforms.embedders.base import TokenIds

LIBRARY = "kernels/wordpiece.so"

HOLE = -1
"""In place of ids, where a foreign word stands."""

_PUNCTUATION = frozenset(string.punctuation)
_BLANK, _ALONE, _OPENING, _PLAIN, _FOREIGN = 0, 1, 2, 4, 5
_SLOTS_LOG2 = range(8, 25)
_MAX_LETTERS = 1 << 22
"""Of a vocabulary, which takes two edges for each at most: no more than half of the slots."""

_MAX_WORD_CHARS = 1 << 31


class _Struct(ctypes.Structure):
    _fields_ = (
        ("nodes", ctypes.c_void_p),
        ("names", ctypes.c_char_p),
        ("names_bytes", ctypes.c_int64),
        ("max_word_bytes", ctypes.c_int64),
        ("slots_log2", ctypes.c_int32),
        ("taken", ctypes.c_int32),
        ("unknown", ctypes.c_int32),
        ("kind", ctypes.c_uint8 * 256),
        ("folded", ctypes.c_uint8 * 256),
    )


class WordPieces:
    """A vocabulary, ready to look words up in. May be used from several threads at once.

    Words end at white space and at ASCII punctuation, each mark of which is a word by itself. A word with any other
    character but ASCII letters and digits is foreign.

    Args:
        vocabulary: piece -> token id, of `_MAX_LETTERS` at most; only pieces that plain words can have are kept.
        later_prefix: of pieces that do not begin a word.
        unknown: id of a word that cannot be put together.
        max_word_chars: longer words are unknown.
        lowercase: words are looked up in lower case.
        names: of special tokens; each begins with ASCII punctuation and has no line feed.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        later_prefix: str,
        unknown: int,
        max_word_chars: int,
        lowercase: bool,
        names: Iterable[str],
    ) -> None:
        self._library = _library()
        lowered = [name.lower() for name in names]
        self._names = "".join(f"{name}\n" for name in lowered).encode()
        self._struct = _Struct(
            names=self._names,
            names_bytes=len(self._names),
            max_word_bytes=min(max_word_chars, _MAX_WORD_CHARS),
            unknown=unknown,
            kind=(ctypes.c_uint8 * 256)(*_kinds({name[0] for name in lowered})),
            folded=(ctypes.c_uint8 * 256)(*(bytes(range(256)).lower() if lowercase else bytes(range(256)))),
        )
        self._at = ctypes.addressof(self._struct)
        first = {piece: token for piece, token in vocabulary.items() if _is_plain(piece)}
        later = {
            piece.removeprefix(later_prefix): token
            for piece, token in vocabulary.items()
            if piece.startswith(later_prefix) and _is_plain(piece.removeprefix(later_prefix))
        }
        if not any(self._fill(slots_log2, first, later) for slots_log2 in _SLOTS_LOG2):
            raise ValueError(
                f"a vocabulary of {len(vocabulary)} pieces, expected fewer than 2^23 letters in all"
            )

    def _fill(self, slots_log2: int, first: Mapping[str, int], later: Mapping[str, int]) -> bool:
        """Whether they fit."""
        self._nodes = np.full((1 << slots_log2, 2), -1, dtype=np.int32)
        self._struct.nodes = self._nodes.ctypes.data
        self._struct.slots_log2, self._struct.taken = slots_log2, 0
        for is_later, pieces in enumerate((first, later)):
            words = "".join(f"{piece}\n" for piece in pieces).encode()
            tokens = np.array(list(pieces.values()), dtype=np.int32)
            if not self._library.headrace_wordpiece_add(
                self._at, words, len(words), tokens.ctypes.data, is_later
            ):
                return False
        return True

    def count(self, text: str, limit: int) -> tuple[int, list[str]]:
        """Tokens of the words that are not foreign, and the foreign words.

        Args:
            limit: with more tokens than this the rest of the text may be left out.
        """
        raw = text.encode("utf-8", "replace")  # a lone surrogate is a question mark to the tokenizer as well
        if text.isascii():
            tokens = self._library.headrace_wordpiece_count(self._at, raw, len(raw), limit, None, None)
            if tokens >= 0:
                return tokens, []
        foreign, used = ctypes.create_string_buffer(len(raw) + 1), ctypes.c_int64()
        tokens = self._library.headrace_wordpiece_count(
            self._at, raw, len(raw), limit, foreign, ctypes.byref(used)
        )
        return tokens, _words(foreign, used)

    def encode(self, text: str) -> tuple[TokenIds, list[str]] | None:
        """Ids with a `HOLE` for each foreign word, and the foreign words.

        None where the name of a special token stands, or a control character in a text of ASCII alone.
        """
        raw = text.encode("utf-8", "replace")
        ids = np.empty(len(raw), dtype=np.int32)
        foreign, used = None, ctypes.c_int64()
        if not text.isascii():
            foreign = ctypes.create_string_buffer(len(raw) + 1)
        tokens = self._library.headrace_wordpiece_encode(
            self._at, raw, len(raw), ids.ctypes.data, foreign, ctypes.byref(used)
        )
        if tokens < 0:
            return None
        return ids[:tokens], [] if foreign is None else _words(foreign, used)


def word_pieces(settings: Mapping[str, Any], names: Collection[str]) -> WordPieces | None:
    """For a tokenizer that does as BERT's; None for another.

    Args:
        settings: its `tokenizer.json`.
        names: of its special tokens, as they stand in a text.
    """
    model, normalizer = settings["model"], settings["normalizer"] or {}
    is_berts = (
        model["type"] == "WordPiece"
        and model["unk_token"] in model["vocab"]
        and sum(map(len, model["vocab"])) <= _MAX_LETTERS
        and normalizer.get("type") == "BertNormalizer"
        and settings["pre_tokenizer"] == {"type": "BertPreTokenizer"}
        and all(name[:1] in _PUNCTUATION and "\n" not in name for name in names)
    )
    if not is_berts:
        return None
    return WordPieces(
        model["vocab"],
        model["continuing_subword_prefix"],
        model["vocab"][model["unk_token"]],
        model["max_input_chars_per_word"],
        normalizer["lowercase"],
        names,
    )


def is_built() -> bool:
    """Whether the library was compiled at installation."""
    return (resources.files("transforms.embedders") / LIBRARY).is_file()


@cache
def _library() -> Any:
    library = ctypes.CDLL(str(resources.files("transforms.embedders") / LIBRARY))
    pointer, text, long, whole = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int32
    library.headrace_wordpiece_add.argtypes = [pointer, text, long, pointer, whole]
    library.headrace_wordpiece_add.restype = whole
    library.headrace_wordpiece_count.argtypes = [pointer, text, long, long, pointer, pointer]
    library.headrace_wordpiece_count.restype = long
    library.headrace_wordpiece_encode.argtypes = [pointer, text, long, pointer, pointer, pointer]
    library.headrace_wordpiece_encode.restype = long
    return library


def _words(foreign: ctypes.Array[ctypes.c_char], used: ctypes.c_int64) -> list[str]:
    return ctypes.string_at(foreign, used.value).decode().split("\n")[:-1]


def _is_plain(piece: str) -> bool:
    return piece.isascii() and (piece.isalnum() or piece in _PUNCTUATION)


def _kinds(opening: set[str]) -> Iterable[int]:
    """Of each byte."""
    for byte in range(256):
        character = chr(byte)
        if character in " \t\n\r":
            yield _BLANK
        elif character in _PUNCTUATION:
            yield _OPENING if character in opening else _ALONE
        else:
            yield _PLAIN if character.isascii() and character.isalnum() else _FOREIGN

"""Token ids and counts by way of words, so that no text is tokenized twice.

A chunker asks for the length of many overlapping pieces, and every finished chunk needs its token ids. With a
WordPiece tokenizer tokens never cross white space (BERT: Devlin et al. 2019; `BertPreTokenizer`), so ids and
lengths can be put together from those of words, exactly: of plain words by a compiled tokenizer where there is one,
of the others from a memo.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from transforms.embedders.base import TokenIds, Tokenizer

MAX_CHARS = 2_000_000
"""Of remembered words; all are forgotten at once when there are more, so that memory stays about 30 MiB."""

PROBED_CHARS_PER_TOKEN = 4
"""The first so many characters for each token of a limit tell of most texts already that they are beyond it."""

_ID_BYTES = 4

_PIECES = re.compile(r"[!-/:-@\[-`{-~]|[^\s!-/:-@\[-`{-~]+")
"""ASCII punctuation stands alone in BERT's tokenizer, so a new word is put together from pieces seen before:
`Gate.java:42` from `Gate`, `.`, `java`, `:` and `42`."""


class WordMemo:
    """Token ids and counts of texts, by way of their words.

    Args:
        tokenizer: asked for pieces not seen before, and for whole texts where words are not independent.
        max_chars: of words and pieces remembered.
    """

    def __init__(self, tokenizer: Tokenizer, max_chars: int = MAX_CHARS) -> None:
        self._tokenizer = tokenizer
        self._plain_words = tokenizer.plain_words
        self._max_chars = max_chars
        # Token ids as bytes of int32: joined and counted without a loop in Python.
        self._words: dict[str, bytes] = {}
        self._pieces: dict[str, bytes] = {}
        self._chars = 0
        bare, probe = (ids.tolist() for ids in tokenizer.encode(["", "a"]))
        before = next(place for place, token in enumerate([*probe, -1]) if bare[place : place + 1] != [token])
        self._before, self._after = (
            np.array(ids, dtype=np.int32).tobytes() for ids in (bare[:before], bare[before:])
        )

    @property
    def special_tokens(self) -> int:
        """How many `encode` adds to `count`."""
        return (len(self._before) + len(self._after)) // _ID_BYTES

    def count(self, text: str, limit: int = sys.maxsize) -> int:
        """Tokens of `text`, special tokens not counted; near enough where words are not independent.

        Args:
            limit: of a text with more, it is only said that they are more.
        """
        if self._plain_words is not None:
            tokens, foreign = self._plain_words.count(text, limit)
            return tokens + self._count(foreign) if foreign and tokens <= limit else tokens
        probe_chars = PROBED_CHARS_PER_TOKEN * limit
        if len(text) > probe_chars:
            tokens = self._count(text[: text.rfind(" ", 0, probe_chars) + 1].split())
            if tokens > limit:
                return tokens
        return self._count(text.split())

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """As `Tokenizer.encode`, to the last id."""
        found = [self._encode(text) for text in texts]
        others = self._tokenizer.encode([text for text, ids in zip(texts, found, strict=True) if ids is None])
        rest = iter(others)
        return [next(rest) if ids is None else ids for ids in found]

    def _count(self, words: list[str]) -> int:
        return sum(map(len, self._tokens_of(words))) // _ID_BYTES

    def _encode(self, text: str) -> TokenIds | None:
        """None if words are not independent."""
        # Of a text in ASCII the compiled tokenizer sees by itself whether they are.
        if (self._plain_words is None or not text.isascii()) and not self._tokenizer.is_word_local(text):
            return None
        if self._plain_words is None:
            tokens = self._tokens_of(text.split())
        else:
            plain = self._plain_words.encode(text)
            if plain is None:
                return None
            ids, foreign = plain
            tokens = list(_filled(ids, self._tokens_of(foreign)))
        return np.frombuffer(b"".join([self._before, *tokens, self._after]), dtype=np.int32)

    def _tokens_of(self, words: list[str]) -> list[bytes]:
        known = self._words
        try:
            return list(map(known.__getitem__, words))
        except KeyError:
            self._learn(words)
        return list(map(known.__getitem__, words))

    def _learn(self, words: list[str]) -> None:
        """Tokenize what is new in `words` in one call."""
        if self._chars > self._max_chars:
            self._words.clear()
            self._pieces.clear()
            self._chars = 0
        new = {word: _PIECES.findall(word) for word in words if word not in self._words}
        self._tokenize([piece for pieces in new.values() for piece in pieces])
        for word, pieces in new.items():
            self._words[word] = b"".join(map(self._pieces.__getitem__, pieces))
            self._chars += len(word)

    def _tokenize(self, pieces: list[str]) -> None:
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self._pieces]
        start, end = len(self._before) // _ID_BYTES, len(self._after) // _ID_BYTES
        for piece, ids in zip(new, self._tokenizer.encode(new), strict=True):
            self._pieces[piece] = ids[start : len(ids) - end].tobytes()
            self._chars += len(piece)


def _filled(ids: TokenIds, words: list[bytes]) -> Iterator[bytes]:
    """Bytes of `ids` with those of `words` in the places of negative ones."""
    start = 0
    for hole, word in zip(np.flatnonzero(ids < 0).tolist() if words else (), words, strict=True):
        yield ids[start:hole].tobytes()
        yield word
        start = hole + 1
    yield ids[start:].tobytes()

"""Remember the tokens of words, so that no text is tokenized twice.

A chunker asks for the length of many overlapping pieces, and every finished chunk needs its token ids. With a
WordPiece tokenizer tokens never cross white space (BERT: Devlin et al. 2019; `BertPreTokenizer`), so ids and
lengths can be put together from a memo of words, exactly, some ten times faster than by tokenizing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from transforms.embedders.base import TokenIds, Tokenizer

MAX_CHARS = 2_000_000
"""Of remembered words; all are forgotten at once when there are more, so that memory stays about 30 MiB."""

_ID_BYTES = 4

_PIECES = re.compile(r"[!-/:-@\[-`{-~]|[^\s!-/:-@\[-`{-~]+")
"""ASCII punctuation stands alone in BERT's tokenizer, so a new word is put together from pieces seen before:
`Gate.java:42` from `Gate`, `.`, `java`, `:` and `42`."""

_NOT_LOCAL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\[(?:PAD|UNK|CLS|SEP|MASK)\]|<(?:/?s|pad|unk|mask)>"
)
"""Control characters, which BERT's tokenizer removes, joining what they part (and some of which Python takes for
white space), and the names of special tokens (BERT's and MPNet's)."""


class WordMemo:
    """Token ids and counts of texts, by way of their words.

    Args:
        tokenizer: asked for pieces not seen before, and for whole texts where words are not independent.
        max_chars: of words and pieces remembered.
    """

    def __init__(self, tokenizer: Tokenizer, max_chars: int = MAX_CHARS) -> None:
        self._tokenizer = tokenizer
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

    def learn(self, text: str) -> None:
        """Tokenize what is new in `text` in one call."""
        if self._chars > self._max_chars:
            self._words.clear()
            self._pieces.clear()
            self._chars = 0
        self._tokens_of(list(set(text.split())))

    def count(self, text: str) -> int:
        """Tokens of `text`, special tokens not counted; near enough where words are not independent."""
        return sum(map(len, self._tokens_of(text.split()))) // _ID_BYTES

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """As `Tokenizer.encode`, to the last id."""
        if not self._tokenizer.is_word_local:
            return self._tokenizer.encode(texts)
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> TokenIds:
        if _NOT_LOCAL.search(text):
            return self._tokenizer.encode([text])[0]
        ids = b"".join([self._before, *self._tokens_of(text.split()), self._after])
        return np.frombuffer(ids, dtype=np.int32)

    def _tokens_of(self, words: list[str]) -> list[bytes]:
        known = self._words
        try:
            return list(map(known.__getitem__, words))
        except KeyError:
            new = {word: _PIECES.findall(word) for word in words if word not in known}
        self._tokenize([piece for pieces in new.values() for piece in pieces])
        for word, pieces in new.items():
            known[word] = b"".join(map(self._pieces.__getitem__, pieces))
            self._chars += len(word)
        return list(map(known.__getitem__, words))

    def _tokenize(self, pieces: list[str]) -> None:
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self._pieces]
        start, end = len(self._before) // _ID_BYTES, len(self._after) // _ID_BYTES
        for piece, ids in zip(new, self._tokenizer.encode(new), strict=True):
            self._pieces[piece] = ids[start : len(ids) - end].tobytes()
            self._chars += len(piece)

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

MAX_WORDS = 100_000
"""Forgotten all at once when there are more: memory stays under some 50 MB."""
MAX_WORD_CHARS = 64
"""Longer words (a line of base64) are not likely to come again."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Characters that Python takes for white space, or that BERT's tokenizer removes, joining what they part."""


class WordMemo:
    """Token ids and counts of texts, by way of their words.

    Args:
        tokenizer: asked for words not seen before, and for whole texts where words are not independent.
    """

    def __init__(self, tokenizer: Tokenizer, max_words: int = MAX_WORDS) -> None:
        self._tokenizer = tokenizer
        self._max_words = max_words
        self._ids: dict[str, list[int]] = {}
        bare, probe = (ids.tolist() for ids in tokenizer.encode(["", "a"]))
        before = next(place for place, token in enumerate([*probe, -1]) if bare[place : place + 1] != [token])
        self._before, self._after = bare[:before], bare[before:]

    @property
    def special_tokens(self) -> int:
        """How many `encode` adds to `count`."""
        return len(self._before) + len(self._after)

    def learn(self, text: str) -> None:
        """Tokenize the new words of `text` in one call."""
        if len(self._ids) > self._max_words:
            self._ids.clear()
        self._tokens_of([word for word in set(text.split()) if len(word) <= MAX_WORD_CHARS])

    def count(self, text: str) -> int:
        """Tokens of `text`, special tokens not counted; near enough where words are not independent."""
        return sum(map(len, self._tokens_of(text.split())))

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """As `Tokenizer.encode`, to the last id."""
        if not self._tokenizer.is_word_local:
            return self._tokenizer.encode(texts)
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> TokenIds:
        if _CONTROL.search(text):
            return self._tokenizer.encode([text])[0]
        ids = list(self._before)
        for word in self._tokens_of(text.split()):
            ids += word
        return np.array(ids + self._after, dtype=np.int32)

    def _tokens_of(self, words: list[str]) -> list[list[int]]:
        known = self._ids
        try:
            return [known[word] for word in words]
        except KeyError:
            pass
        new = [word for word in dict.fromkeys(words) if word not in known]
        start, end = len(self._before), len(self._after)
        found = [ids[start : len(ids) - end].tolist() for ids in self._tokenizer.encode(new)]
        passing = dict(zip(new, found, strict=True))
        known.update((word, ids) for word, ids in passing.items() if len(word) <= MAX_WORD_CHARS)
        return [passing[word] if word in passing else known[word] for word in words]

"""The model's own tokenizer, as its `tokenizer.json` describes it, except that it never cuts or pads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import orjson
from tokenizers import Encoding, Tokenizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from schemas.errors import ModelNotFound
from transforms.embedders.base import PlainWords, TokenIds
from transforms.embedders.wordpiece import is_built, word_pieces

PARALLEL_FROM = 8
"""Fewer texts are tokenized one by one: waking other threads costs more (25 against 10 microseconds a word)."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""BERT's tokenizer removes them, joining what they part, and Python takes some of them for white space."""


class ModelTokenizer:
    """Implements `base.Tokenizer`.

    Args:
        path: `tokenizer.json`.

    Raises:
        ModelNotFound: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ModelNotFound(f"{path} is not a readable tokenizer: {error}") from None
        # Saved files carry limits of their own (128 for MiniLM); the space's limit is applied by the caller.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder().values()
        # Of special tokens, found wherever they stand in a text, some of them after it is normalised.
        self._names = [token.content.lower() for token in added]
        self._normalized_names = [self._normalized(token.content) for token in added if token.normalized]

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, special tokens included, int32, however long the text is."""
        return [np.array(encoding.ids, dtype=np.int32) for encoding in self._encodings(texts, special=True)]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, special tokens not counted."""
        return [len(encoding.ids) for encoding in self._encodings(texts, special=False)]

    def _encodings(self, texts: Sequence[str], special: bool) -> list[Encoding]:
        readable = _readable(texts)
        if len(readable) < PARALLEL_FROM:
            return [self._tokenizer.encode(text, add_special_tokens=special) for text in readable]
        return self._tokenizer.encode_batch_fast(readable, add_special_tokens=special)

    @property
    def special_tokens(self) -> int:
        """How many `encode` adds to `count`."""
        return int(self._tokenizer.num_special_tokens_to_add(is_pair=False))

    def is_word_local(self, text: str) -> bool:
        """Whether `text`'s tokens are those of its white-space separated words, one after the other."""
        if not isinstance(self._tokenizer.pre_tokenizer, BertPreTokenizer) or _CONTROL.search(text):
            return False
        lowered = text.lower()
        if any(name in lowered for name in self._names):
            return False
        if not self._normalized_names or text.isascii():
            return True
        normalized = self._normalized(_readable([text])[0])
        return not any(name in normalized for name in self._normalized_names)

    @cached_property
    def plain_words(self) -> PlainWords | None:
        """A faster way for most words; None for another kind of tokenizer, or where it was not built."""
        if not is_built():
            return None
        return word_pieces(orjson.loads(self._tokenizer.to_str()), {*self._names, *self._normalized_names})

    def _normalized(self, text: str) -> str:
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))


def cut(ids: TokenIds, max_tokens: int) -> TokenIds:
    """The first `max_tokens` of an input, its closing special token kept; the input itself when it fits."""
    if len(ids) <= max_tokens:
        return ids
    return np.concatenate([ids[: max_tokens - 1], ids[-1:]])


def _readable(texts: Sequence[str]) -> list[str]:
    """Lone surrogates, which JSON can carry and the tokenizer cannot, become question marks."""
    return [text if text.isascii() else text.encode("utf-8", "replace").decode() for text in texts]

"""What a remote model is given: a text, with its length in tokens as counted here.

OpenAI's text-embedding models count in `cl100k_base`, whose vocabulary lies beside this file: for those the count is
exact. Most others keep their tokenizers to themselves. For them it says how long texts are, give or take; what they
billed is in the ledger as `tokens_reported`.
"""

from __future__ import annotations

import base64
import functools
import gzip
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tiktoken

VOCABULARY = Path(__file__).with_name("cl100k_base.tiktoken.gz")
"""Ranks of `tiktoken` (OpenAI, MIT licence), as https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken
has them, compressed: the library itself would fetch them."""

PROBED_CHARS_PER_TOKEN = 8
"""The first so many characters for each token of a limit tell of most texts already that they are beyond it."""


@dataclass(frozen=True, slots=True)
class TextInput:
    """Implements `ModelInput`.

    Args:
        text: legible, prefix included.
        tokens: counted here.
    """

    text: str
    tokens: int

    def __len__(self) -> int:
        return self.tokens

    def tobytes(self) -> bytes:
        """The text in UTF-8."""
        return self.text.encode()


class RemoteWords:
    """Implements `Words`. Safe in several threads."""

    special_tokens = 0

    def __init__(self) -> None:
        self._encoding = encoding()

    def count(self, text: str, limit: int = sys.maxsize) -> int:
        """Tokens of `text`; of one with more than `limit` it is only said that they are more."""
        probe_chars = PROBED_CHARS_PER_TOKEN * limit
        if len(text) > probe_chars:
            tokens = self._count(text[:probe_chars])
            if tokens > limit + 1:  # the cut may have split one
                return tokens
        return self._count(text)

    def encode(self, texts: Sequence[str]) -> list[TextInput]:
        """Texts with their lengths."""
        return [TextInput(text, self._count(text)) for text in map(_legible, texts)]

    def cut(self, text: str, max_tokens: int) -> TextInput:
        """The first `max_tokens` tokens of a text, or a little less; all of it when it fits."""
        legible, kept = _legible(text), max_tokens
        tokens = self._tokens(legible)
        while len(tokens) > max_tokens:
            # A token may end within a character, and what is left may be cut into more tokens than it was.
            legible = self._encoding.decode(tokens[:kept], errors="ignore")
            tokens, kept = self._tokens(legible), kept - 1
        return TextInput(legible, len(tokens))

    def _count(self, text: str) -> int:
        return len(self._tokens(text))

    def _tokens(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)


@functools.cache
def encoding() -> tiktoken.Encoding:
    """`cl100k_base`, without what stands for control, so that no text can mean that."""
    lines = gzip.decompress(VOCABULARY.read_bytes()).splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    return tiktoken.Encoding("cl100k_base", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})


_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
"""How `tiktoken` parts texts before it looks for tokens."""


def _legible(text: str) -> str:
    """Lone surrogates, which JSON cannot carry in UTF-8, become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()

"""The contract of an embedding engine, local or remote. Engines do not know each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from schemas.documents import ModelInput
from schemas.spaces import EmbeddingSpace
from schemas.usage import Price

TokenIds = npt.NDArray[np.int32]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What is worth knowing of a loaded engine.

    Args:
        provider: `local`, or the name of a paid one.
        engine: `onnx`, `vnni`, `torch`, ...
        version: of the library that runs it.
        arithmetic: of its matrix products: `fp32`, `bf16`, `int16`, `int8`, ...; empty for remote.
        threads: it computes with, over all streams; 0 for remote.
        streams: calls that are worth making at once, each from a thread of its own.
        max_batch_tokens: computed tokens of one call at which it is fastest.
        max_batch_inputs: of one call; None for any number.
        pads: every input of a call to its longest, so that a call computes inputs times longest; if not, its tokens.
    """

    provider: str
    engine: str
    version: str
    arithmetic: str
    threads: int
    streams: int
    max_batch_tokens: int
    price: Price
    pads: bool = True
    max_batch_inputs: int | None = None


class Engine(Protocol):
    """Turns model inputs into vectors of one space. `run` may be called from several threads at once."""

    space: EmbeddingSpace
    facts: EngineFacts

    def run(self, batch: Sequence[Any]) -> Vectors:
        """Vectors of one batch, float32, (len(batch), dimensions), in the order given.

        Each item is an input of this engine's own kind, as its space's `Words` give it: `TokenIds`, or `TextInput`
        for a remote one; special tokens included, 1 to `space.max_tokens` long.

        Raises:
            EngineFailed: the engine refused or broke.
        """
        ...


class Words(Protocol):
    """Lengths of texts in tokens of a model, and its inputs."""

    def count(self, text: str, limit: int = sys.maxsize) -> int:
        """Tokens of `text`, special tokens not counted.

        Args:
            limit: of a text with more, it is only said that they are more.
        """
        ...

    def encode(self, texts: Sequence[str]) -> Sequence[ModelInput]:
        """The model inputs of texts, special tokens included, however long."""
        ...

    @property
    def special_tokens(self) -> int:
        """How many `encode` adds to `count`."""
        ...


class PlainWords(Protocol):
    """Tokens of words in ASCII, with nothing around a text. The other words, `foreign` ones, are given back."""

    def count(self, text: str, limit: int) -> tuple[int, list[str]]:
        """Tokens of all words but the foreign ones, and these; with more tokens than `limit` the rest is left out."""
        ...

    def encode(self, text: str) -> tuple[TokenIds, list[str]] | None:
        """Ids with a -1 for each foreign word, and these; None if `text` is ASCII and not word-local."""
        ...


class Tokenizer(Protocol):
    """Text to token ids, never truncating."""

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids with the special tokens a single input needs, as long as the text asks for."""
        ...

    def count(self, texts: Sequence[str]) -> list[int]:
        """Number of tokens of each text, special tokens not counted."""
        ...

    @property
    def special_tokens(self) -> int:
        """How many `encode` adds to `count`."""
        ...

    def is_word_local(self, text: str) -> bool:
        """Whether `text`'s tokens are those of its white-space separated words, one after the other."""
        ...

    @property
    def plain_words(self) -> PlainWords | None:
        """A faster way for most words of texts that are word-local; None if there is none."""
        ...

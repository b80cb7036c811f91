"""Texts through tokenizer and engine as a run of the product would send them: buffer by buffer, sorted by length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from transforms.embedders.base import Engine, TokenIds, Tokenizer
from transforms.embedders.batching import EmbedResult, embed_all
from transforms.embedders.tokenizer import cut

TEXTS_PER_CALL = 256
"""Given to the tokenizer at once: enough to keep its threads busy, and flat memory."""


def embed_stream(
    engine: Engine,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    max_buffer_tokens: int,
    max_batch_tokens: int | None = None,
) -> Iterator[EmbedResult]:
    """Vectors of `texts` in their order, a result for each buffer; texts over the model's limit are cut to it.

    Args:
        max_buffer_tokens: gathered before they are sorted and embedded.
        max_batch_tokens: of one call into the engine; None takes the engine's own.
    """
    limit = engine.space.max_tokens
    buffer: list[TokenIds] = []
    tokens = 0
    for some in _batched(texts):
        for ids in tokenizer.encode(some):
            buffer.append(cut(ids, limit))
            tokens += len(buffer[-1])
            if tokens >= max_buffer_tokens:
                yield embed_all(engine, buffer, max_batch_tokens)
                buffer, tokens = [], 0
    if buffer:
        yield embed_all(engine, buffer, max_batch_tokens)


def _batched(texts: Iterable[str]) -> Iterator[list[str]]:
    some: list[str] = []
    for text in texts:
        some.append(text)
        if len(some) == TEXTS_PER_CALL:
            yield some
            some = []
    if some:
        yield some

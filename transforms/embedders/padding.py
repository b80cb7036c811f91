"""Inputs of different length as one rectangle of token ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schemas.errors import EngineFailed
from transforms.embedders.base import TokenIds


def pad(batch: Sequence[TokenIds], max_tokens: int) -> tuple[TokenIds, TokenIds]:
    """Token ids and attention mask, int32 (len(batch), longest), zeros on the right.

    Raises:
        EngineFailed: an input is empty, or longer than `max_tokens`.
    """
    lengths = check_lengths(batch, max_tokens)
    input_ids = np.zeros((len(batch), max(lengths)), dtype=np.int32)
    attention_mask = np.zeros_like(input_ids)
    for row, ids in enumerate(batch):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
    return input_ids, attention_mask


def check_lengths(batch: Sequence[TokenIds], max_tokens: int) -> list[int]:
    """Length of each input.

    Raises:
        EngineFailed: an input is empty, or longer than `max_tokens`.
    """
    lengths = [len(ids) for ids in batch]
    if min(lengths) < 1 or max(lengths) > max_tokens:
        raise EngineFailed(
            f"inputs of {min(lengths)} to {max(lengths)} tokens, expected 1 to {max_tokens}: "
            "chunk the text before it is embedded"
        )
    return lengths

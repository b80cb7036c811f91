"""The tokenizer gives all the tokens a text asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ModelNotFound
from transforms.embedders.base import Tokenizer
from transforms.embedders.tokenizer import ModelTokenizer, cut


def test_ids_are_those_of_bert_with_its_special_tokens(tokenizer: Tokenizer) -> None:
    [ids] = tokenizer.encode(["Hello, world!"])
    assert ids.tolist() == [101, 7592, 1010, 2088, 999, 102]
    assert ids.dtype == np.int32


def test_a_long_text_is_neither_cut_nor_is_a_short_one_padded(tokenizer: Tokenizer) -> None:
    short, long = tokenizer.encode(["word", "word " * 3000])
    assert (len(short), len(long)) == (3, 3002)


def test_an_empty_text_is_its_special_tokens_alone(tokenizer: Tokenizer) -> None:
    [ids] = tokenizer.encode([""])
    assert ids.tolist() == [101, 102]
    assert tokenizer.encode([]) == []


def test_a_count_and_the_special_tokens_make_the_length_of_an_input(tokenizer: Tokenizer) -> None:
    texts = ["", "retry the build", "数据库", "\ud800 half a surrogate", "🚀\x00\u200b", "x" * 5000]
    lengths = [len(ids) for ids in tokenizer.encode(texts)]
    assert lengths == [count + tokenizer.special_tokens for count in tokenizer.count(texts)]


@given(st.lists(st.text(st.characters(exclude_categories=[])), max_size=5))
def test_any_text_can_be_tokenized(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert [len(ids) - 2 for ids in tokenizer.encode(texts)] == tokenizer.count(texts)


@given(st.integers(2, 300), st.integers(2, 300))
def test_cutting_keeps_the_beginning_and_the_closing_token(length: int, limit: int) -> None:
    ids = np.arange(length, dtype=np.int32)
    shortened = cut(ids, limit)
    assert len(shortened) == min(length, limit)
    assert shortened[-1] == length - 1
    assert shortened[:-1].tolist() == list(range(len(shortened) - 1))


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text('{"version": "1.0"}')
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json is not a readable tokenizer"):
        ModelTokenizer(broken)

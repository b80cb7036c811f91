"""What is put together from remembered words is what the tokenizer would have said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.embedders.base import TokenIds, Tokenizer
from transforms.embedders.word_memo import WordMemo

pieces = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["\n\n", "# Head\n", "word " * 60, "x" * 700, "漢字" * 90, "🙂" * 40, "a\x85b", "İ", "\u2028"]
    ),
)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.lists(pieces, max_size=6).map("".join), max_size=4))
def test_ids_are_the_tokenizers_own_for_any_text(tokenizer: Tokenizer, texts: list[str]) -> None:
    memo = WordMemo(tokenizer)
    for _ in range(2):  # once learning, once remembering
        for mine, its in zip(memo.encode(texts), tokenizer.encode(texts), strict=True):
            np.testing.assert_array_equal(mine, its)


def test_a_count_is_the_tokenizers_own(tokenizer: Tokenizer) -> None:
    text = "Die Schütze klemmt: NullPointerException at intake.Gate.close(Gate.java:42)"
    memo = WordMemo(tokenizer)
    assert [memo.count(text)] == tokenizer.count([text])
    assert memo.special_tokens == tokenizer.special_tokens


class Counting:
    """Counts the texts that the real tokenizer is asked for."""

    def __init__(self, tokenizer: Tokenizer, is_word_local: bool = True) -> None:
        self._tokenizer = tokenizer
        self.special_tokens = tokenizer.special_tokens
        self.is_word_local = is_word_local
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        self.asked += texts
        return self._tokenizer.encode(texts)

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._tokenizer.count(texts)


def test_a_piece_is_tokenized_once_however_words_are_made_of_it(tokenizer: Tokenizer) -> None:
    counting = Counting(tokenizer)
    memo = WordMemo(counting)
    memo.learn("the gate.open() jams, the gate opens")
    memo.encode(["the gate (opens)", "gate.jams()"])
    assert sorted(counting.asked[2:]) == ["(", ")", ",", ".", "gate", "jams", "open", "opens", "the"]


def test_memory_is_bounded_in_characters(tokenizer: Tokenizer) -> None:
    memo = WordMemo(tokenizer, max_chars=1000)
    for start in range(0, 1000, 10):
        memo.learn(" ".join(f"w{start + n}" for n in range(10)) + " " + "x" * start)
    assert sum(map(len, [*memo._words, *memo._pieces])) <= 1000 + 2 * 1100


@pytest.mark.parametrize("texts", [[], ["one two"]])
def test_where_words_are_not_independent_the_tokenizer_itself_is_asked(
    tokenizer: Tokenizer, texts: list[str]
) -> None:
    counting = Counting(tokenizer, is_word_local=False)
    memo = WordMemo(counting)
    memo.encode(texts)
    assert counting.asked[2:] == texts

"""What is put together from words, compiled or remembered, is what the tokenizer would have said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.embedders.base import PlainWords, TokenIds, Tokenizer
from transforms.embedders.word_memo import WordMemo

SAMPLES = (
    "\n\n", "# Head\n", "word " * 60, "x" * 700, "x" * 100, "y" * 101, "漢字" * 90, "🙂" * 40, "a\x85b", "İ",
    "\u2028", "\x00", "\x0b", "a\x1cb", "\x7f", "[SEP]", "[sep]", "<mask>", "[PAD", "]", "é\u0301", "\ud800",
    "naïve[MASK]", "Gate.java:42", "<s>", "≮s>", "NullPointerException", "https://a.b/c?d=e#f",
)  # fmt: skip
pieces = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(max_codepoint=127), max_size=40),
    st.text(st.characters(exclude_categories=[]), max_size=5),
    st.sampled_from(SAMPLES),
)
texts_of_pieces = st.lists(pieces, max_size=6).map("".join)


class Observed:
    """Counts the texts that the real tokenizer is asked for.

    Args:
        compiled: whether the compiled part is there, as it is not on every machine.
    """

    def __init__(self, tokenizer: Tokenizer, compiled: bool, is_word_local: bool = True) -> None:
        self._tokenizer = tokenizer
        self._is_word_local = is_word_local
        self.special_tokens = tokenizer.special_tokens
        self.plain_words: PlainWords | None = tokenizer.plain_words if compiled else None
        self.asked: list[str] = []

    def is_word_local(self, text: str) -> bool:
        return self._is_word_local and self._tokenizer.is_word_local(text)

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        self.asked += texts
        return self._tokenizer.encode(texts)

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._tokenizer.count(texts)


both_ways = pytest.mark.parametrize("compiled", [True, False])


@both_ways
@settings(max_examples=300, deadline=None)
@given(texts=st.lists(texts_of_pieces, max_size=4))
def test_ids_are_the_tokenizers_own_for_any_text(
    tokenizer: Tokenizer, compiled: bool, texts: list[str]
) -> None:
    memo = WordMemo(Observed(tokenizer, compiled))
    for _ in range(2):  # once learning, once remembering
        for mine, its in zip(memo.encode(texts), tokenizer.encode(texts), strict=True):
            np.testing.assert_array_equal(mine, its)


@both_ways
@settings(max_examples=300, deadline=None)
@given(text=texts_of_pieces)
def test_a_count_is_the_tokenizers_own_where_words_are_independent(
    tokenizer: Tokenizer, compiled: bool, text: str
) -> None:
    memo = WordMemo(Observed(tokenizer, compiled))
    if tokenizer.is_word_local(text):
        assert [memo.count(text)] == tokenizer.count([text])
    assert memo.count(text) == WordMemo(Observed(tokenizer, not compiled)).count(text)


@both_ways
@settings(deadline=None)
@given(text=texts_of_pieces, limit=st.integers(0, 60))
def test_a_count_is_exact_up_to_its_limit_and_beyond_it_beyond(
    tokenizer: Tokenizer, compiled: bool, text: str, limit: int
) -> None:
    memo = WordMemo(Observed(tokenizer, compiled))
    exact, limited = memo.count(text), memo.count(text, limit)
    assert limited == exact if exact <= limit else limit < limited <= exact


@both_ways
def test_special_tokens_are_those_that_encoding_adds(tokenizer: Tokenizer, compiled: bool) -> None:
    memo = WordMemo(Observed(tokenizer, compiled))
    assert memo.special_tokens == tokenizer.special_tokens == len(memo.encode([""])[0])


def test_a_piece_is_tokenized_once_however_words_are_made_of_it(tokenizer: Tokenizer) -> None:
    observed = Observed(tokenizer, compiled=False)
    memo = WordMemo(observed)
    memo.count("the gate.open() jams, the gate opens")
    memo.encode(["the gate (opens)", "gate.jams()"])
    assert sorted(observed.asked[2:]) == ["(", ")", ",", ".", "gate", "jams", "open", "opens", "the"]


def test_with_the_compiled_part_only_foreign_words_reach_the_tokenizer(tokenizer: Tokenizer) -> None:
    observed = Observed(tokenizer, compiled=True)
    memo = WordMemo(observed)
    memo.count("the gate.öffnet() jams, the gate öffnet")
    memo.encode(["the gate (öffnet)", "gate.jams()"])
    assert observed.asked[2:] == ["öffnet"]


@both_ways
def test_memory_is_bounded_in_characters(tokenizer: Tokenizer, compiled: bool) -> None:
    memo = WordMemo(Observed(tokenizer, compiled), max_chars=1000)
    for start in range(0, 1000, 10):
        memo.count(" ".join(f"ö{start + n}" for n in range(10)) + " " + "ö" * start)
    assert 0 < sum(map(len, [*memo._words, *memo._pieces])) <= 1000 + 2 * 1100


@both_ways
@pytest.mark.parametrize("texts", [[], ["ön two"], ["\x00", "ön two"]])
def test_where_words_are_not_independent_the_tokenizer_itself_is_asked(
    tokenizer: Tokenizer, compiled: bool, texts: list[str]
) -> None:
    observed = Observed(tokenizer, compiled, is_word_local=False)
    memo = WordMemo(observed)
    memo.encode(texts)
    assert observed.asked[2:] == texts

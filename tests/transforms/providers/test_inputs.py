"""What a remote model is given is counted as OpenAI counts it, and never more than it may be."""

from __future__ import annotations

import gzip
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.documents import ModelInput
from transforms.embedders.base import Words
from transforms.providers.inputs import VOCABULARY, RemoteWords, TextInput
from transforms.routing import canaries

OFFICIAL = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
"""As `tiktoken_ext/openai_public.py` has it for `cl100k_base`."""

WORDS: Words = RemoteWords()
HARD = [
    "",
    "a",
    "\ud800",
    "naïve café",
    "本" * 40,
    "🧑‍🔧" * 9,
    "<|endoftext|>",
    "\x00\x1f",
    " \n\t" * 50,
    "ab" * 300,
]


def test_the_vocabulary_is_the_official_one() -> None:
    assert hashlib.sha256(gzip.decompress(VOCABULARY.read_bytes())).hexdigest() == OFFICIAL


COUNTED = {
    "hello world": 2,
    "tiktoken is great!": 6,
    "antidisestablishmentarianism": 6,
    "お誕生日おめでとう": 9,
    "": 0,
}


@pytest.mark.parametrize(("text", "tokens"), COUNTED.items())
def test_texts_are_counted_as_openai_counts_them(text: str, tokens: int) -> None:
    """The examples of OpenAI's cookbook, "How to count tokens with tiktoken"."""
    assert WORDS.count(text) == tokens
    assert list(map(len, WORDS.encode([text]))) == [tokens]


def test_known_sentences_are_reserved_as_they_are_counted() -> None:
    assert sum(map(WORDS.count, canaries.SENTENCES)) == canaries.TOKENS


def test_words_that_mean_control_elsewhere_are_only_words() -> None:
    assert WORDS.count("<|endoftext|>") > 1


@given(st.text())
def test_an_input_is_its_text_and_its_length(text: str) -> None:
    (one,) = RemoteWords().encode([text])
    given: ModelInput = one
    assert one.text == text
    assert given.tobytes().decode() == text
    assert len(given) == WORDS.count(text)


def test_half_a_character_becomes_a_question_mark() -> None:
    assert RemoteWords().encode(["\ud800 half a pair"]) == [TextInput("? half a pair", 4)]


@given(st.text(min_size=1) | st.sampled_from(HARD[1:]), st.integers(0, 40))
def test_a_count_is_exact_up_to_its_limit_and_beyond_it_only_said_to_be_beyond(text: str, limit: int) -> None:
    whole, asked = WORDS.count(text), WORDS.count(text, limit)
    assert asked == whole if whole <= limit else asked > limit


@given(st.text() | st.sampled_from(HARD), st.integers(1, 30))
def test_what_is_cut_begins_the_text_and_fits(text: str, max_tokens: int) -> None:
    words = RemoteWords()
    (whole,) = words.encode([text])
    cut = words.cut(text, max_tokens)
    assert whole.text.startswith(cut.text)
    assert len(cut) == WORDS.count(cut.text) <= max_tokens
    if len(whole) <= max_tokens:
        assert cut == whole


def test_equal_texts_are_equal_inputs_and_others_are_not() -> None:
    one, same, other = WORDS.encode(["gate", "gate", "gates"])
    assert one == same == TextInput("gate", 1)
    assert one.tobytes() == same.tobytes() != other.tobytes()

"""The compiled tokenizer does what the tokenizers library does, for any vocabulary, and refuses what it cannot do."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from transforms.embedders.base import Tokenizer
from transforms.embedders.tokenizer import ModelTokenizer
from transforms.embedders.word_memo import WordMemo
from transforms.embedders.wordpiece import is_built, word_pieces

pytestmark = pytest.mark.skipif(not is_built(), reason="the library was not built on this system")

MPNETS = [AddedToken("<s>", normalized=True), AddedToken("</s>", normalized=False), AddedToken("<unk>")]


def library(
    vocabulary: dict[str, int] | None = None,
    prefix: str = "##",
    lowercase: bool = True,
    max_word_chars: int = 100,
) -> Library:
    """As MPNet's: BERT's words, RoBERTa's special tokens."""
    words = {"<s>": 0, "</s>": 1, "<unk>": 2} | (vocabulary or {"gate": 3})
    tokenizer = Library(
        models.WordPiece(
            words,
            unk_token="<unk>",
            continuing_subword_prefix=prefix,
            max_input_chars_per_word=max_word_chars,
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer.add_special_tokens(MPNETS)
    return tokenizer


def model_tokenizer(raw: Library, folder: Path) -> ModelTokenizer:
    raw.save(str(folder / "tokenizer.json"))
    return ModelTokenizer(folder / "tokenizer.json")


few = "abA1.<s>/"
vocabularies = st.lists(st.text(few + "#", min_size=1, max_size=5), min_size=1, max_size=40, unique=True).map(
    lambda words: {word: number for number, word in enumerate(words, 3)}
)
texts = st.lists(
    st.one_of(
        st.text(few + " \n", max_size=30), st.text(max_size=3), st.sampled_from(["≮s>", "<S>", "<\u0301s>"])
    ),
    max_size=5,
).map("".join)


@settings(max_examples=400, deadline=None)
@given(
    vocabulary=vocabularies,
    prefix=st.sampled_from(["##", "a", "", "é"]),
    lowercase=st.booleans(),
    max_word_chars=st.integers(0, 12),
    text=texts,
)
def test_any_vocabulary_is_read_as_the_library_reads_it(
    tmp_path_factory: pytest.TempPathFactory,
    vocabulary: dict[str, int],
    prefix: str,
    lowercase: bool,
    max_word_chars: int,
    text: str,
) -> None:
    raw = library(vocabulary, prefix, lowercase, max_word_chars)
    tokenizer = model_tokenizer(raw, tmp_path_factory.mktemp("tokenizer"))
    assert tokenizer.plain_words is not None
    memo = WordMemo(tokenizer)
    np.testing.assert_array_equal(memo.encode([text])[0], tokenizer.encode([text])[0])
    if tokenizer.is_word_local(text):
        assert memo.count(text) == tokenizer.count([text])[0]


def test_foreign_words_come_back_as_they_were_and_leave_holes(tokenizer: Tokenizer) -> None:
    plain = tokenizer.plain_words
    assert plain is not None
    assert plain.count("the gate öffnet.\x00 a\u2028b, 漢字", sys.maxsize) == (
        4,
        ["öffnet", "\x00", "a\u2028b", "漢字"],
    )
    encoded = plain.encode("gate ö.漢")
    assert encoded is not None
    ids, foreign = encoded
    assert foreign == ["ö", "漢"]
    assert ids.tolist() == [tokenizer.encode(["gate"])[0][1], -1, tokenizer.encode(["."])[0][1], -1]


@pytest.mark.parametrize(
    "text", ["", " \t\r\n", "." * 9, "x" * 200_000, "é" * 9, "é." * 9, "\x00" * 9, "0 " * 9]
)
def test_the_shortest_and_the_densest_texts_stay_within_their_buffers(
    tokenizer: Tokenizer, text: str
) -> None:
    memo = WordMemo(tokenizer)
    assert memo.encode([text])[0].tolist() == tokenizer.encode([text])[0].tolist()


@pytest.mark.parametrize("text", ["a [SEP] b", "[sep]", "[MASK", "[MASKED]", "[[CLS]]", "a\x07b"])
def test_of_plain_text_only_names_of_special_tokens_and_control_characters_are_refused(
    tokenizer: Tokenizer, text: str
) -> None:
    plain = tokenizer.plain_words
    assert plain is not None
    assert (plain.encode(text) is None) == (text not in ("[MASK", "[MASKED]"))


def test_threads_share_one_vocabulary(tokenizer: Tokenizer) -> None:
    plain = tokenizer.plain_words
    assert plain is not None
    lines = [f"{n} gates (öffnen) {'x' * n}" for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda line: plain.count(line, sys.maxsize), lines * 4))
    assert together == [plain.count(line, sys.maxsize) for line in lines] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"type": "Unigram"}},
        {"normalizer": None},
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": None},
    ],
)
def test_another_kind_of_tokenizer_has_no_plain_words(changes: dict[str, Any]) -> None:
    settings = orjson.loads(library().to_str())
    assert word_pieces(settings, ["<s>"]) is not None
    assert word_pieces(settings | changes, ["<s>"]) is None


@pytest.mark.parametrize("name", ["", "s>", " <s>", "<a\nb>", "漢"])
def test_a_special_token_with_an_unusual_name_leaves_texts_to_the_library(name: str) -> None:
    assert word_pieces(orjson.loads(library().to_str()), [name]) is None


def test_a_vocabulary_without_its_unknown_token_is_left_to_the_library() -> None:
    settings = orjson.loads(library().to_str())
    del settings["model"]["vocab"]["<unk>"]
    assert word_pieces(settings, ["<s>"]) is None


def test_a_vocabulary_too_large_for_the_table_is_left_to_the_library() -> None:
    settings = orjson.loads(library().to_str())
    settings["model"]["vocab"]["x" * (1 << 22)] = 9
    assert word_pieces(settings, ["<s>"]) is None


def test_no_word_is_too_long_where_the_model_sets_no_limit(tmp_path: Path) -> None:
    tokenizer = model_tokenizer(library({"gate": 3, "##s": 4}, max_word_chars=2**63), tmp_path)
    assert WordMemo(tokenizer).encode(["gate" + "s" * 300])[0].tolist() == [0, 3, *[4] * 300, 1]

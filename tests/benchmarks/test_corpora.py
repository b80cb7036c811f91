"""The texts are the same everywhere, and as long as they are said to be."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.corpora import (
    JIRA,
    histogram,
    jira_texts,
    long_texts,
    make_corpora,
    mixed_texts,
    short_texts,
    vocabulary,
)
from benchmarks.growth import is_flat, sizes_up_to
from schemas.config import Model
from transforms.embedders.base import Tokenizer
from transforms.embedders.loading import load_tokenizer
from transforms.embedders.models import default_cache_dir, locate_model


@pytest.fixture(scope="module")
def words() -> list[str]:
    return vocabulary(locate_model(Model(), default_cache_dir()) / "tokenizer.json")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(Model())


def test_a_short_text_has_ten_tokens_and_no_twin(tokenizer: Tokenizer) -> None:
    texts = list(islice(short_texts(), 1000))
    assert len(set(texts)) == 1000
    assert 10 <= np.mean([len(ids) for ids in tokenizer.encode(texts)]) < 11


def test_mixed_texts_have_65_tokens_on_average_and_a_long_tail(
    tokenizer: Tokenizer, words: list[str]
) -> None:
    lengths = [len(ids) for ids in tokenizer.encode(list(islice(mixed_texts(words), 4000)))]
    assert 60 <= np.mean(lengths) <= 70
    assert np.median(lengths) < np.mean(lengths)
    assert min(lengths) >= 6
    assert max(lengths) == 232


def test_a_long_text_fills_the_model(tokenizer: Tokenizer, words: list[str]) -> None:
    assert {len(ids) for ids in tokenizer.encode(list(islice(long_texts(words), 20)))} == {256}


def test_the_same_seed_gives_the_same_texts(words: list[str]) -> None:
    first, again, other = (list(islice(mixed_texts(words, seed), 20)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_corpus_without_its_file_is_left_out(tmp_path: Path) -> None:
    path = locate_model(Model(), default_cache_dir()) / "tokenizer.json"
    sizes = {"short": 3, "jira": 3}
    assert {name: len(texts) for name, texts in make_corpora(sizes, Model(), path, tmp_path).items()} == {
        "short": 3
    }


@pytest.mark.shared_data
def test_jira_texts_are_chunks_that_fit_the_model(shared_data: Path, tokenizer: Tokenizer) -> None:
    texts = list(islice(jira_texts(shared_data / JIRA, tokenizer, 256), 20))
    assert len(set(texts)) == 20
    assert max(len(ids) for ids in tokenizer.encode(texts)) <= 256


def test_every_length_is_in_one_bar() -> None:
    assert histogram([1, 8, 9, 256, 257], edges=(8, 256)) == {"1-8": 2, "9-256": 2, "more": 1}


def test_growth_goes_by_tens_and_ends_at_the_largest() -> None:
    assert sizes_up_to(100_000) == [1000, 10_000, 100_000]
    assert sizes_up_to(25_000) == [1000, 10_000, 25_000]
    assert sizes_up_to(500) == [500]


def test_memory_that_grows_with_the_texts_is_not_flat() -> None:
    def rows(*peaks: int) -> list[dict[str, int]]:
        return [{"texts": 1000 * 10**n, "peak_mib": peak} for n, peak in enumerate(peaks)]

    assert is_flat(rows(200, 300, 310))  # the first buffers are not full with a thousand texts
    assert not is_flat(rows(200, 300, 400))

"""Documents are cut to the limit with other tokenizers than BERT's as well: byte pairs, pieces with their blanks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from schemas.config import Chunking
from tests.transforms.test_chunk import document
from transforms.chunk import chunk_document, uncovered
from transforms.embedders.tokenizer import ModelTokenizer
from transforms.embedders.word_memo import WordMemo

TEXT = "# Gate\n\nThe gate jams in frost, see Gate.java:42 and `pump_stall`. <s> naïve 漢字🙂 x__y\n\n" * 30
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def byte_pairs() -> Tokenizer:
    """As RoBERTa's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def pieces_with_blanks() -> Tokenizer:
    """As XLM-RoBERTa's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def word_pieces() -> Tokenizer:
    """As MPNet's: BERT's words, RoBERTa's special tokens."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        [TEXT], trainers.WordPieceTrainer(vocab_size=150, special_tokens=SPECIAL, show_progress=False)
    )
    return tokenizer


@pytest.mark.parametrize("build", [byte_pairs, pieces_with_blanks, word_pieces])
def test_every_chunk_fits_and_nothing_is_lost(build: object, tmp_path: Path) -> None:
    raw = build()  # type: ignore[operator]
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    raw.save(str(tmp_path / "tokenizer.json"))
    tokenizer = ModelTokenizer(tmp_path / "tokenizer.json")
    chunked = chunk_document(document(TEXT, "Gate"), WordMemo(tokenizer), Chunking(), 64, "passage: ")
    assert len(chunked.chunks) > 5
    assert max(len(chunk.model_input) for chunk in chunked.chunks) <= 64
    spans = [(chunk.start_char, chunk.end_char) for chunk in chunked.chunks]
    assert all(not TEXT[start:end].strip() for start, end in uncovered(len(TEXT), spans))
    for chunk in chunked.chunks:
        assert np.array_equal(chunk.model_input, tokenizer.encode([f"passage: {chunk.text}"])[0])

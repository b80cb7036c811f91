"""Documents are cut without losing a word, in the model's own tokens."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.config import Chunking, Model
from schemas.documents import ChunkedDocument, Document, Format, Kind, SourceRecord
from schemas.errors import BadConfig
from transforms.chunk import (
    WINDOW_CHARS,
    ChunkDocuments,
    chunk_document,
    room_for_text,
    shortened,
    uncovered,
    windows,
)
from transforms.embedders.base import Tokenizer
from transforms.embedders.loading import load_tokenizer
from transforms.embedders.word_memo import WordMemo

LIMIT = 256


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(Model())


def document(text: str, title: str = "") -> Document:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    record = SourceRecord("acme", "jira", Format.JIRA_ISSUE, Kind.ISSUE, "1", b"{}", at)
    return Document(record, key="ABC-1", project="ABC", title=title, text=text)


def cut(
    text: str,
    tokenizer: Tokenizer,
    title: str = "",
    options: Chunking | None = None,
    max_tokens: int = LIMIT,
    prefix: str = "",
) -> ChunkedDocument:
    words = WordMemo(tokenizer)
    return chunk_document(document(text, title), words, options or Chunking(), max_tokens, prefix)


def test_a_short_document_is_one_chunk_with_its_own_text(tokenizer: Tokenizer) -> None:
    chunked = cut("# Pump stalls\n\nIt stalls.", tokenizer, "Pump stalls")
    (only,) = chunked.chunks
    assert (only.text, only.start_char, only.end_char) == ("# Pump stalls\n\nIt stalls.", 0, 25)
    assert chunked.tokens_embedded == chunked.tokens_seen + 2


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_a_document_without_text_has_no_chunks(text: str, tokenizer: Tokenizer) -> None:
    chunked = cut(text, tokenizer)
    assert (chunked.chunks, chunked.tokens_seen, chunked.tokens_truncated) == ((), 0, 0)


def test_chunks_are_sections_where_sections_fit(tokenizer: Tokenizer) -> None:
    section = "The intake gate closes late when the level sensor lags behind. " * 10
    text = "\n\n".join(f"## Part {n}\n\n{section.strip()}" for n in range(4))
    chunked = cut(text, tokenizer)
    assert [chunk.text.splitlines()[0] for chunk in chunked.chunks] == [f"## Part {n}" for n in range(4)]


def test_a_code_block_that_fits_is_kept_whole(tokenizer: Tokenizer) -> None:
    code = "```python\n" + "\n".join(f"level_{n} = sensor.read({n})" for n in range(12)) + "\n```"
    prose = "Water is let in by the gate and out by the weir. " * 18
    chunked = cut(f"{prose}\n\n{code}\n\n{prose}", tokenizer)
    assert sum(code in chunk.text for chunk in chunked.chunks) == 1


def test_later_chunks_begin_with_the_title(tokenizer: Tokenizer) -> None:
    text = "# Gate jams\n\n" + "The gate jams in frost. " * 200
    first, *later = cut(text, tokenizer, "Gate jams").chunks
    assert first.text.startswith("# Gate jams")
    assert later
    assert all(chunk.text.startswith("Gate jams\n") for chunk in later)


def test_neighbouring_chunks_overlap_by_at_most_what_was_asked(tokenizer: Tokenizer) -> None:
    text = " ".join(f"word{n}" for n in range(1500))
    chunks = cut(text, tokenizer, options=Chunking(overlap_tokens=20)).chunks
    overlaps = [a.end_char - b.start_char for a, b in itertools.pairwise(chunks)]
    assert all(overlap > 0 for overlap in overlaps)
    repeated = [tokenizer.count([text[b.start_char : a.end_char]])[0] for a, b in itertools.pairwise(chunks)]
    assert max(repeated) <= 20


def test_truncation_keeps_the_first_chunk_and_counts_what_it_cut(tokenizer: Tokenizer) -> None:
    text = "The gate jams in frost. " * 200
    chunked = cut(text, tokenizer, options=Chunking(overflow="truncate"))
    (only,) = chunked.chunks
    assert chunked.tokens_truncated == chunked.tokens_seen - (len(only.model_input) - 2) > 0


@pytest.mark.parametrize("repeats", [1, 200])
def test_a_prefix_is_in_the_tokens_and_not_in_the_text(repeats: int, tokenizer: Tokenizer) -> None:
    text = "# Gate\n\n" + "The gate jams in frost. " * repeats
    chunked = cut(text, tokenizer, "Gate", prefix="passage: ")
    assert chunked.chunks[0].text.startswith("# Gate")
    for chunk in chunked.chunks:
        assert "passage" not in chunk.text
        assert chunk.model_input.tolist() == tokenizer.encode([f"passage: {chunk.text}"])[0].tolist()
    assert chunked.tokens_seen == tokenizer.count([text])[0]
    assert chunked.tokens_truncated == 0


def test_a_prefix_counts_toward_the_limit(tokenizer: Tokenizer) -> None:
    (exact,) = tokenizer.encode(["The gate jams in frost today"])
    text, limit = "The gate jams in frost today", len(exact)
    assert len(cut(text, tokenizer, max_tokens=limit + 8).chunks) == 1
    prefixed = cut(
        text + " and the pump stalls " * 4, tokenizer, max_tokens=limit + 12, prefix="passage: "
    ).chunks
    assert len(prefixed) > 1
    assert max(len(chunk.model_input) for chunk in prefixed) <= limit + 12


LONG_PREFIX = "represent this document well for retrieval: "


def test_a_prefix_that_leaves_no_room_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(BadConfig, match=r"leaves 7 of 16 tokens for text.*shorten model\.document_prefix"):
        room_for_text(WordMemo(tokenizer), 16, LONG_PREFIX)


def test_the_step_puts_the_models_prefix_before_every_chunk(tokenizer: Tokenizer) -> None:
    step = ChunkDocuments(Chunking(max_tokens=32), Model(document_prefix="passage: "))
    begin = tokenizer.encode(["passage: "])[0][:-1].tolist()

    def begin_alike(found: list[ChunkedDocument]) -> None:
        (chunked,) = found
        assert len(chunked.chunks) > 1
        assert all(chunk.model_input[: len(begin)].tolist() == begin for chunk in chunked.chunks)

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        created = pipeline | beam.Create([document("The gate jams in frost. " * 20, "Gate")])
        assert_that((created | step).documents, begin_alike)


def test_the_step_refuses_such_a_prefix_before_the_first_document() -> None:
    step = ChunkDocuments(Chunking(max_tokens=16), Model(document_prefix=LONG_PREFIX))
    with pytest.raises(Exception, match="leaves 7 of 16"), beam.Pipeline(runner="FnApiRunner") as pipeline:
        _ = pipeline | beam.Create([document("short")]) | step


pieces = st.one_of(
    st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=40),  # as extraction leaves it
    st.sampled_from(
        ["\n\n", "\n", "# Head\n", "```\n", "- item\n", "word " * 60, "x" * 700, "漢字" * 90, "🙂" * 40]
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(pieces, max_size=30), st.text(max_size=200), st.sampled_from([32, 64, 256]))
def test_nothing_but_white_space_lies_between_chunks_and_every_chunk_fits(
    parts: list[str], title: str, max_tokens: int
) -> None:
    tokenizer = load_tokenizer(Model())
    text = "".join(parts)
    chunked = cut(text, tokenizer, title, max_tokens=max_tokens)
    spans = [(chunk.start_char, chunk.end_char) for chunk in chunked.chunks]
    assert [chunk.ordinal for chunk in chunked.chunks] == list(range(len(spans)))
    assert all(len(chunk.model_input) <= max_tokens for chunk in chunked.chunks)
    assert all(
        chunk.text.endswith(text[start:end])
        for chunk, (start, end) in zip(chunked.chunks, spans, strict=True)
    )
    assert all(not text[start:end].strip() for start, end in uncovered(len(text), spans))
    assert chunked.tokens_truncated == 0


@given(st.text(alphabet="ab \n", max_size=200), st.integers(4, 50))
def test_windows_cover_the_text_without_overlap(text: str, limit: int) -> None:
    spans = list(windows(text, limit))
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(0 < end - start <= limit for start, end in spans)


def test_a_title_is_shortened_at_a_word(tokenizer: Tokenizer) -> None:
    words = WordMemo(tokenizer)
    assert shortened("the gate jams in frost", words, 3) == "the gate jam".removesuffix(" jam")
    assert shortened("the gate", words, 8) == "the gate"


@pytest.mark.alone
@pytest.mark.parametrize("unit", ["word ", "x", "line\n", "a,b;", "# h\n\n", "```\n"])
def test_a_monstrous_text_is_cut_in_linear_time(unit: str, tokenizer: Tokenizer) -> None:
    def seconds(chars: int) -> float:
        started = time.perf_counter()
        cut(unit * (chars // len(unit)), tokenizer)
        return time.perf_counter() - started

    seconds(WINDOW_CHARS)
    assert seconds(16 * WINDOW_CHARS) < 40 * max(seconds(WINDOW_CHARS), 0.02)

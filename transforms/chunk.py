"""Cut documents into chunks that fit the model, counted in the model's own tokens.

The cutting is done by `semantic-text-splitter` (headings, code blocks, paragraphs, sentences, words, in that
order of preference). It asks for the length of a great many pieces; `Words` answer, since a tokenizer call for each
would cost as much as a fast model.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics
from semantic_text_splitter import MarkdownSplitter

from schemas.config import Chunking, Model
from schemas.documents import Chunk, ChunkedDocument, DeadLetter, Document
from schemas.errors import BadConfig, RecordError
from schemas.ids import text_hash
from transforms import progress
from transforms.detectors.base import PLACEHOLDERS
from transforms.embedders.base import Words
from transforms.embedders.loading import load_words
from transforms.embedders.models import space_of

CHUNKER_VERSION = 1
"""Part of every fingerprint: raise it when the same document would be cut in another way."""

CHARS_PER_TOKEN_LIMIT = 16
"""A chunk has at most this many characters for each token it may have: a megabyte without a blank is one unknown
word to a word-piece model, but no chunk to show to anyone."""

WINDOW_CHARS = 40_000
"""Longer texts are first cut at blank lines into windows of this size: the splitter is quadratic beyond."""

MIN_ROOM_TOKENS = 8
"""For text in a chunk: with less, a title and a few words would be all of it."""

TOKENS = "headrace.tokens"
"""Namespace of the counters `seen` and `truncated`."""

Span = tuple[int, int]
"""Start and end of a piece, in characters."""


def windows(text: str, limit: int = WINDOW_CHARS) -> Iterator[Span]:
    """Cut `text` into spans of at most `limit` characters, at a blank line, line or blank if there is one."""
    start = 0
    while len(text) - start > limit:
        end = start + limit
        for separator in ("\n\n", "\n", " "):
            at = text.rfind(separator, start + limit // 2, end)
            if at > 0:
                end = at + len(separator)
                break
        yield start, end
        start = end
    if start < len(text):
        yield start, len(text)


def split_spans(text: str, words: Words, max_tokens: int, overlap_tokens: int) -> list[Span]:
    """Spans of `text` of at most `max_tokens` tokens each; what lies between two of them is white space.

    Args:
        overlap_tokens: most tokens that a piece repeats from the one before; less than `max_tokens`.
    """

    def weight(piece: str) -> int:
        """Exact up to `max_tokens`; beyond it the splitter asks for no more than that it is beyond."""
        least = len(piece) // CHARS_PER_TOKEN_LIMIT
        return least if least > max_tokens else max(least, words.count(piece, max_tokens))

    splitter = MarkdownSplitter.from_callback(weight, max_tokens, overlap=overlap_tokens)
    return [
        (start + offset, start + offset + len(piece))
        for start, end in windows(text)
        for offset, piece in splitter.chunk_indices(text[start:end])
    ]


_PLACEHOLDER = re.compile("|".join(map(re.escape, sorted(PLACEHOLDERS))))


def with_whole_placeholders(text: str, spans: list[Span]) -> list[Span]:
    """`spans` with edges moved back out of placeholders such as `[EMAIL]`, which are three words to the splitter."""
    inside = {
        place: match.span()
        for match in _PLACEHOLDER.finditer(text)
        for place in range(match.start() + 1, match.end())
    }
    if not inside:
        return spans
    moved: list[Span] = []
    for start, end in spans:
        start = inside[start][0] if start in inside else start
        if end in inside:
            end = inside[end][0] if inside[end][0] > start else inside[end][1]
        if text[start:end].strip() and (not moved or (start, end) != moved[-1]):
            moved.append((start, end))
    return moved


def shortened(title: str, words: Words, max_tokens: int) -> str:
    """The first words of `title` that have at most `max_tokens` tokens together."""
    kept: list[str] = []
    for word in title.split():
        max_tokens -= words.count(word)
        if max_tokens < 0:
            break
        kept.append(word)
    return " ".join(kept)


def room_for_text(words: Words, max_tokens: int, prefix: str) -> int:
    """Tokens that special tokens and the model's document prefix leave in a chunk.

    Raises:
        BadConfig: too few.
    """
    room = max_tokens - words.special_tokens - words.count(prefix)
    if room < MIN_ROOM_TOKENS:
        raise BadConfig(
            f"the model's document prefix leaves {room} of {max_tokens} tokens for text, expected at least "
            f"{MIN_ROOM_TOKENS}: shorten model.document_prefix, or raise chunking.max_tokens"
        )
    return room


def chunk_document(
    document: Document, words: Words, options: Chunking, max_tokens: int, prefix: str = ""
) -> ChunkedDocument:
    """Cut one document.

    Args:
        max_tokens: most tokens of a chunk's model input, special tokens, `prefix` and context title included.
        prefix: what the model wants before a document; in the model input of each chunk, not in its text.
    Returns:
        Chunks in order; none for a document without text. Every chunk but the first begins with the document's
        (shortened) title, so that a comment deep in a ticket is still about that ticket.
    """
    text = document.text
    if not text.strip():
        return ChunkedDocument(document, (), tokens_seen=0, tokens_truncated=0)
    if len(text) <= max_tokens * CHARS_PER_TOKEN_LIMIT:
        whole = words.encode([prefix + text])[0]
        if len(whole) <= max_tokens:
            seen = words.count(text) if prefix else len(whole) - words.special_tokens
            only = Chunk(0, text, text_hash(text), 0, len(text), whole)
            return ChunkedDocument(document, (only,), tokens_seen=seen, tokens_truncated=0)

    tokens_seen = words.count(text)
    room = room_for_text(words, max_tokens, prefix)
    title = shortened(document.title, words, min(options.context_title_tokens, room // 4))
    capacity = room - words.count(title)
    overlap = min(options.overlap_tokens, capacity // 3)
    spans = with_whole_placeholders(text, split_spans(text, words, capacity, overlap))
    if options.overflow == "truncate":
        spans = spans[:1]
    chunks = _encoded(text, title, prefix, spans, words, max_tokens)
    kept = sum(words.count(text[start:end]) for start, end in uncovered(len(text), spans))
    return ChunkedDocument(document, chunks, tokens_seen, tokens_truncated=kept)


def uncovered(length: int, spans: Iterable[Span]) -> Iterator[Span]:
    """Gaps that ascending, possibly overlapping `spans` leave in `range(length)`."""
    reached = 0
    for start, end in spans:
        if start > reached:
            yield reached, start
        reached = max(reached, end)
    if reached < length:
        yield reached, length


def _encoded(
    text: str, title: str, prefix: str, spans: list[Span], words: Words, max_tokens: int
) -> tuple[Chunk, ...]:
    """Chunks for `spans`; a span that proves too long (a tokenizer that joins words) is halved until it fits."""
    chunks: list[Chunk] = []
    pending = [(span, _with_title(text, title, span)) for span in spans]
    inputs = words.encode([prefix + embedded for _, embedded in pending])
    stack = list(zip(pending, inputs, strict=True))[::-1]
    while stack:
        ((start, end), embedded), model_input = stack.pop()
        if len(model_input) > max_tokens and end - start > 1:
            middle = _blank_near_middle(text, start, end)
            for half in ((middle, end), (start, middle)):
                if text[half[0] : half[1]].strip():
                    piece = _with_title(text, title, half)
                    stack.append(((half, piece), words.encode([prefix + piece])[0]))
            continue
        if isinstance(model_input, np.ndarray):
            model_input = model_input[:max_tokens]  # a single character of more tokens than that
        chunks.append(Chunk(len(chunks), embedded, text_hash(embedded), start, end, model_input))
    return tuple(chunks)


def _with_title(text: str, title: str, span: Span) -> str:
    piece = text[span[0] : span[1]]
    return piece if span[0] == 0 or not title else f"{title}\n{piece}"


def _blank_near_middle(text: str, start: int, end: int) -> int:
    middle = (start + end) // 2
    at = text.rfind(" ", start + 1, middle)
    return at if at > start else middle


def chunking_settings(options: Chunking) -> dict[str, Any]:
    """What of chunking decides a document's fingerprint."""
    return {"chunker": CHUNKER_VERSION, **options.model_dump()}


class ChunkDocuments(beam.PTransform):  # type: ignore[misc]
    """`PCollection[Document]` -> `documents` (PCollection[ChunkedDocument]) and `dead_letters`."""

    def __init__(self, options: Chunking, model: Model) -> None:
        super().__init__()
        self._options = options
        self._model = model

    def expand(self, documents: beam.PCollection[Document]) -> Any:
        chunk = beam.ParDo(_ChunkFn(self._options, self._model))
        return documents | "Chunk" >> chunk.with_outputs("dead_letters", main="documents")


class _ChunkFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self, options: Chunking, model: Model) -> None:
        self._options = options
        self._model = model

    def setup(self) -> None:
        space = space_of(self._model)
        self._prefix = space.document_prefix
        self._max_tokens = min(self._options.max_tokens or space.max_tokens, space.max_tokens)
        self._words = load_words(self._model)
        room_for_text(self._words, self._max_tokens, self._prefix)  # refused before the first document

    def process(self, document: Document) -> Iterator[Any]:
        began = time.perf_counter()
        try:
            chunked = chunk_document(document, self._words, self._options, self._max_tokens, self._prefix)
            progress.add(chunk_s=time.perf_counter() - began)
            Metrics.counter(TOKENS, "seen").inc(chunked.tokens_seen)
            Metrics.counter(TOKENS, "truncated").inc(chunked.tokens_truncated)
            yield chunked
        except RecordError as error:
            letter = DeadLetter(document.record, "chunk", type(error).__name__, str(error), error.retriable)
            yield beam.pvalue.TaggedOutput("dead_letters", letter)

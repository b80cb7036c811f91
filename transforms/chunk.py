"""Cut documents into chunks that fit the model, counted in the model's own tokens.

The cutting is done by `semantic-text-splitter` (headings, code blocks, paragraphs, sentences, words, in that
order of preference). It asks for the length of a great many pieces, and a tokenizer call for each would cost as
much as a fast model; word pieces never cross white space, so lengths are added up from a memo of word lengths,
and every finished chunk is tokenized once for real.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from semantic_text_splitter import MarkdownSplitter

from schemas.config import Chunking, Model
from schemas.documents import Chunk, ChunkedDocument, DeadLetter, Document
from schemas.errors import RecordError
from schemas.ids import text_hash
from transforms.embedders.base import Tokenizer
from transforms.embedders.loading import load_tokenizer
from transforms.embedders.models import space_of

CHUNKER_VERSION = 1
"""Part of every fingerprint: raise it when the same document would be cut in another way."""

CHARS_PER_TOKEN_LIMIT = 16
"""A chunk has at most this many characters for each token it may have: a megabyte without a blank is one unknown
word to a word-piece model, but no chunk to show to anyone."""

WINDOW_CHARS = 40_000
"""Longer texts are first cut at blank lines into windows of this size: the splitter is quadratic beyond."""

TOKENS = "headrace.tokens"
"""Namespace of the counters `seen` and `truncated`."""

Span = tuple[int, int]
"""Start and end of a piece, in characters."""


class WordLengths:
    """Memo of how many tokens each white-space separated word has.

    Args:
        tokenizer: counts the words not seen before.
        max_words: forgotten all at once when there are more, so that memory stays bounded.
    """

    def __init__(self, tokenizer: Tokenizer, max_words: int = 200_000) -> None:
        self._tokenizer = tokenizer
        self._max_words = max_words
        self._lengths: dict[str, int] = {}

    def learn(self, text: str) -> None:
        """Count the words of `text` in one call."""
        if len(self._lengths) > self._max_words:
            self._lengths.clear()
        new = [word for word in set(text.split()) if word not in self._lengths]
        if new:
            self._lengths.update(zip(new, self._tokenizer.count(new), strict=True))

    def of(self, text: str) -> int:
        """Tokens of `text`; words cut by a splitter in mid-word are learned as they come."""
        lengths = self._lengths
        total = 0
        for word in text.split():
            length = lengths.get(word)
            if length is None:
                length = lengths[word] = self._tokenizer.count([word])[0]
            total += length
        return total


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


def split_spans(text: str, lengths: WordLengths, max_tokens: int, overlap_tokens: int) -> list[Span]:
    """Spans of `text` of at most `max_tokens` tokens each; what lies between two of them is white space.

    Args:
        overlap_tokens: most tokens that a piece repeats from the one before; less than `max_tokens`.
    """

    def weight(piece: str) -> int:
        return max(lengths.of(piece), len(piece) // CHARS_PER_TOKEN_LIMIT)

    splitter = MarkdownSplitter.from_callback(weight, max_tokens, overlap=overlap_tokens)
    return [
        (start + offset, start + offset + len(piece))
        for start, end in windows(text)
        for offset, piece in splitter.chunk_indices(text[start:end])
    ]


def shortened(title: str, lengths: WordLengths, max_tokens: int) -> str:
    """The first words of `title` that have at most `max_tokens` tokens together."""
    kept: list[str] = []
    for word in title.split():
        max_tokens -= lengths.of(word)
        if max_tokens < 0:
            break
        kept.append(word)
    return " ".join(kept)


def chunk_document(
    document: Document, tokenizer: Tokenizer, lengths: WordLengths, options: Chunking, max_tokens: int
) -> ChunkedDocument:
    """Cut one document.

    Args:
        max_tokens: most tokens of a chunk's model input, special tokens and context title included.
    Returns:
        Chunks in order; none for a document without text. Every chunk but the first begins with the document's
        (shortened) title, so that a comment deep in a ticket is still about that ticket.
    """
    text = document.text
    if not text.strip():
        return ChunkedDocument(document, (), tokens_seen=0, tokens_truncated=0)
    if len(text) <= max_tokens * CHARS_PER_TOKEN_LIMIT:
        whole = tokenizer.encode([text])[0]
        if len(whole) <= max_tokens:
            seen = len(whole) - tokenizer.special_tokens
            only = Chunk(0, text, text_hash(text), 0, len(text), whole)
            return ChunkedDocument(document, (only,), tokens_seen=seen, tokens_truncated=0)

    lengths.learn(text)
    tokens_seen = lengths.of(text)
    room = max_tokens - tokenizer.special_tokens
    title = shortened(document.title, lengths, min(options.context_title_tokens, room // 4))
    capacity = room - lengths.of(title)
    overlap = min(options.overlap_tokens, capacity // 3)
    spans = split_spans(text, lengths, capacity, overlap)
    if options.overflow == "truncate":
        spans = spans[:1]
    chunks = _encoded(text, title, spans, tokenizer, max_tokens)
    kept = sum(lengths.of(text[start:end]) for start, end in uncovered(len(text), spans))
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
    text: str, title: str, spans: list[Span], tokenizer: Tokenizer, max_tokens: int
) -> tuple[Chunk, ...]:
    """Chunks for `spans`; a span that proves too long (a tokenizer that joins words) is halved until it fits."""
    chunks: list[Chunk] = []
    pending = [(span, _with_title(text, title, span)) for span in spans]
    pending_ids = tokenizer.encode([embedded for _, embedded in pending])
    stack = list(zip(pending, pending_ids, strict=True))[::-1]
    while stack:
        ((start, end), embedded), ids = stack.pop()
        if len(ids) > max_tokens and end - start > 1:
            middle = _blank_near_middle(text, start, end)
            for half in ((middle, end), (start, middle)):
                if text[half[0] : half[1]].strip():
                    piece = _with_title(text, title, half)
                    stack.append(((half, piece), tokenizer.encode([piece])[0]))
            continue
        chunks.append(Chunk(len(chunks), embedded, text_hash(embedded), start, end, ids[:max_tokens]))
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
        limit = space_of(self._model).max_tokens
        self._max_tokens = min(self._options.max_tokens or limit, limit)
        self._tokenizer = load_tokenizer(self._model)
        self._lengths = WordLengths(self._tokenizer)

    def process(self, document: Document) -> Iterator[Any]:
        try:
            chunked = chunk_document(
                document, self._tokenizer, self._lengths, self._options, self._max_tokens
            )
            Metrics.counter(TOKENS, "seen").inc(chunked.tokens_seen)
            Metrics.counter(TOKENS, "truncated").inc(chunked.tokens_truncated)
            yield chunked
        except RecordError as error:
            letter = DeadLetter(document.record, "chunk", type(error).__name__, str(error), error.retriable)
            yield beam.pvalue.TaggedOutput("dead_letters", letter)

"""The engine alone, on some of the chunks that a job embeds: before the job, between its slices, and after it.

A host's speed changes within minutes, by more than what a job adds to its engine. So the engine is measured again and
again while the job stands still, and each rate counts for the time of the job beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path

from benchmarks.corpora import jira_chunks, short_texts
from schemas.config import Model
from schemas.documents import Chunk
from transforms.embedders.base import Engine, Tokenizer
from transforms.embedders.batching import embed_all
from transforms.embedders.loading import load_engine, load_tokenizer


@dataclass(frozen=True, slots=True)
class EngineRate:
    """Tokens/s of the engine alone.

    Args:
        alone: its inputs' token ids given.
        from_text: their tokenizing included, as the table of engines has it.
    """

    alone: float
    from_text: float


@dataclass(slots=True)
class BareEngine:
    """Measures an engine on the same buffers each time.

    Args:
        buffers: texts, as many at a time as the job would give to the engine.
        rates: one more than `job_s`.
        job_s: seconds of the job from each measurement to the next.
        paused_s: in which the job stood still.
    """

    engine: Engine
    tokenizer: Tokenizer
    max_batch_tokens: int | None
    buffers: Sequence[Sequence[str]]
    rates: list[EngineRate] = field(default_factory=list)
    job_s: list[float] = field(default_factory=list)
    paused_s: float = 0.0
    went_on_at: float = 0.0

    def begin(self) -> None:
        """Right before the job."""
        self.rates.append(self._rate())
        self.went_on_at = time.perf_counter()

    def pause(self) -> None:
        """While the job stands still."""
        stopped_at = time.perf_counter()
        self.job_s.append(stopped_at - self.went_on_at)
        self.rates.append(self._rate())
        self.went_on_at = time.perf_counter()
        self.paused_s += self.went_on_at - stopped_at

    def _rate(self) -> EngineRate:
        tokens, engine_s, tokenizing_s = 0, 0.0, 0.0
        for buffer in self.buffers:
            started = time.perf_counter()
            inputs = self.tokenizer.encode(buffer)
            tokenized = time.perf_counter()
            result = embed_all(self.engine, inputs, self.max_batch_tokens)
            tokenizing_s += tokenized - started
            engine_s += time.perf_counter() - tokenized
            tokens += result.tokens
        return EngineRate(tokens / engine_s, tokens / (engine_s + tokenizing_s))


def mean_rate(rates: Sequence[EngineRate], job_s: Sequence[float]) -> EngineRate:
    """What the engine alone would have done in the job's time; between two measurements, the mean of the two.

    Args:
        rates: in the order of time, one more than `job_s`.
        job_s: seconds of the job between each two.
    """
    beside = list(zip(pairwise(rates), job_s, strict=True))
    return EngineRate(
        sum(seconds * (first.alone + second.alone) / 2 for (first, second), seconds in beside) / sum(job_s),
        sum(seconds * (first.from_text + second.from_text) / 2 for (first, second), seconds in beside)
        / sum(job_s),
    )


def bare_engine(model: Model, export: Path, every: int) -> BareEngine:
    """On the chunks of an export, warmed up.

    Args:
        every: of so many buffers, as the job would fill them, one is taken.
    """
    engine, tokenizer = load_engine(model), load_tokenizer(model)
    embed_all(engine, tokenizer.encode(list(islice(short_texts(), 64))), model.max_batch_tokens)
    chunks = jira_chunks(export, tokenizer, engine.space.max_tokens)
    some = list(islice(_buffers(chunks, model.max_buffer_tokens), 0, None, every))
    return BareEngine(engine, tokenizer, model.max_batch_tokens, some)


def _buffers(chunks: Iterable[Chunk], max_buffer_tokens: int) -> Iterator[list[str]]:
    buffer: list[str] = []
    tokens = 0
    for chunk in chunks:
        buffer.append(chunk.text)
        tokens += len(chunk.model_input)
        if tokens >= max_buffer_tokens:
            yield buffer
            buffer, tokens = [], 0
    if buffer:
        yield buffer

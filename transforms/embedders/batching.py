"""Which inputs share a call into an engine, and what happens when one of them breaks it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.documents import ModelInput
from schemas.errors import EngineFailed, Parked
from transforms.embedders.base import Engine, Vectors

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One call into an engine, answered or failed.

    Args:
        inputs: in the call.
        tokens: of them, special tokens included, padding not.
        computed_tokens: of them, padding included.
        seconds: of wall time.
        attempt: 1, and one more each time these inputs are tried again in a smaller batch.
        error: class name of the failure, None when the call was answered.
    """

    inputs: int
    tokens: int
    computed_tokens: int
    seconds: float
    attempt: int
    error: str | None


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """Vectors in the order of the inputs, and what they took.

    Args:
        vectors: float32, (inputs, dimensions); rows in `failed` are zero.
        failed: row -> why.
        log: every call into the engine, in order.
    """

    vectors: Vectors
    failed: dict[int, EngineFailed | Parked]
    log: tuple[EngineCall, ...]

    @property
    def calls(self) -> int:
        """Into the engine, failed ones included."""
        return len(self.log)

    @property
    def inputs(self) -> int:
        """The engine was given, equal ones and further attempts not counted."""
        return sum(call.inputs for call in self.log if call.attempt == 1)

    @property
    def tokens(self) -> int:
        """The engine was given, padding not counted; equal inputs count once, repeated calls each time."""
        return sum(call.tokens for call in self.log)

    @property
    def computed_tokens(self) -> int:
        """The engine computed."""
        return sum(call.computed_tokens for call in self.log)

    @property
    def engine_seconds(self) -> float:
        """Time in the engine, summed over calls, which may overlap."""
        return sum(call.seconds for call in self.log)


def plan_batches(
    lengths: Sequence[int] | npt.NDArray[np.integer],
    max_batch_tokens: int,
    pads: bool = True,
    max_inputs: int | None = None,
) -> list[Indices]:
    """Indices of `lengths` in batches, longest first, each index once.

    A batch costs rows times longest row where the engine pads, else its tokens, and stays within `max_batch_tokens`;
    a row that is longer by itself is a batch alone. Longest first, so that memory grows once.

    Args:
        max_inputs: of a batch; None for any number.
    """
    tokens = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-tokens, kind="stable")
    before = np.concatenate(([0], np.cumsum(tokens[order])))  # tokens of the rows before each
    batches: list[Indices] = []
    start = 0
    while start < len(order):
        if pads:
            rows = max_batch_tokens // max(1, int(tokens[order[start]]))
        else:
            rows = int(np.searchsorted(before, before[start] + max_batch_tokens, side="right")) - 1 - start
        rows = max(1, min(rows, max_inputs or rows))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def padding_ratio(lengths: Sequence[int] | npt.NDArray[np.integer], batches: Sequence[Indices]) -> float:
    """Share of the tokens computed that are padding, 0 to 1."""
    tokens = np.asarray(lengths, dtype=np.int64)
    computed = sum(len(batch) * int(tokens[batch].max()) for batch in batches)
    return 1.0 - sum(int(tokens[batch].sum()) for batch in batches) / computed if computed else 0.0


def embed_all(
    engine: Engine,
    inputs: Sequence[ModelInput],
    max_batch_tokens: int | None = None,
    in_fp32: Callable[[], Engine] | None = None,
) -> EmbedResult:
    """Run every input through `engine`: equal inputs once, in planned batches, results in the order given.

    As many batches run at once as the engine has streams. A batch the engine fails on is halved until the bad input
    is alone; that one fails, the others do not. A batch that is parked fails as a whole. A vector that is not finite
    is computed once more alone, then by `in_fp32`, before it counts as failed.

    Args:
        max_batch_tokens: computed tokens of a batch; None takes the engine's own.
        in_fp32: gives an engine of the same space and higher precision; asked only when there is need.
    """
    unique, inverse = _distinct(inputs)
    vectors = np.zeros((len(unique), engine.space.dimensions), dtype=np.float32)
    failed: dict[int, EngineFailed | Parked] = {}
    log: list[EngineCall] = []
    facts = engine.facts
    batches = plan_batches(
        [len(one) for one in unique],
        max_batch_tokens or facts.max_batch_tokens,
        facts.pads,
        facts.max_batch_inputs,
    )
    # The planned batches come off in order, halves right after their whole.
    pending = deque((batch, 1) for batch in batches)
    for rows, attempt, answer, call in _answers(engine, unique, pending):
        log.append(call)
        if isinstance(answer, EngineFailed | Parked):
            if len(rows) == 1 or isinstance(answer, Parked):
                failed |= dict.fromkeys(map(int, rows), answer)
            else:
                middle = len(rows) // 2
                pending.extendleft([(rows[middle:], attempt + 1), (rows[:middle], attempt + 1)])
            continue
        finite = np.isfinite(answer).all(axis=1)
        vectors[rows[finite]] = answer[finite]
        for row in rows[~finite]:
            if attempt == 1 or len(rows) > 1:
                pending.appendleft((np.array([row], dtype=np.intp), attempt + 1))
                continue
            better, more = _in_fp32(in_fp32, unique[row], attempt + 1)
            log += more
            if better is None:
                failed[int(row)] = EngineFailed(
                    "the engine gave a vector with NaN or infinity, alone and in fp32 as well"
                )
            else:
                vectors[row] = better
    return EmbedResult(
        vectors[inverse],
        {row: failed[int(source)] for row, source in enumerate(inverse) if int(source) in failed},
        tuple(log),
    )


Answer = tuple[Indices, int, Vectors | EngineFailed | Parked, EngineCall]


def _answers(
    engine: Engine, inputs: Sequence[ModelInput], pending: deque[tuple[Indices, int]]
) -> Iterator[Answer]:
    """Work off `pending`, to which the caller may add while it goes, in as many threads as the engine has streams."""

    def call(rows: Indices, attempt: int) -> Answer:
        return rows, attempt, *_call(engine, [inputs[row] for row in rows], attempt)

    if engine.facts.streams == 1:
        while pending:
            yield call(*pending.popleft())
        return
    with ThreadPoolExecutor(engine.facts.streams, "engine") as streams:
        running: set[Future[Answer]] = set()
        while pending or running:
            # One more than run at once: a stream that is done finds the next without waiting for this thread.
            while pending and len(running) <= engine.facts.streams:
                running.add(streams.submit(call, *pending.popleft()))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def _in_fp32(
    in_fp32: Callable[[], Engine] | None, model_input: ModelInput, attempt: int
) -> tuple[Vectors | None, list[EngineCall]]:
    """The vector of one input by the higher precision, None if that does not give one either."""
    if in_fp32 is None:
        return None, []
    answer, call = _call(in_fp32(), [model_input], attempt)
    good = not isinstance(answer, EngineFailed | Parked) and bool(np.isfinite(answer).all())
    return answer[0] if good else None, [call]  # type: ignore[index]


def _distinct(inputs: Sequence[ModelInput]) -> tuple[list[ModelInput], Indices]:
    """The distinct inputs, and for each input which of them it is."""
    numbers: dict[bytes, int] = {}
    unique: list[ModelInput] = []
    inverse = np.empty(len(inputs), dtype=np.intp)
    for row, one in enumerate(inputs):
        number = numbers.setdefault(one.tobytes(), len(unique))
        if number == len(unique):
            unique.append(one)
        inverse[row] = number
    return unique, inverse


def _call(
    engine: Engine, batch: list[ModelInput], attempt: int
) -> tuple[Vectors | EngineFailed | Parked, EngineCall]:
    lengths = [len(one) for one in batch]
    expected = (len(batch), engine.space.dimensions)
    started = time.perf_counter()
    answer: Vectors | EngineFailed | Parked
    try:
        answer = engine.run(batch)
        if answer.shape != expected:
            answer = EngineFailed(f"the engine gave an array of shape {answer.shape}, expected {expected}")
    except (EngineFailed, Parked) as failure:
        answer = failure
    seconds = time.perf_counter() - started
    error = type(answer).__name__ if isinstance(answer, EngineFailed | Parked) else None
    computed = len(batch) * max(lengths) if engine.facts.pads else sum(lengths)
    return answer, EngineCall(len(batch), sum(lengths), computed, seconds, attempt, error)

"""The embedding step overlaps with its neighbours: one buffer is with the engine, one is filling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import apache_beam as beam
import numpy as np
import pytest

from schemas.config import Cache, Model
from schemas.documents import ChunkedDocument, EmbeddedBatch
from schemas.errors import BadConfig, SinkUnavailable
from schemas.usage import UsageEvent
from tests.transforms.fake_engine import NOW, SPACE, FakeEngine, chunked, vector_of
from transforms import embed, progress
from transforms.embed import _EmbedFn
from transforms.embedders.base import TokenIds, Vectors
from transforms.postgres import Session, Store
from transforms.quality import batch_vectors
from transforms.spaces import register_space

IN_MEMORY = Cache()


@dataclass
class GatedEngine(FakeEngine):
    """Waits in `run` until the gate is open; counts how many are in there at once."""

    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    inside: int = 0
    most_inside: int = 0
    raises: BaseException | None = None
    nan: bool = False

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.entered.release()
        try:
            assert self.gate.wait(20)
            if self.raises is not None:
                raise self.raises
            vectors = FakeEngine.run(self, batch)
            return np.full_like(vectors, np.nan) if self.nan else vectors
        finally:
            self.inside -= 1


@dataclass
class Step:
    """The step with its engine, and what it gave out."""

    fn: _EmbedFn
    engine: GatedEngine

    def process(self, document: ChunkedDocument) -> list[object]:
        return list(self.fn.process(document))

    def finish(self) -> list[object]:
        outputs = []
        for output in self.fn.finish_bundle():
            if isinstance(output, beam.pvalue.TaggedOutput):
                outputs.append(beam.pvalue.TaggedOutput(output.tag, output.value.value))
            else:
                outputs.append(output.value)
        return outputs


def stored_ids(outputs: Sequence[object]) -> list[str]:
    batches = [output for output in outputs if isinstance(output, EmbeddedBatch)]
    return [doc.document.record.native_id for batch in batches for doc in batch.documents]


def tagged(outputs: Sequence[object], tag: str) -> list[object]:
    return [out.value for out in outputs if isinstance(out, beam.pvalue.TaggedOutput) and out.tag == tag]


MakeStep = Callable[..., Step]


@pytest.fixture
def make_step(database: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeStep]:
    """Makes a step whose buffer holds 512 tokens; its engine's gate is open unless it is told to be shut."""
    made: list[Step] = []
    with database.connect() as connection:
        register_space(connection, SPACE, "vector", "acme")

    def make(engine: GatedEngine, *, shut: bool = False, cache: Cache = IN_MEMORY) -> Step:
        if not shut:
            engine.gate.set()
        monkeypatch.setattr(embed, "load_engine", lambda model: engine)
        fn = _EmbedFn(Model(max_buffer_tokens=512), database, cache, "acme", None, lambda: NOW, "tickets")
        fn.setup()
        fn.start_bundle()
        made.append(Step(fn, engine))
        return made[-1]

    yield make
    for step in made:
        step.engine.gate.set()
        step.fn.teardown()


def full(native_id: str, seed: int = 0) -> ChunkedDocument:
    """A document that fills a buffer of 512 tokens."""
    return chunked(native_id, [[seed + 1, *range(1, 256)], [seed + 2, *range(1, 256)]])


def test_documents_are_taken_while_the_engine_is_at_work(make_step: MakeStep) -> None:
    step = make_step(GatedEngine(), shut=True)
    assert step.process(full("1")) == []
    assert step.engine.entered.acquire(timeout=10)
    assert step.process(chunked("2", [[1]])) == []
    assert step.engine.seen == []
    step.engine.gate.set()
    assert stored_ids(step.finish()) == ["1", "2"]


def test_a_buffers_outputs_come_with_the_next_one_which_is_already_at_work(make_step: MakeStep) -> None:
    step = make_step(GatedEngine())
    assert stored_ids(step.process(full("1"))) == []
    outputs = step.fn.process(full("2", seed=300))
    first = next(outputs)
    assert isinstance(first, beam.pvalue.TaggedOutput)
    for _ in range(2):
        assert step.engine.entered.acquire(
            timeout=10
        )  # the second buffer did not wait for the first to be written
    assert stored_ids(list(outputs)) == ["1"]
    assert stored_ids(step.finish()) == ["2"]
    assert stored_ids(step.finish()) == []


def test_one_buffer_at_most_is_with_the_engine(make_step: MakeStep) -> None:
    step = make_step(GatedEngine())
    outputs = [out for n in range(6) for out in step.process(full(str(n), seed=10 * n))]
    assert stored_ids(outputs) == list("01234")
    assert stored_ids(step.finish()) == ["5"]
    assert step.engine.most_inside == 1


def test_the_step_waits_for_the_engine_before_it_takes_a_third_buffer(make_step: MakeStep) -> None:
    step = make_step(GatedEngine(), shut=True)
    before = progress.current()
    step.process(full("1"))
    threading.Timer(0.2, step.engine.gate.set).start()
    assert stored_ids(step.process(full("2"))) == ["1"]
    step.finish()
    now = progress.current()
    assert now.wait_s - before.wait_s > 0.15
    assert now.engine_s - before.engine_s > 0.15
    assert now.chunks - before.chunks == 4


@pytest.mark.parametrize("error", [BadConfig("a setting"), SinkUnavailable("a server"), KeyboardInterrupt()])
@pytest.mark.parametrize("at_end", [False, True])
def test_what_goes_wrong_on_the_engines_thread_is_raised_on_the_callers(
    error: BaseException, at_end: bool, make_step: MakeStep
) -> None:
    step = make_step(GatedEngine(raises=error))
    step.process(full("1"))
    with pytest.raises(type(error)) as caught:
        step.finish() if at_end else step.process(full("2"))
    assert caught.value is error
    step.engine.raises = None
    step.fn.start_bundle()
    step.process(full("3"))
    assert stored_ids(step.finish()) == ["3"]


def test_a_bundle_that_failed_leaves_nothing_to_the_next(make_step: MakeStep) -> None:
    step = make_step(GatedEngine(), shut=True)
    before = progress.current()
    step.process(full("in flight"))
    assert step.engine.entered.acquire(timeout=10)
    step.process(chunked("in the buffer", [[1]]))
    step.fn.start_bundle()
    step.engine.gate.set()
    step.process(chunked("next", [[2]]))
    outputs = step.finish()
    assert stored_ids(outputs) == ["next"]
    assert len(tagged(outputs, "usage")) == 1
    assert progress.current().chunks - before.chunks == 1


def test_teardown_ends_the_thread_and_computes_no_further_batch(
    make_step: MakeStep, database: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = make_step(GatedEngine(), shut=True, cache=Cache(kind="none"))
    step.process(chunked("1", [[n, *range(1, 256)] for n in range(40)]))  # many batches of 512 tokens
    assert step.engine.entered.acquire(timeout=10)
    threading.Timer(0.1, step.engine.gate.set).start()
    step.fn.teardown()
    assert len(step.engine.seen) == 1
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("embed")] == []


def test_the_session_is_used_on_the_callers_thread_alone(
    make_step: MakeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: set[tuple[int, int]] = set()
    run = Session.run

    def noting(self: Session, work: Callable[..., object]) -> object:
        used.add((id(self), threading.get_ident()))
        return run(self, work)

    monkeypatch.setattr(Session, "run", noting)
    step = make_step(GatedEngine(), cache=Cache(kind="postgres"))
    for n in range(4):
        step.process(full(str(n), seed=n))
    step.finish()
    assert len(used) == 2  # the step's own and the cache's, a thread each
    assert len({session for session, _ in used}) == 2
    assert (id(step.fn._session), threading.get_ident()) in used


def test_a_vector_that_is_not_finite_is_computed_in_fp32(
    make_step: MakeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    better = FakeEngine()
    monkeypatch.setattr(embed, "load_fp32_engine", lambda model: better)
    step = make_step(GatedEngine(nan=True))
    document = chunked("1", [[1, 2], [3]])
    step.process(document)
    outputs = step.finish()
    (batch,) = (output for output in outputs if isinstance(output, EmbeddedBatch))
    expected = np.stack([vector_of(chunk.model_input) for chunk in document.chunks])
    np.testing.assert_array_equal(batch_vectors(batch.chunks), expected)
    assert better.seen == [1, 1]
    assert tagged(outputs, "dead_letters") == []


def test_a_vector_that_is_not_finite_in_fp32_either_is_a_dead_letter(
    make_step: MakeStep, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = GatedEngine(nan=True)
    nowhere.gate.set()
    monkeypatch.setattr(embed, "load_fp32_engine", lambda model: nowhere)
    step = make_step(GatedEngine(nan=True))
    step.process(chunked("1", [[1, 2]]))
    outputs = step.finish()
    assert stored_ids(outputs) == []
    (letter,) = tagged(outputs, "dead_letters")
    assert "NaN or infinity" in letter.reason  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["memory", "postgres"])
def test_equal_inputs_of_a_later_bundle_are_hits_in_the_ledger(kind: str, make_step: MakeStep) -> None:
    first = make_step(GatedEngine(), cache=Cache(kind=kind))
    first.process(full("1"))
    first.finish()
    second = make_step(GatedEngine(), cache=Cache(kind=kind))
    second.process(full("2"))
    outputs = second.finish()
    assert stored_ids(outputs) == ["2"]
    (event,) = tagged(outputs, "usage")
    assert isinstance(event, UsageEvent)
    assert (event.cache_hits, event.inputs, event.cost_usd, second.engine.seen) == (2, 0, Decimal(0), [])
    assert event.source == "tickets"


def test_a_broken_cache_fails_no_bundle(
    make_step: MakeStep, database: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with database.connect() as connection:
        connection.execute("DROP TABLE embedding_cache")
    step = make_step(GatedEngine(), cache=Cache(kind="postgres"))
    outputs = [out for n in range(3) for out in step.process(full(str(n), seed=n))]
    assert stored_ids(outputs + step.finish()) == ["0", "1", "2"]
    assert len(caplog.messages) == 1

"""Embed chunks: documents gather in a capped buffer, and a full one goes through the engine at once.

Out comes one Arrow batch with whole documents, and one usage event. Beam's own batching cannot do this: it counts
elements, or sorts nothing, and sends a whole batch to the dead letters when one record is bad.

A full buffer is embedded on a thread of its own: what goes before (extracting, chunking) fills the next one and what
follows writes the last one meanwhile. At most one buffer is with the engine and one filling.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from schemas.allowances import AllowanceSettings
from schemas.config import Cache, Model
from schemas.documents import ChunkedDocument
from transforms import progress
from transforms.background import Ahead, Discarded
from transforms.caches.opening import open_cache
from transforms.embed_buffer import EmbeddedBuffer, embed_buffer
from transforms.embedders.base import Engine, Vectors
from transforms.embedders.calls import usage_events
from transforms.embedders.loading import load_engine, load_fp32_engine
from transforms.embedders.models import space_of
from transforms.postgres import Store
from transforms.providers.metering import Account
from transforms.reuse import stored_vectors
from transforms.session_fn import SessionFn

if TYPE_CHECKING:
    from transforms.providers.engine import RemoteEngine

NO_LIMITS = AllowanceSettings()

MAX_BUFFER_DOCUMENTS = 2048
"""Documents without text have no tokens to count, so they are counted themselves."""

_log = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class EmbedChunks(beam.PTransform):  # type: ignore[misc]
    """`PCollection[ChunkedDocument]` -> `batches`, `usage`, `dead_letters`.

    Args:
        model: which engine, and the sizes of batch and buffer.
        store: where vectors of unchanged chunks are looked up.
        cache: where vectors of equal inputs are looked up.
        client: who pays.
        run_id: for the ledger.
        source: name of the configured source, for the ledger.
        clock: gives the time of a usage event, UTC.
        allowance: what clients may use where the model is a remote one.
    """

    def __init__(
        self,
        model: Model,
        store: Store,
        cache: Cache,
        client: str,
        run_id: UUID | None,
        clock: Callable[[], datetime] = _utc_now,
        source: str = "",
        allowance: AllowanceSettings = NO_LIMITS,
    ) -> None:
        super().__init__()
        self._fn = _EmbedFn(model, store, cache, client, run_id, clock, source, allowance)

    def expand(self, documents: beam.PCollection[ChunkedDocument]) -> Any:
        return documents | "Embed" >> beam.ParDo(self._fn).with_outputs(
            "usage", "dead_letters", main="batches"
        )


class _Stoppable:
    """An engine that takes no further batch once `stop` is set."""

    def __init__(self, engine: Engine, stop: threading.Event) -> None:
        self.space = engine.space
        self.facts = engine.facts
        self._engine = engine
        self._stop = stop

    def run(self, batch: Sequence[Any]) -> Vectors:
        if self._stop.is_set():
            raise Discarded
        return self._engine.run(batch)


class _EmbedFn(SessionFn):
    """The session belongs to the calling thread, the cache to the embedding one."""

    def __init__(
        self,
        model: Model,
        store: Store,
        cache: Cache,
        client: str,
        run_id: UUID | None,
        clock: Callable[[], datetime],
        source: str,
        allowance: AllowanceSettings = NO_LIMITS,
    ) -> None:
        super().__init__(store)
        self._model = model
        self._cache_settings = cache
        self._client = client
        self._run_id = run_id
        self._clock = clock
        self._source = source
        self._allowance = allowance

    def setup(self) -> None:
        super().setup()
        self._remote = self._open_remote()
        self._engine: Engine = self._remote or load_engine(self._model)
        self._max_buffer_tokens = self._model.max_buffer_tokens
        if self._remote is not None:  # a request for each of its streams
            facts = self._remote.facts
            self._max_buffer_tokens = max(self._max_buffer_tokens, facts.streams * facts.max_batch_tokens)
        self._cache = open_cache(self._cache_settings, self._store, self._clock)
        self._ahead: Ahead[EmbeddedBuffer] = Ahead("embed")

    def start_bundle(self) -> None:
        self._ahead.discard()  # of a bundle that failed
        self._buffer: list[ChunkedDocument] = []
        self._buffered_tokens = 0
        self._bundle_began = time.perf_counter()
        self._engine_s = 0.0
        self._waited_before_s = self._ahead.waited_s

    def process(self, document: ChunkedDocument) -> Iterator[Any]:
        self._buffer.append(document)
        self._buffered_tokens += document.tokens_embedded
        full = self._buffered_tokens >= self._max_buffer_tokens
        if full or len(self._buffer) >= MAX_BUFFER_DOCUMENTS:
            yield from self._hand_over()

    def finish_bundle(self) -> Iterator[Any]:
        # Only global windows reach this step; event time travels inside the records.
        window = GlobalWindow()
        for output in self._drain():
            if isinstance(output, beam.pvalue.TaggedOutput):
                value = WindowedValue(output.value, window.max_timestamp(), [window])
                yield beam.pvalue.TaggedOutput(output.tag, value)
            else:
                yield WindowedValue(output, window.max_timestamp(), [window])

    def teardown(self) -> None:
        self._ahead.close()
        if self._remote is not None:
            self._remote.close()
        self._cache.close()
        super().teardown()

    def _open_remote(self) -> RemoteEngine | None:
        """None where the model runs here."""
        if self._model.is_local:
            return None
        from transforms.providers.engine import open_remote_engine  # client libraries and a vocabulary

        account = Account(self._client, self._run_id, space_of(self._model).space_id, self._source)
        return open_remote_engine(self._model, "document", self._store, account, self._allowance)

    def _drain(self) -> Iterator[Any]:
        yield from self._hand_over()
        yield from self._outputs(self._collect())
        seconds = time.perf_counter() - self._bundle_began
        waited_s = self._ahead.waited_s - self._waited_before_s
        _log.debug(
            "bundle of %.2f s: engine at work %.2f s, waited for it %.2f s; reading, chunking and writing %.2f s",
            seconds,
            self._engine_s,
            waited_s,
            seconds - waited_s,
        )

    def _hand_over(self) -> Iterator[Any]:
        """Give the buffer to the embedding thread, and on what that made of the one before."""
        documents, self._buffer, self._buffered_tokens = self._buffer, [], 0
        if not documents:
            return
        space_id = self._engine.space.space_id
        stored = self._session.run(lambda connection: stored_vectors(connection, space_id, documents))

        remote = self._remote

        def work(stop: threading.Event) -> EmbeddedBuffer:
            if remote is not None:
                engine = remote.stopped_by(stop)
                return embed_buffer(engine, documents, stored, self._cache, self._client, None)
            return embed_buffer(
                _Stoppable(self._engine, stop),
                documents,
                stored,
                self._cache,
                self._client,
                self._model.max_batch_tokens,
                partial(load_fp32_engine, self._model),
            )

        before = self._collect()
        self._ahead.start(work)  # first: the outputs are written while it runs
        yield from self._outputs(before)

    def _collect(self) -> EmbeddedBuffer | None:
        waited_s = self._ahead.waited_s
        done = self._ahead.collect()
        if done is not None:
            self._engine_s += done.engine_s
            progress.add(
                chunks=done.chunks,
                tokens=sum(call.tokens for call in done.calls),
                engine_s=done.engine_s,
                wait_s=self._ahead.waited_s - waited_s,
            )
        return done

    def _outputs(self, done: EmbeddedBuffer | None) -> Iterator[Any]:
        if done is None:
            return
        events = usage_events(
            self._engine,
            () if self._remote else done.calls,  # a remote engine's requests are in the ledger already
            done.reused,
            self._client,
            self._run_id,
            self._clock(),
            done.cache_hits,
            done.tokens_saved,
            self._source,
        )
        for event in events:
            yield beam.pvalue.TaggedOutput("usage", event)
        for letter in done.letters:
            yield beam.pvalue.TaggedOutput("dead_letters", letter)
        if done.batch.documents:
            yield done.batch

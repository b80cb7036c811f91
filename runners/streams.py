"""Polls of a watcher made by a streaming job, on Prism, Flink or Dataflow, instead of by threads of this process.

The job alone reads by time of change; this process keeps the client's lock, looks at deliveries, reconciles, brings
FAISS up to date and says what changed, as it does for its own polls. It ends the job when it ends.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from uuid import UUID, uuid4

import apache_beam as beam
import grpc
import psycopg
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult, PipelineState

from pipelines.ingest import IngestJob
from pipelines.polls import build
from runners import dataflow, flink
from runners.direct import original_error
from runners.slices import job_for, owner_of, register_clients, wrote
from runners.targets import Runner, Target, check_options, opened
from runners.watch import News, OpenPolls
from schemas.config import Config
from schemas.engines import Flink
from schemas.errors import BadConfig, ClusterUnreachable, JobFailed, JobRefused, PipelineError
from schemas.outcomes import Outcome
from transforms import runs
from transforms.embedders.models import space_of
from transforms.postgres import Store
from transforms.source_states import note_changed

FOR_FLINK = ("--max_bundle_size=1",)
"""A poll is one element: its rows are to be written when it ends, not a second later."""
SAVEPOINT = "--savepoint_path="
ROUNDS_OF_A_JOB = 10_000
"""On Flink: Beam 2.62 names a state anew each time that a source is put off, and a checkpoint lists every name that
there ever was, at a kilobyte each (its issue 27648)."""
SHORTEST_LIFE_S = 3600.0
LONGEST_LIFE_S = 86_400.0
TOLD = (Outcome.NEW, Outcome.CHANGED, Outcome.DELETED, Outcome.DEAD_LETTERED)


@contextmanager
def polled_by(config: Config, runner: Runner, options: Sequence[str] = ()) -> Iterator[OpenPolls | None]:
    """What begins the polls of a watcher on a runner, ready for the length of the block; None: by its own threads.

    Args:
        options: of Beam, given behind `--`.
    Raises:
        BadConfig: that runner takes no options, or cannot read a source.
        SetupError: something is missing for it.
    """
    if runner is Runner.DATAFLOW:
        dataflow.check_followed(config)
    if runner is Runner.DIRECT:
        check_options(options, runner)
        if options:
            raise BadConfig(f"watch in this process takes no options of Beam's: {options[0]} needs --runner")
        yield None
        return
    with opened(config, runner, options) as target:
        yield partial(streaming, config, target, runner)


def life_s(config: Config, runner: Runner) -> float:
    """For how long a job goes on before another one takes its place, from where it came to."""
    if runner is not Runner.FLINK:
        return math.inf
    shortest_s = min(source.poll_interval_s for source in config.sources)
    return min(max(SHORTEST_LIFE_S, ROUNDS_OF_A_JOB * shortest_s), LONGEST_LIFE_S)


class _Job:
    """The job that runs; submitted by the constructor.

    Raises:
        SetupError: it cannot be submitted.
    """

    def __init__(
        self, config: Config, target: Target, runner: Runner, of_sources: Sequence[IngestJob]
    ) -> None:
        self._config = config
        self._target = target
        self._runner = runner
        self._of_sources = of_sources
        self._begin(target.options)

    def _begin_again(self) -> None:
        """From the stored cursors: a savepoint is what the first job began with."""
        self._begin([one for one in self._target.options if not one.startswith(SAVEPOINT)])

    def _begin(self, given: Sequence[str]) -> None:
        for_flink = FOR_FLINK if self._runner is Runner.FLINK else ()
        # A killed watcher's job is known by its name.
        name_of = dataflow.watch_job_name if self._runner is Runner.DATAFLOW else flink.watch_job_name
        named = f"--job_name={name_of(self._config)}"
        options = PipelineOptions(["--streaming", *for_flink, *given, named])
        pipeline = beam.Pipeline(options=options)
        build(pipeline, self._of_sources, self._config.data_dir)
        self._ends_s = time.monotonic() + life_s(self._config, self._runner)
        self._result: PipelineResult = pipeline.run()

    def look_after(self) -> None:
        """See that it runs, and let another one take its place when it is old or its cluster has lost it.

        Raises:
            PipelineError: it has ended, or will never have a worker.
        """
        if hopeless := self._without_workers(ended=False):
            raise hopeless
        is_old = time.monotonic() > self._ends_s
        if is_old and self.end():
            self._begin_again()
            return
        try:
            state = self._result.state
            if state == PipelineState.FAILED:
                self._result.wait_until_finish()
        except grpc.RpcError as error:
            raise ClusterUnreachable(f"the job server is gone ({error.code()}): see its log") from None
        except RuntimeError as error:
            failure = original_error(error)
            if failure is not error:
                raise failure from error
            if hopeless := self._without_workers(ended=True):
                raise hopeless from error
            if not self._is_lost():
                last_line = str(error).strip().splitlines()[-1][:300]
                raise JobFailed(f"the streaming job failed: {last_line}") from error
            self._begin_again()
            return
        if PipelineState.is_terminal(state) and not is_old:  # the next look begins another
            raise JobRefused(f"the streaming job has ended, {state}: watch again to go on")

    def _without_workers(self, ended: bool) -> PipelineError | None:
        if self._runner is not Runner.FLINK:
            return None
        settings = self._config.flink or Flink()
        return flink.without_workers(settings, flink.watch_job_name(self._config), ended)

    def _is_lost(self) -> bool:
        settings = self._config.flink or Flink()
        return self._runner is Runner.FLINK and flink.lost_job(settings, flink.watch_job_name(self._config))

    def end(self) -> bool:
        """Whether it has ended. What was stored is consistent, and the next job goes on from the stored cursors."""
        try:
            if self._runner is Runner.FLINK:
                name = flink.watch_job_name(self._config)
                flink.cancel_named((self._config.flink or Flink()).url, lambda one: one == name)
            elif not PipelineState.is_terminal(self._result.state):
                self._result.cancel()
        except (grpc.RpcError, RuntimeError, PipelineError):
            return False
        return True


class _News:
    """What the job changed since this was asked last, by the counts that its steps keep in Postgres."""

    def __init__(
        self, job: _Job, run_id: UUID, connection: psycopg.Connection, config: Config, before: list[str]
    ) -> None:
        self._job = job
        self._said_before = before
        self._run_id = run_id
        self._connection = connection
        self._owners = {source.name: owner_of(config, source) for source in config.sources}
        self._known: dict[str, Counter[str]] = {}

    def __call__(self) -> list[str]:
        self._job.look_after()
        before, self._known = self._known, runs.counts_of_run(self._connection, self._run_id)
        since = {name: counts - before.get(name, Counter()) for name, counts in self._known.items()}
        for name, counts in since.items():
            if wrote(counts):
                note_changed(self._connection, self._owners[name], name)
        said_before, self._said_before = self._said_before, []
        return said_before + [f"{name}: {said}" for name, counts in since.items() if (said := _said(counts))]


def _said(counts: Counter[str]) -> str:
    return ", ".join(
        f"{counts[outcome]:,} {outcome.replace('_', '-')}" for outcome in TOLD if counts[outcome]
    )


@contextmanager
def streaming(
    config: Config, target: Target, runner: Runner, connection: psycopg.Connection, store: Store
) -> Iterator[News]:
    """A streaming job that polls all sources, for the length of the block.

    Args:
        connection: holds the client's lock.
    Yields:
        Asked again and again, what it changed since, a line for each source; raises PipelineError when it has ended.
    Raises:
        SetupError: it cannot be submitted.
    """
    said = target.take_over() if target.take_over else None
    space = space_of(config.model)
    register_clients(connection, config, space)
    run_id = uuid4()
    of_sources = [job_for(config, source, store, space, run_id) for source in config.sources]
    runs.start_run(connection, run_id, config.client, space.space_id)
    try:
        job = _Job(config, target, runner, of_sources)
        try:
            yield _News(job, run_id, connection, config, [said] if said else [])
        finally:
            job.end()
    except BaseException as error:
        runs.finish_quietly(connection, run_id, error)
        raise
    runs.finish_run(connection, run_id, "done")

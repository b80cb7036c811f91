"""One bounded pipeline, in this process or wherever its target says."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import apache_beam as beam
import grpc
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from runners.targets import HERE, Target
from schemas import errors
from transforms.chunk import TOKENS
from transforms.moderate import MODERATION
from transforms.outcomes import NAMESPACE as OUTCOMES
from transforms.redact import REDACTED

PROGRESS_S = 1.0
RESUBMISSIONS = 2
"""Of a job whose cluster lost it. What it had stored is found unchanged."""
OURS = re.compile(r"(?:^|[\s:])(?:schemas\.errors\.(\w+): (.*)|(KeyboardInterrupt)\b)")


def run_bounded(
    build: Callable[[beam.Pipeline], None],
    target: Target = HERE,
    note: Callable[[str], None] | None = None,
) -> tuple[Counter[str], Counter[str]]:
    """Run one bounded pipeline and wait for it.

    Args:
        build: wires the steps.
        note: told how the job stands, where the target knows.
    Returns:
        Counts of outcomes; and of texts: tokens (`seen`, `truncated`), documents by what moderation made of them,
            values replaced by their kind.
    Raises:
        PipelineError: of the type a step raised, where it was one of ours.
        JobFailed, JobLost: a cluster had a job, and that failed for another reason, or was lost again and again.
        KeyboardInterrupt: Ctrl-C in the middle of a step; a job elsewhere is cancelled.
    """
    result = _ended(build, target, note)
    counters = result.metrics().query(MetricsFilter())["counters"]
    counts: dict[str, Counter[str]] = {
        OUTCOMES: Counter(),
        TOKENS: Counter(),
        MODERATION: Counter(),
        REDACTED: Counter(),
    }
    for counter in counters:
        name = counter.key.metric
        if name.namespace in counts:
            # Flink commits none; its attempts are those of the tasks that ended well.
            counts[name.namespace][name.name] += counter.result
    return counts[OUTCOMES], counts[TOKENS] + counts[MODERATION] + counts[REDACTED]


def _ended(
    build: Callable[[beam.Pipeline], None], target: Target, note: Callable[[str], None] | None
) -> PipelineResult:
    for left in reversed(range(RESUBMISSIONS + 1)):
        pipeline = beam.Pipeline(options=PipelineOptions(list(target.options)))
        build(pipeline)
        try:
            result = pipeline.run()
            with _looked_after(target, note):
                _wait(result)
            return result
        except errors.PipelineError as error:  # a step that could not even begin
            error.args = (_without_step(str(error)), *error.args[1:])
            raise
        except RuntimeError as error:
            failure = original_error(error)
            if failure is not error or target.lost_job is None:
                raise failure from error
            last_line = str(error).strip().splitlines()[-1][:300]
            if target.without_workers and (hopeless := target.without_workers(True)):
                raise hopeless from error
            if not target.lost_job():
                raise errors.JobFailed(f"the job failed: {last_line}") from error
            if not left:
                raise errors.JobLost(
                    f"the job was lost {RESUBMISSIONS + 1} times, last with: {last_line}"
                ) from error
            if note is not None:
                note("the cluster was started anew: submitting the job again")
    raise AssertionError("unreachable")


def _wait(result: PipelineResult) -> None:
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        with suppress(grpc.RpcError):  # a job server that is gone has no job either
            result.cancel()
        raise


@contextmanager
def _looked_after(target: Target, note: Callable[[str], None] | None) -> Iterator[None]:
    """Tell how a job elsewhere stands, and end it where it has no prospect, for the length of the block."""
    progress, without_workers = target.progress, target.without_workers
    if progress is None and without_workers is None:
        yield
        return
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(PROGRESS_S):
            if note is not None and progress is not None:
                note(progress())
            if without_workers is not None:
                without_workers(False)

    thread = threading.Thread(target=look, name="job-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def original_error(error: RuntimeError) -> BaseException:
    """The error of ours that the runner passed on as text, or the runner's own error."""
    for line in reversed(str(error).splitlines()):
        found = OURS.search(line)
        if found is None:
            continue
        name, message, interrupted = found.groups()
        if interrupted:
            return KeyboardInterrupt()
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, errors.PipelineError):
            return kind(_without_step(message))
    return error


def _without_step(message: str) -> str:
    """Beam says in which step it was; a person reads what is wrong."""
    return message.partition(" [while running")[0]

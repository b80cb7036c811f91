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
        KeyboardInterrupt: Ctrl-C in the middle of a step; a job elsewhere is cancelled.
    """
    pipeline = beam.Pipeline(options=PipelineOptions(list(target.options)))
    build(pipeline)
    try:
        result = pipeline.run()
        with _told(target, note):
            _wait(result)
    except RuntimeError as error:
        raise original_error(error) from error
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


def _wait(result: PipelineResult) -> None:
    try:
        result.wait_until_finish()
    except KeyboardInterrupt:
        with suppress(grpc.RpcError):  # a job server that is gone has no job either
            result.cancel()
        raise


@contextmanager
def _told(target: Target, note: Callable[[str], None] | None) -> Iterator[None]:
    progress = target.progress
    if progress is None or note is None:
        yield
        return
    stop = threading.Event()

    def tell() -> None:
        while not stop.wait(PROGRESS_S):
            note(progress())

    thread = threading.Thread(target=tell, name="job-progress", daemon=True)
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
            return kind(message.partition(" [while running")[0])
    return error

"""Local runs on Beam's in-process runner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from schemas import errors
from transforms.chunk import TOKENS
from transforms.outcomes import NAMESPACE as OUTCOMES


def run_bounded(
    build: Callable[[beam.Pipeline], None], pipeline_args: Sequence[str] = ()
) -> tuple[Counter[str], Counter[str]]:
    """Run one bounded pipeline in this process and wait for it.

    The runner is named outright: Beam's own "DirectRunner" first tries to download another one.

    Args:
        build: wires the steps.
        pipeline_args: Beam options, such as `--direct_runner_bundle_repeat=2`.
    Returns:
        Counts of outcomes, and of tokens (`seen`, `truncated`).
    Raises:
        PipelineError: of the type a step raised, where it was one of ours.
        KeyboardInterrupt: Ctrl-C in the middle of a step.
    """
    options = PipelineOptions(["--runner=FnApiRunner", *pipeline_args])
    pipeline = beam.Pipeline(options=options)
    build(pipeline)
    try:
        result = pipeline.run()
        result.wait_until_finish()
    except RuntimeError as error:
        raise _original(error) from error
    counters = result.metrics().query(MetricsFilter())["counters"]
    counts: dict[str, Counter[str]] = {OUTCOMES: Counter(), TOKENS: Counter()}
    for counter in counters:
        name = counter.key.metric
        if name.namespace in counts:
            counts[name.namespace][name.name] += counter.committed
    return counts[OUTCOMES], counts[TOKENS]


def _original(error: RuntimeError) -> BaseException:
    """The error of ours that the runner passed on as text, or the runner's own error."""
    for line in reversed(str(error).splitlines()):
        name, _, message = line.removeprefix("RuntimeError: ").partition(": ")
        if name.startswith("KeyboardInterrupt"):
            return KeyboardInterrupt()
        kind = getattr(errors, name.rpartition(".")[2], None)
        if (
            name.startswith("schemas.errors.")
            and isinstance(kind, type)
            and issubclass(kind, errors.PipelineError)
        ):
            return kind(message.partition(" [while running")[0])
    return error

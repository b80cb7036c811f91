"""What it costs to hand a vector from one fused step to the next: in batches, as the product does, and one by one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

DIMENSIONS = 384
BATCH_VECTORS = 200
"""About what a buffer of 32,768 tokens has."""
FEW_STEPS, MANY_STEPS = 2, 22
ROUNDS = 5


def passing_on(vectors: int = 20_000) -> dict[str, float]:
    """Microseconds for each vector and step, median over rounds.

    A pipeline of few steps and one of many pass on the same elements; the difference is that of the steps.
    """
    return {
        "us_a_vector_and_step": _us_a_vector(_Batches(vectors // BATCH_VECTORS), vectors),
        "us_a_vector_and_step_one_by_one": _us_a_vector(_OneByOne(vectors), vectors),
    }


def _us_a_vector(source: beam.DoFn, vectors: int) -> float:
    rounds = [_seconds(source, MANY_STEPS) - _seconds(source, FEW_STEPS) for _ in range(ROUNDS)]
    return round(1e6 * median(rounds) / vectors / (MANY_STEPS - FEW_STEPS), 3)


def _seconds(source: beam.DoFn, steps: int) -> float:
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    passed = pipeline | "Start" >> beam.Create([0], reshuffle=False) | "Source" >> beam.ParDo(source)
    for number in range(steps):
        passed = passed | f"Step {number}" >> beam.ParDo(_PassOn())
    began = time.perf_counter()
    pipeline.run().wait_until_finish()
    return time.perf_counter() - began


class _PassOn(beam.DoFn):  # type: ignore[misc]
    def process(self, element: Any) -> Iterator[Any]:
        yield element


class _Batches(beam.DoFn):  # type: ignore[misc]
    """Arrow batches of vectors."""

    def __init__(self, count: int) -> None:
        self._count = count

    def process(self, start: int) -> Iterator[pa.RecordBatch]:
        values = pa.array(np.ones(BATCH_VECTORS * DIMENSIONS, np.float32))
        vectors = pa.FixedSizeListArray.from_arrays(values, DIMENSIONS)
        for _ in range(self._count):
            yield pa.record_batch([vectors], names=["embedding"])


class _OneByOne(beam.DoFn):  # type: ignore[misc]
    def __init__(self, count: int) -> None:
        self._count = count

    def process(self, start: int) -> Iterator[Any]:
        vector = np.ones(DIMENSIONS, np.float32)
        for _ in range(self._count):
            yield vector

"""The engine that runs everywhere: ONNX Runtime in fp32 on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from schemas.errors import EngineFailed
from schemas.spaces import EmbeddingSpace
from schemas.usage import LOCAL
from transforms.embedders.base import EngineFacts, TokenIds, Vectors
from transforms.embedders.onnx_graph import OnnxGraph
from transforms.embedders.padding import pad

MAX_BATCH_TOKENS = 512
"""Padded tokens of a call: 11 % more tokens/s than 2048, whose intermediate results leave the cache."""


class OnnxEngine:
    """Implements `base.Engine`. Made in the process that uses it; safe to share between its threads.

    Args:
        graph: the encoder; its vectors are `space`'s.
        space: its limit is enforced.
        threads: to compute with. Said outright, since the runtime by itself takes every core of the machine,
            whatever the process was allotted.
    """

    def __init__(self, graph: OnnxGraph, space: EmbeddingSpace, threads: int) -> None:
        # The session reads these in place, so they live as long as it does.
        self._weights = [
            onnxruntime.OrtValue.ortvalue_from_numpy(values) for values in graph.initializers.values()
        ]
        options = session_options(threads)
        options.add_external_initializers(list(graph.initializers), self._weights)
        self._session = onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
        self.space = space
        self.facts = EngineFacts(
            provider="local",
            engine="onnx",
            version=onnxruntime.__version__,
            arithmetic="fp32",
            threads=threads,
            streams=1,
            max_batch_tokens=MAX_BATCH_TOKENS,
            price=LOCAL,
        )

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        """Vectors of one batch, padded here: float32, (len(batch), dimensions), in the order given.

        Raises:
            EngineFailed: an input is empty or longer than the space allows, or the runtime refused the batch.
        """
        if not batch:
            return np.empty((0, self.space.dimensions), dtype=np.float32)
        input_ids, attention_mask = pad(batch, self.space.max_tokens)
        return run_session(
            self._session, "embedding", {"input_ids": input_ids, "attention_mask": attention_mask}
        )


def run_session(
    session: onnxruntime.InferenceSession, output: str, inputs: Mapping[str, npt.NDArray[np.integer]]
) -> Vectors:
    """One output of one call, float32.

    Args:
        inputs: by name, (batch, tokens) each.

    Raises:
        EngineFailed: the runtime refused the batch.
    """
    rows, tokens = next(iter(inputs.values())).shape
    try:
        [values] = session.run([output], inputs)
    except (runtime_errors.Fail, runtime_errors.InvalidArgument, runtime_errors.RuntimeException) as error:
        raise EngineFailed(f"ONNX Runtime refused a batch of {rows}: {first_line(error)}") from None
    except MemoryError:
        raise EngineFailed(f"out of memory on a batch of {rows} x {tokens} tokens") from None
    return np.asarray(values, dtype=np.float32)


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Threads said outright; no plan of memory for each shape."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A plan is kept for every shape seen, and here hardly two batches have the same.
    options.enable_mem_pattern = False
    return options


def first_line(error: Exception) -> str:
    """What a runtime says in its first line, bounded."""
    return str(error).partition("\n")[0][:300]

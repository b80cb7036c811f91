"""The local engine: a BERT encoder in fp32 on ONNX Runtime, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from schemas.errors import BadConfig, EngineFailed
from schemas.spaces import EmbeddingSpace
from schemas.usage import LOCAL
from transforms.embedders.base import EngineFacts, TokenIds, Vectors
from transforms.embedders.bert_graph import build_graph, read_shape, read_weights


class OnnxEngine:
    """Implements `base.Engine`. Made in the process that uses it; safe to share between its threads.

    Args:
        weights: safetensors of a BERT encoder.
        config: its `config.json`.
        space: the vectors belong to; its limit is enforced.
        threads: to compute with. Said outright, since the runtime by itself takes every core of the machine,
            whatever the process was allotted.

    Raises:
        BadConfig: the files are not those of a model this engine can run.
    """

    def __init__(self, weights: Path, config: Path, space: EmbeddingSpace, threads: int) -> None:
        shape = read_shape(config)
        if shape.hidden != space.dimensions or shape.max_positions < space.max_tokens:
            raise BadConfig(
                f"{config}: {shape.hidden} dimensions and {shape.max_positions} positions, the space of "
                f"{space.model} expects {space.dimensions} and at least {space.max_tokens}"
            )
        graph = build_graph(shape, read_weights(weights))
        # The session reads these in place, so they live as long as it does.
        self._weights = [
            onnxruntime.OrtValue.ortvalue_from_numpy(values) for values in graph.initializers.values()
        ]
        options = _session_options(threads)
        options.add_external_initializers(list(graph.initializers), self._weights)
        self._session = onnxruntime.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
        self.space = space
        self.facts = EngineFacts("local", "onnx", onnxruntime.__version__, threads, LOCAL)

    def run(self, batch: Sequence[TokenIds]) -> Vectors:
        """Vectors of one batch, padded here: float32, (len(batch), dimensions), in the order given.

        Raises:
            EngineFailed: an input is empty or longer than the space allows, or the runtime refused the batch.
        """
        if not batch:
            return np.empty((0, self.space.dimensions), dtype=np.float32)
        lengths = [len(ids) for ids in batch]
        shortest, longest = min(lengths), max(lengths)
        if shortest < 1 or longest > self.space.max_tokens:
            raise EngineFailed(
                f"inputs of {shortest} to {longest} tokens, expected 1 to {self.space.max_tokens}: "
                "chunk the text before it is embedded"
            )
        input_ids = np.zeros((len(batch), longest), dtype=np.int32)
        attention_mask = np.zeros_like(input_ids)
        for row, ids in enumerate(batch):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        try:
            [vectors] = self._session.run(
                ["embedding"], {"input_ids": input_ids, "attention_mask": attention_mask}
            )
        except (
            runtime_errors.Fail,
            runtime_errors.InvalidArgument,
            runtime_errors.RuntimeException,
        ) as error:
            raise EngineFailed(
                f"ONNX Runtime refused a batch of {len(batch)}: {_first_line(error)}"
            ) from None
        except MemoryError:
            raise EngineFailed(f"out of memory on a batch of {len(batch)} by {longest} tokens") from None
        return np.asarray(vectors, dtype=np.float32)


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A plan is kept for every shape seen, and here hardly two batches have the same.
    options.enable_mem_pattern = False
    return options


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]

"""A model that comes as an ONNX file: ONNX Runtime gives the token vectors, numpy pools them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from schemas.errors import BadConfig
from schemas.spaces import EmbeddingSpace
from schemas.usage import LOCAL
from transforms.embedders.base import EngineFacts, TokenIds, Vectors
from transforms.embedders.onnx import MAX_BATCH_TOKENS, first_line, run_session, session_options
from transforms.embedders.padding import pad
from transforms.embedders.pooling import known_pooling, pool, shorten

TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
POOLED_OUTPUT = "sentence_embedding"
_INTEGERS: dict[str, type[np.integer[Any]]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}


class OnnxFileEngine:
    """Implements `base.Engine`. Made in the process that uses it; safe to share between its threads.

    Args:
        path: graph with the inputs `input_ids`, `attention_mask` and perhaps `token_type_ids`, and with token vectors
            (`last_hidden_state` or `token_embeddings`), or vectors already pooled (`sentence_embedding`), as output.
        space: its pooling is applied to token vectors; its dimensions and length to either.
        threads: to compute with.

    Raises:
        BadConfig: the file cannot be loaded, or has other inputs or outputs.
    """

    def __init__(self, path: Path, space: EmbeddingSpace, threads: int) -> None:
        try:
            self._session = onnxruntime.InferenceSession(
                path, session_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's own errors have no common base but this
            raise BadConfig(f"{path}: ONNX Runtime cannot load it: {first_line(error)}") from None
        self._types = _input_types(self._session, path)
        self._output = _output(self._session, space, path)
        self._pooling = None if self._output == POOLED_OUTPUT else known_pooling(space.pooling)
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
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": np.zeros_like(input_ids),
        }
        inputs = {name: given[name].astype(kind) for name, kind in self._types.items()}
        values = run_session(self._session, self._output, inputs)
        if self._pooling is not None:
            values = pool(values, attention_mask, self._pooling)
        return shorten(values, self.space.dimensions, self.space.normalize)


def _input_types(session: onnxruntime.InferenceSession, path: Path) -> dict[str, type[np.integer[Any]]]:
    found = {node.name: node.type for node in session.get_inputs()}
    allowed = {"input_ids", "attention_mask", "token_type_ids"}
    needed = {"input_ids", "attention_mask"}
    if not needed <= found.keys() <= allowed or not set(found.values()) <= _INTEGERS.keys():
        listed = ", ".join(f"{name} {kind}" for name, kind in found.items())
        raise BadConfig(
            f"{path}: its inputs are {listed or 'none'}, expected input_ids, attention_mask and perhaps "
            "token_type_ids, all int64 or int32: export the encoder with these alone"
        )
    return {name: _INTEGERS[kind] for name, kind in found.items()}


def _output(session: onnxruntime.InferenceSession, space: EmbeddingSpace, path: Path) -> str:
    """The output to take: token vectors where the space's pooling can be done here."""
    shapes = {node.name: node.shape for node in session.get_outputs()}
    names = [name for name in TOKEN_OUTPUTS if space.pooling in ("mean", "cls")] + [POOLED_OUTPUT]
    output = next((name for name in names if name in shapes), None)
    if output is None:
        raise BadConfig(
            f"{path}: its outputs are {', '.join(shapes)}, expected one of {', '.join(names)} for pooling "
            f"{space.pooling}: export the encoder with one of these"
        )
    width = shapes[output][-1]
    if isinstance(width, int) and width < space.dimensions:
        raise BadConfig(
            f"{path}: {output} has {width} dimensions, the model's other files promise {space.dimensions}: these "
            "files are not of one model"
        )
    return output

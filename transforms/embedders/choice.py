"""Which engine gives a precision fastest on this machine, and why."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from schemas.config import Model
from transforms.embedders.cores import available_cores
from transforms.embedders.processor import Processor, this_processor

log = logging.getLogger(__name__)

EngineName = Literal["onnx", "openvino", "torch"]
Arithmetic = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """How a model is run.

    Args:
        arithmetic: of the matrix products.
        threads: to compute with.
        why: a sentence for people.
    """

    engine: EngineName
    arithmetic: Arithmetic
    threads: int
    why: str


def choose_engine(model: Model, processor: Processor | None = None) -> EngineChoice:
    """The engine for the configured precision on this machine; an engine named in the configuration is taken."""
    processor = processor or this_processor()
    threads = model.threads or available_cores()
    if model.engine == "onnx":
        return EngineChoice("onnx", "fp32", threads, "model.engine says so; it computes in fp32")
    return EngineChoice("onnx", "fp32", threads, "fp32 on ONNX Runtime gives the reference's vectors")


def is_installed(package: str) -> bool:
    """Whether an optional package is there, without importing it."""
    return find_spec(package) is not None

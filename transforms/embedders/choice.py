"""Which engine gives a precision fastest on this machine, and why."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from schemas.config import Model
from schemas.errors import BadConfig
from transforms.embedders.cores import worker_threads
from transforms.embedders.encoder import EncoderShape
from transforms.embedders.processor import Processor, this_processor
from transforms.embedders.vnni import reason_against

EngineName = Literal["onnx", "vnni", "torch"]
Arithmetic = Literal["fp32", "bf16", "fp16", "int16", "int8"]


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """How a model is run.

    Args:
        arithmetic: of the matrix products; torch decides by the card it finds, and this is what it aims at.
        threads: to compute with.
        why: a sentence for people.
        falls_back: the precision asked for has a faster engine, which cannot run here.
    """

    engine: EngineName
    arithmetic: Arithmetic
    threads: int
    why: str
    falls_back: bool = False


def choose_engine(
    model: Model,
    shape: EncoderShape | None = None,
    processor: Processor | None = None,
    has_card: bool | None = None,
) -> EngineChoice:
    """The engine for the configured precision on this machine; an engine named in the configuration is taken.

    Args:
        shape: of the encoder, None while its files are not here.
        processor: None takes this machine's.
        has_card: torch is installed and finds an Nvidia driver; None looks.

    Raises:
        BadConfig: the engine named cannot run here.
    """
    processor = processor or this_processor()
    threads = model.threads or worker_threads()
    whole: Arithmetic = "int16" if model.precision == "exact" else "int8"
    against = _against_vnni(processor, shape)
    if model.engine == "onnx":
        return EngineChoice("onnx", "fp32", threads, "model.engine says so")
    if model.engine == "vnni":
        if against is not None:
            raise BadConfig(
                f'model.engine: vnni cannot run here, {against}: set "onnx" or remove the setting'
            )
        return EngineChoice("vnni", whole, threads, "model.engine says so")
    if model.engine == "torch" and not is_installed("torch"):
        raise BadConfig(
            "model.engine: torch is not installed: pip install 'headrace[torch]', or remove the setting"
        )
    if has_card is None:
        has_card = Path("/proc/driver/nvidia/version").exists() and is_installed("torch")
    if has_card or model.engine == "torch":
        why = "an Nvidia card is here" if has_card else "model.engine says so, and there is no card"
        return EngineChoice("torch", _torch_arithmetic(model, has_card), threads, why)
    if against is None:
        rate = "twice" if whole == "int16" else "four times"
        return EngineChoice(
            "vnni", whole, threads, f"AVX-512 VNNI multiplies {whole} at {rate} the rate of fp32"
        )
    return EngineChoice("onnx", "fp32", threads, f"{against}, so fp32 on ONNX Runtime", falls_back=True)


def _against_vnni(processor: Processor, shape: EncoderShape | None) -> str | None:
    if not processor.avx512_vnni:
        return f"{processor.name} has no AVX-512 VNNI"
    return reason_against(shape)


def _torch_arithmetic(model: Model, has_card: bool) -> Arithmetic:
    if not has_card:
        return "fp32"
    return "fp16" if model.precision == "exact" else "bf16"


def is_installed(package: str) -> bool:
    """Whether an optional package is there, without importing it."""
    return find_spec(package) is not None

"""Engines and tokenizers, loaded once in a process however many DoFns and threads ask."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

from schemas.config import Model
from schemas.errors import BadConfig
from schemas.spaces import EmbeddingSpace
from transforms.embedders.base import Engine, Tokenizer, Words
from transforms.embedders.canary import check_canary
from transforms.embedders.choice import EngineChoice, choose_engine
from transforms.embedders.cores import worker_threads
from transforms.embedders.encoder import Encoder, EncoderShape, read_encoder, read_shape
from transforms.embedders.models import default_cache_dir, locate_model, space_of, spec_in
from transforms.embedders.pooling import known_pooling
from transforms.embedders.registry import ModelSpec
from transforms.embedders.tokenizer import ModelTokenizer
from transforms.embedders.vnni import VnniEngine
from transforms.embedders.word_memo import WordMemo

log = logging.getLogger(__name__)

_lock = threading.RLock()
_folders: dict[tuple[str, Path | None, Path], Path] = {}
_tokenizers: dict[Path, ModelTokenizer] = {}
_engines: dict[tuple[Path, EmbeddingSpace, str, str, int], Engine] = {}


def load_tokenizer(model: Model) -> Tokenizer:
    """The configured model's tokenizer; the same object for every caller of this process.

    Raises:
        UnknownName, DigestMismatch, ModelNotFound: as `locate_model`.
    """
    with _lock:
        return _tokenizer(model)


def load_words(model: Model) -> Words:
    """What cuts texts for the configured model; one for each thread.

    Raises:
        As `load_tokenizer`.
    """
    if not model.is_local:
        from transforms.providers.inputs import RemoteWords  # its vocabulary takes a third of a second

        return RemoteWords()
    return WordMemo(load_tokenizer(model))


def load_engine(model: Model) -> Engine:
    """The configured model, ready to run and proven on its canaries; the same object for every caller.

    Raises:
        UnknownName, DigestMismatch, ModelNotFound: as `locate_model`.
        BadConfig: the model's files do not fit each other or the configuration.
        CanaryMismatch: it does not give the known vectors of its space.
    """
    with _lock:
        return _engine(model, engine_choice(model, spec_in(model, _folder(model)), _folder(model)))


def load_fp32_engine(model: Model) -> Engine:
    """The configured model in fp32, for inputs that a faster arithmetic cannot embed; of the same space.

    Raises:
        As `load_engine`.
    """
    with _lock:
        spec, folder = spec_in(model, _folder(model)), _folder(model)
        if spec.is_onnx or _is_known_to_headrace(spec, folder):
            return _engine(model, choose_engine(model.model_copy(update={"engine": "onnx"})))
        choice = choose_engine(model.model_copy(update={"engine": "torch"}))
        return _engine(model, replace(choice, arithmetic="fp32"))


def engine_choice(model: Model, spec: ModelSpec | None, folder: Path | None) -> EngineChoice:
    """As `choose_engine`, for what is known of the model; a ready ONNX graph leaves no choice.

    Raises:
        BadConfig: an engine is named that cannot run here, or does not read such a graph.
    """
    if spec is None or not spec.is_onnx:
        return choose_engine(model, _shape(model, spec, folder))
    if model.engine not in (None, "onnx"):
        raise BadConfig(
            f"model.engine: {model.engine} reads safetensors, {spec.name} comes as {spec.weights} alone: remove the "
            "setting, or give a folder with model.safetensors"
        )
    threads = model.threads or worker_threads()
    return EngineChoice("onnx", "fp32", threads, f"the model comes as a ready graph, {spec.weights}")


def _shape(model: Model, spec: ModelSpec | None, folder: Path | None) -> EncoderShape | None:
    """The encoder's; None if its files are not here, or torch runs it whatever it is."""
    if spec is None or folder is None or model.engine == "torch":
        return None
    return read_shape(folder / spec.config)


def _engine(model: Model, choice: EngineChoice) -> Engine:
    folder, space = _folder(model), space_of(model)
    key = (folder, space, choice.engine, choice.arithmetic, choice.threads)
    engine = _engines.get(key)
    if engine is None:
        if choice.falls_back:
            log.warning("%s in %s: %s", space.model, choice.arithmetic, choice.why)
        engine = _build(model, folder, space, choice)
        check_canary(engine, _tokenizer(model))
        _engines[key] = engine
    return engine


def _build(model: Model, folder: Path, space: EmbeddingSpace, choice: EngineChoice) -> Engine:
    """Imports the chosen engine's library, and no other."""
    spec = spec_in(model, folder)
    if choice.engine == "torch":
        from transforms.embedders.torch_engine import encoder_engine, sentence_transformer_engine

        # On a card torch itself knows which half precision it has.
        arithmetic = choice.arithmetic if choice.arithmetic == "fp32" else None
        if _is_known_to_headrace(spec, folder):
            encoder = _encoder(model, folder, space)
            return encoder_engine(encoder, space, choice.threads, arithmetic=arithmetic)
        return sentence_transformer_engine(folder, space, choice.threads, arithmetic=arithmetic)
    if spec.is_onnx:
        from transforms.embedders.onnx_file import OnnxFileEngine

        return OnnxFileEngine(folder / spec.weights, space, choice.threads)
    encoder = _encoder(model, folder, space)
    if choice.engine == "vnni":
        return VnniEngine(encoder, space, 16 if choice.arithmetic == "int16" else 8, choice.threads)
    from transforms.embedders.onnx import OnnxEngine
    from transforms.embedders.onnx_graph import build_graph

    graph = build_graph(encoder, known_pooling(space.pooling), space.normalize, space.dimensions)
    return OnnxEngine(graph, space, choice.threads)


def _is_known_to_headrace(spec: ModelSpec, folder: Path) -> bool:
    """Whether our own encoder computes the model, or only sentence-transformers' modules do."""
    try:
        read_shape(folder / spec.config)
        known_pooling(spec.pooling)
    except BadConfig:
        return False
    return not spec.more_modules


def _encoder(model: Model, folder: Path, space: EmbeddingSpace) -> Encoder:
    """The weights, checked against what the space promises."""
    spec = spec_in(model, folder)
    config = folder / spec.config
    encoder = read_encoder(folder / spec.weights, config)
    shape = encoder.shape
    if shape.hidden < space.dimensions or shape.max_positions < space.max_tokens:
        raise BadConfig(
            f"{config}: {shape.hidden} dimensions and {shape.max_positions} positions, the space of "
            f"{space.model} expects at least {space.dimensions} and {space.max_tokens}"
        )
    return encoder


def _tokenizer(model: Model) -> ModelTokenizer:
    folder = _folder(model)
    if folder not in _tokenizers:
        _tokenizers[folder] = ModelTokenizer(folder / spec_in(model, folder).tokenizer)
    return _tokenizers[folder]


def _folder(model: Model) -> Path:
    cache_dir = default_cache_dir()
    key = (model.name, model.folder, cache_dir)
    if key not in _folders:
        _folders[key] = locate_model(model, cache_dir)
    return _folders[key]


_of_the_parent: list[Engine] = []


def _forget() -> None:
    """A forked child has no threads to run its parent's sessions with, and its parent's lock may be held.

    The sessions are kept unused: to destroy one waits for threads that the child does not have.
    """
    global _lock
    _lock = threading.RLock()
    _of_the_parent.extend(_engines.values())
    _engines.clear()


os.register_at_fork(after_in_child=_forget)

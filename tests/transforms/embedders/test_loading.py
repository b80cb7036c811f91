"""One engine a process, proven before it is used."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from schemas.config import Model
from schemas.errors import CanaryMismatch
from transforms.embedders import loading
from transforms.embedders.base import Engine
from transforms.embedders.loading import load_engine, load_tokenizer


def test_all_threads_share_one_engine_and_one_tokenizer(model_folder: Path, engine: Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(load_engine, [Model(folder=model_folder, engine="onnx", threads=2)] * 16))
        tokenizers = list(pool.map(load_tokenizer, [Model(folder=model_folder)] * 16))
    assert {id(loaded) for loaded in engines} == {id(engine)}
    assert len({id(loaded) for loaded in tokenizers}) == 1


def test_settings_of_batches_do_not_load_another_engine(model_folder: Path, engine: Engine) -> None:
    assert load_engine(Model(folder=model_folder, engine="onnx", threads=2, max_batch_tokens=64)) is engine


def test_an_engine_that_fails_its_canary_is_not_handed_out(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> float:
        raise CanaryMismatch("not the vectors of this space")

    monkeypatch.setattr(loading, "check_canary", refuse)
    for _ in range(2):
        with pytest.raises(CanaryMismatch):
            load_engine(Model(folder=model_folder, threads=1))


def _embed(folder: Path) -> tuple[int, int]:
    model = Model(folder=folder, threads=2)
    vectors = load_engine(model).run(load_tokenizer(model).encode(["in another process"]))
    return vectors.shape[0], vectors.shape[1]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_loads_its_own_engine_instead_of_hanging_on_its_parents(
    model_folder: Path, engine: Engine
) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_embed, (model_folder,)).get(timeout=60) == (1, 384)

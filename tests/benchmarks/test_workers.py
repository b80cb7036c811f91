"""Contenders answer from a process of their own; one that cannot run is named with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.engines import Run
from benchmarks.rows import Corpus, best_reference, row_of
from benchmarks.workers import Contender, Worker
from schemas.config import Model
from transforms.embedders.batching import embed_all
from transforms.embedders.encoder import read_shape
from transforms.embedders.loading import load_engine, load_tokenizer
from transforms.embedders.models import default_cache_dir, locate_model

TEXTS = ["a gateway restarts", "b", "events are counted twice when a pod restarts"]
ONNX = Contender("ours", {"kind": "headrace", "model": {"engine": "onnx"}})


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Contender], Worker]]:
    workers: list[Worker] = []

    def started(contender: Contender) -> Worker:
        workers.append(Worker(contender, tmp_path / "log"))
        return workers[-1]

    yield started
    for worker in workers:
        worker.close()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "short.json"
    path.write_text(json.dumps(TEXTS))
    return path


def test_a_contender_gives_the_vectors_of_its_engine_in_order(
    start: Callable[[Contender], Worker], texts: Path, tmp_path: Path
) -> None:
    worker = start(ONNX)
    found = worker.ask(texts, vectors=str(tmp_path / "vectors.npy"))
    model = Model(engine="onnx")
    expected = embed_all(load_engine(model), load_tokenizer(model).encode(TEXTS)).vectors
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-5)
    assert found["seconds"] > 0
    assert found["peak_mib"] > 50
    assert worker.facts["arithmetic"] == "fp32"
    assert worker.ask(texts, limit=2)["texts"] == 2


def test_a_peer_that_cannot_load_says_why_to_every_request(
    start: Callable[[Contender], Worker], texts: Path, tmp_path: Path
) -> None:
    worker = start(Contender("odd", {"kind": "headrace", "model": {"folder": str(tmp_path / "nowhere")}}))
    assert "nowhere" in worker.failure
    assert worker.ask(texts) == {"error": worker.failure}
    missing = start(Contender("away", {"kind": "beam"}, python=str(tmp_path / "no-python")))
    assert missing.ask(texts)["error"] == f"{tmp_path / 'no-python'}: No such file or directory"


def test_what_was_answered_is_not_asked_again_and_other_settings_forget_it(
    texts: Path, tmp_path: Path
) -> None:
    path = tmp_path / "engines.json"
    first = Run(path, {"rounds": 1}, tmp_path)
    try:
        answered = first.ask(ONNX, "short", "1")
    finally:
        first.close()
    later = Run(path, {"rounds": 1}, tmp_path)
    assert later.ask(ONNX, "short", "1") == answered
    assert later.workers == {}  # nothing was loaded for it
    assert Run(path, {"rounds": 2}, tmp_path).answers == {}


def _answers(seconds: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    facts = {"facts": {"engine": "e", "arithmetic": "fp32"}, "peak_mib": 1, "load": 0.5}
    return {
        f"{name}|short|{number}": {"seconds": value} | facts
        for name, values in seconds.items()
        for number, value in enumerate(values)
    }


def test_the_reference_is_the_batch_size_that_is_fastest_on_that_corpus() -> None:
    answers = _answers(
        {
            "sentence-transformers batch 32": [9, 2, 2],
            "sentence-transformers batch 100": [9, 1, 1],
            "ours": [1, 1, 1],
        }
    )
    assert best_reference(answers, "short", 2) == "sentence-transformers batch 100"
    assert best_reference(answers, "long", 2) is None


def test_a_row_has_rates_of_the_timed_rounds_and_the_ratio_to_the_reference() -> None:
    shape = read_shape(locate_model(Model(), default_cache_dir()) / "config.json")
    answers = _answers({"sentence-transformers batch 32": [9, 2, 4, 2], "ours": [9, 1, 1, 1]})
    corpus = Corpus("short", ["x"] * 10, [10] * 10)
    row = row_of(
        Contender("ours", {}), corpus, answers, 3, shape, {"fp32": 100.0}, {"short": (0.9, 0.95)}, 3.6
    )
    assert row["texts_per_s"] == 10
    assert row["tokens_per_s"] == 100
    assert row["ratio_to_best_sentence_transformers"] == 2
    assert row["usd_per_million_tokens"] == 10
    assert (row["cosine_lowest"], row["cosine_mean"]) == (0.9, 0.95)
    assert row["share_of_ceiling"] == pytest.approx(10 / row["ceiling_texts_per_s"], abs=1e-3)


def test_a_contender_without_an_answer_is_in_the_table_with_the_reason() -> None:
    shape = read_shape(locate_model(Model(), default_cache_dir()) / "config.json")
    answers = {"away|short|0": {"error": "no such package"}}
    row = row_of(Contender("away", {}), Corpus("short", [], []), answers, 3, shape, {}, {}, 1.0)
    assert row == {"contender": "away", "corpus": "short", "not measured": "no such package"}

"""The benchmark of a card says when there is none, and keeps texts in their order while it tokenizes ahead."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import gpu
from schemas.config import Model
from transforms.embedders.base import TokenIds
from transforms.embedders.models import default_cache_dir, locate_model, space_of


class NumberTokenizer:
    """A text is its own only token."""

    special_tokens = 0
    plain_words = None

    def is_word_local(self, text: str) -> bool:
        return True

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        return [np.array([int(text)], dtype=np.int32) for text in texts]

    def count(self, texts: Sequence[str]) -> list[int]:
        return [1 for _ in texts]


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_buffers_come_in_order_and_lose_nothing(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(gpu, "TEXTS_PER_BUFFER", 3)
    texts = [str(number) for number in range(count)]
    buffers = list(gpu.token_buffers(NumberTokenizer(), texts, 8))
    assert [int(ids[0]) for buffer in buffers for ids in buffer] == list(range(count))
    assert all(len(buffer) <= 3 for buffer in buffers)


def test_a_machine_without_a_card_measures_nothing_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "why_not", lambda: "not measured: no CUDA device")
    assert gpu.main([]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["result"] == "not measured: no CUDA device"
    assert found["machine"]["versions"]


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find_spec", lambda _: None)
    assert gpu.why_not().startswith("not measured: torch and sentence_transformers not installed")


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="needs the [torch] extra")
@pytest.mark.filterwarnings("default")
def test_every_contender_is_measured_on_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "TEXTS_PER_BUFFER", 8)
    monkeypatch.setattr(gpu.bf16_gflops, "__defaults__", (256, 2))
    folder = locate_model(Model(), default_cache_dir())
    found = gpu.compare(folder, space_of(Model()), "cpu", 20, 1)
    assert len(found["rows"]) == 5
    assert found["rows"][0]["ratio"] == 1
    for row in found["rows"]:
        assert row["texts_per_s"] > 0
        assert row.get("cosine_min", 1) > 0.9999

"""The fastest engine that keeps the precision's promise, by what this machine has."""

from __future__ import annotations

import pytest

from schemas.config import Model
from schemas.errors import BadConfig
from transforms.embedders import choice
from transforms.embedders.choice import choose_engine
from transforms.embedders.encoder import EncoderShape
from transforms.embedders.processor import Processor, read_processor

WITH_VNNI = Processor("Xeon", avx512_vnni=True)
WITHOUT = Processor("Old", avx512_vnni=False)
MINILM = EncoderShape("bert", 384, 6, 12, 1536, 512, 0, 1e-12, 0)
ODD = EncoderShape("bert", 312, 4, 12, 1200, 512, 0, 1e-12, 0)


@pytest.fixture(autouse=True)
def _kernels_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transforms.embedders.vnni.is_built", lambda: True)


@pytest.mark.parametrize(("precision", "arithmetic"), [("exact", "int16"), ("fast", "int8")])
def test_whole_numbers_where_the_processor_multiplies_them_fast(precision: str, arithmetic: str) -> None:
    chosen = choose_engine(Model(precision=precision), MINILM, WITH_VNNI, has_card=False)
    assert (chosen.engine, chosen.arithmetic, chosen.falls_back) == ("vnni", arithmetic, False)


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_fp32_elsewhere_and_it_says_why(precision: str) -> None:
    chosen = choose_engine(Model(precision=precision), MINILM, WITHOUT, has_card=False)
    assert (chosen.engine, chosen.arithmetic, chosen.falls_back) == ("onnx", "fp32", True)
    assert "Old has no AVX-512 VNNI" in chosen.why


def test_an_encoder_that_the_kernels_are_not_made_for_runs_in_fp32() -> None:
    chosen = choose_engine(Model(), ODD, WITH_VNNI, has_card=False)
    assert (chosen.engine, chosen.falls_back) == ("onnx", True)
    assert "hidden size 312" in chosen.why


def test_a_card_comes_first() -> None:
    assert choose_engine(Model(), MINILM, WITH_VNNI, has_card=True).engine == "torch"


def test_an_engine_named_is_taken_or_refused_but_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_engine(Model(engine="onnx"), MINILM, WITH_VNNI, has_card=True).engine == "onnx"
    with pytest.raises(BadConfig, match=r"vnni cannot run here, Old has no AVX-512 VNNI"):
        choose_engine(Model(engine="vnni"), MINILM, WITHOUT, has_card=False)
    monkeypatch.setattr(choice, "is_installed", lambda package: False)
    with pytest.raises(BadConfig, match="torch is not installed"):
        choose_engine(Model(engine="torch"), MINILM, WITH_VNNI, has_card=False)


def test_the_processor_is_read_from_its_flags() -> None:
    flags = "fpu avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni fma f16c bmi2 avx512_bf16"
    text = f"processor\t: 0\nmodel name\t: Xeon\nflags\t\t: {flags}\n\nprocessor\t: 1\nmodel name\t: other\n"
    assert read_processor(text) == WITH_VNNI
    assert not read_processor(text.replace("avx512vl ", "")).avx512_vnni
    assert not read_processor("").avx512_vnni

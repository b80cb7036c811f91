"""The README's figures are those of the files, and what was not measured is not left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.hardware import ROOT
from benchmarks.readme import BEGIN, END, section, with_section

ENGINES = {
    "machine": {"cores": 2, "processor": "P", "instruction_sets": ["avx2"], "commit": "c0"},
    "corpora": {"mixed": {"tokens_mean": 65.2}},
    "rows": [
        {"contender": "peer", "corpus": "mixed", "not measured": "not installed"},
        {
            "contender": "headrace exact",
            "corpus": "mixed",
            "arithmetic": "fp32",
            "texts_per_s": 1234.5,
            "ratio_to_best_sentence_transformers": 2.5,
            "share_of_ceiling": 0.61,
            "cosine_lowest": 0.99991,
        },
    ],
}


def test_each_contender_has_a_row_measured_or_not(tmp_path: Path) -> None:
    (tmp_path / "engines.json").write_text(json.dumps(ENGINES))
    lines = section(tmp_path, tmp_path).splitlines()
    assert "| headrace exact | fp32 | 1,234 (2.50) | 61% | 0.99991 |" in lines
    assert "| peer |  | not measured |  |  |" in lines


def test_only_what_stands_between_the_markers_changes() -> None:
    readme = f"above\n{BEGIN}old\n{END}\nbelow\n"
    assert with_section(readme, "new") == f"above\n{BEGIN}new\n{END}\nbelow\n"
    with pytest.raises(ValueError, match="expected"):
        with_section("no markers", "new")


def test_this_readme_has_the_markers() -> None:
    assert "x\n" + END in with_section((ROOT / "README.md").read_text(encoding="utf-8"), "x")

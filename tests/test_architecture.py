"""Imports point one way, and heavy libraries stay out of commands that do not need them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "schemas": set(),
    "extractors": {"schemas"},
    "transforms": {"schemas"},
    "pipelines": {"extractors", "transforms", "schemas"},
    "runners": {"pipelines", "extractors", "transforms", "schemas"},
}


def _imported_folders(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} & ALLOWED.keys()


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_point_one_way(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    wrong = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in files
        if (found := _imported_folders(path) - ALLOWED[folder] - {folder})
    }
    assert wrong == {}


def test_only_one_module_of_the_extractors_knows_beam() -> None:
    knows = [
        path.name
        for path in (ROOT / "extractors").rglob("*.py")
        if "import apache_beam" in path.read_text(encoding="utf-8")
    ]
    assert knows == ["read.py"]


@pytest.mark.parametrize("module", ["runners.cli", "pipelines.search"])
def test_beam_and_torch_are_not_imported_for_a_search(module: str) -> None:
    heavy = ("apache_beam", "torch", "sentence_transformers")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"

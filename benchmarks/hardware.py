"""What the figures were measured on."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from transforms.embedders.cores import available_cores
from transforms.embedders.processor import this_processor

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "apache-beam",
    "faiss-cpu",
    "fastembed",
    "numpy",
    "onnxruntime",
    "openvino",
    "optimum",
    "psycopg",
    "semantic-text-splitter",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "transformers",
)
SOURCES = (".py", ".c", ".h", ".cc", ".cpp")
INSTRUCTION_SETS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "amx_fp16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
"""Those that decide how fast matrices are multiplied, as Linux names them."""


def machine() -> dict[str, Any]:
    """Processor, memory, versions and commit; JSON-able."""
    return {
        "processor": this_processor().name,
        "instruction_sets": instruction_sets(_cpuinfo()),
        "cores": available_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
        "commit": commit(),
    }


def instruction_sets(cpuinfo: str) -> list[str]:
    """Those of `INSTRUCTION_SETS` that `/proc/cpuinfo` names."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    flags = next((value.split() for key, _, value in lines if key.strip() in ("flags", "Features")), [])
    return [name for name in INSTRUCTION_SETS if name in flags]


def commit(root: Path = ROOT) -> str:
    """Of the checkout, with `-dirty` behind it when anything but figures differs; empty outside of one."""
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    figures = (":!benchmarks/results", ":!benchmarks/plots", ":!README.md")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *figures)
    return f"{head}-dirty" if changed else head


def code_digest(root: Path = ROOT) -> str:
    """Of everything that decides a vector or its speed: figures of another code are not continued."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in ("schemas", "transforms") for path in (root / folder).rglob("*.*")):
        if path.suffix not in SOURCES:
            continue
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def load_average() -> float:
    """Processes that wanted to run over the last minute; far above the cores, figures mean little."""
    return round(os.getloadavg()[0], 2)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

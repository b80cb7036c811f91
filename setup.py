"""Compiles headrace's kernels while it is installed; everything else is in pyproject.toml.

The compiler comes as a package (`ziglang`, which carries clang), so that none has to be on the machine. The kernels
are shared libraries without any of Python's headers, loaded with ctypes. Where they are not built (another system or
processor family), headrace takes ONNX Runtime and the tokenizers library instead.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = "transforms.embedders.kernels"
FOLDER = Path(*PACKAGE.split("."))
FLAGS = ["-O3", "-std=c11", "-fno-math-errno", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-shared", "-fPIC", "-fvisibility=hidden", "-s"]
GLIBC = "2.28"  # any since 2018


class BuildKernels(build_ext):
    """Runs clang on one C file for each library."""

    def get_ext_filename(self, fullname: str) -> str:
        """Not a Python module, so without Python's version in the name."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Raises: subprocess.CalledProcessError if the compiler fails."""
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        compiler = [sys.executable, "-m", "ziglang", "cc"]
        target = ["-target", f"{platform.machine()}-linux-gnu.{GLIBC}", *ext.extra_compile_args]
        with tempfile.TemporaryDirectory(prefix="headrace-zig-") as cache:
            folders = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
            # Written beside and renamed: a process that has the old one loaded keeps it whole.
            fresh = library.with_suffix(".new")
            subprocess.run(  # noqa: S603
                [*compiler, *FLAGS, *target, *ext.sources, "-o", str(fresh)],
                check=True,
                env={**os.environ, **folders},
            )
            fresh.replace(library)


def kernel(name: str, cpu: str, headers: tuple[str, ...] = ()) -> Extension:
    """One library, of the C file of its name."""
    sources, depends = [str(FOLDER / f"{name}.c")], [str(FOLDER / header) for header in headers]
    return Extension(f"{PACKAGE}.{name}", sources, depends=depends, extra_compile_args=[f"-mcpu={cpu}"])


def kernels(system: str, machine: str) -> list[Extension]:
    """Those that run on a machine as Python names it."""
    found = []
    if system == "Linux" and machine in ("x86_64", "aarch64"):
        found.append(kernel("wordpiece", "baseline"))
    if system == "Linux" and machine == "x86_64":
        # No instruction that the engine does not ask the processor for before it loads the library.
        found.append(
            kernel("encoder", "x86_64_v4+avx512vnni", ("arithmetic.h", "attention.h", "attention_bytes.h"))
        )
    return found


setup(
    ext_modules=kernels(platform.system(), platform.machine()),
    cmdclass={"build_ext": BuildKernels},
)

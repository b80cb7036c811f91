"""Compiles the embedding kernels while headrace is installed; everything else is in pyproject.toml.

The compiler comes as a package (`ziglang`, which carries clang), so that none has to be on the machine. The kernels
are one shared library without any of Python's headers, loaded with ctypes. Where they are not built (another system
or processor family), headrace takes ONNX Runtime instead.
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

KERNELS = "transforms/embedders/kernels"
# Any glibc since 2018, and no instruction that the engine does not ask the processor for before it loads the library.
FLAGS = ["-O3", "-std=c11", "-fno-math-errno", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-shared", "-fPIC", "-fvisibility=hidden", "-s"]
TARGET = ["-target", "x86_64-linux-gnu.2.28", "-mcpu=x86_64_v4+avx512vnni"]


class BuildKernels(build_ext):
    """Runs clang on the one C file."""

    def get_ext_filename(self, fullname: str) -> str:
        """Not a Python module, so without Python's version in the name."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Raises: subprocess.CalledProcessError if the compiler fails."""
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        compiler = [sys.executable, "-m", "ziglang", "cc"]
        with tempfile.TemporaryDirectory(prefix="headrace-zig-") as cache:
            folders = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
            subprocess.run(  # noqa: S603
                [*compiler, *FLAGS, *TARGET, *ext.sources, "-o", str(library)],
                check=True,
                env={**os.environ, **folders},
            )


can_run = platform.system() == "Linux" and platform.machine() == "x86_64"
sources = [f"{KERNELS}/encoder.c"]
headers = [f"{KERNELS}/arithmetic.h", f"{KERNELS}/attention.h"]
setup(
    ext_modules=[Extension("transforms.embedders.kernels.encoder", sources, depends=headers)]
    if can_run
    else [],
    cmdclass={"build_ext": BuildKernels},
)

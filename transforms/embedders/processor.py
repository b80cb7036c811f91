"""What this machine's processor can do, as far as it decides which engine is fastest."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor.

    Args:
        name: as the system gives it.
        avx512_vnni: it has all that the kernels use.
    """

    name: str
    avx512_vnni: bool


@cache
def this_processor() -> Processor:
    """The processor this process runs on."""
    try:
        return read_processor(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return Processor(platform.processor() or platform.machine(), avx512_vnni=False)


def read_processor(cpuinfo: str) -> Processor:
    """From the text of Linux's `/proc/cpuinfo`; its first processor speaks for all."""
    first = cpuinfo.partition("\n\n")[0]
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())
    }
    flags = set(fields.get("flags", "").split())
    return Processor(
        name=fields.get("model name") or platform.machine(),
        avx512_vnni=flags >= _KERNELS_USE,
    )


_KERNELS_USE = {
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "fma",
    "f16c",
    "bmi2",
}

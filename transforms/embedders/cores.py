"""How many cores this process may really use, and its share of them beside other workers on the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from schemas.errors import BadConfig

WORKERS = "HEADRACE_WORKERS"
"""Environment variable: worker processes on this machine, this one among them. Who starts several sets it."""


def worker_threads(cores: int | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Threads of this worker: the cores divided by the workers that share them, at least 1.

    Args:
        cores: that all of them share; None asks `available_cores`.
    Raises:
        BadConfig: the variable is not a number from 1 on.
    """
    said = environment.get(WORKERS, "1")
    if not said.isascii() or not said.isdigit() or int(said) == 0:
        raise BadConfig(f"{WORKERS} is {said!r}: expected how many workers share this machine, such as 4")
    return max(1, (cores or available_cores()) // int(said))


def available_cores(
    cgroups: Path = Path("/sys/fs/cgroup"), memberships: Path = Path("/proc/self/cgroup")
) -> int:
    """Cores by affinity and by the CPU quota of the cgroup (v1 or v2), at least 1.

    A quota of one core and a half gives 1: threads beyond a quota are stopped together and wait together.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroups, memberships)
    return max(1, min(cores, math.floor(quota)) if quota is not None else cores)


def _cpu_quota(cgroups: Path, memberships: Path) -> float | None:
    """The smallest quota on the way from this process's group to the root, in cores; None without one."""
    try:
        lines = memberships.read_text().splitlines()
    except OSError:
        return None
    quotas: list[float] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = cgroups / controllers if controllers else cgroups
        # A container may see its own group as the root and yet be told its path outside.
        path = Path(group.lstrip("/"))
        for ancestor in [path, *path.parents]:
            quota = _quota_v1(mount / ancestor) if controllers else _quota_v2(mount / ancestor)
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _quota_v2(folder: Path) -> float | None:
    text = _read(folder / "cpu.max").split()
    return int(text[0]) / int(text[1]) if len(text) == 2 and text[0] != "max" else None


def _quota_v1(folder: Path) -> float | None:
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

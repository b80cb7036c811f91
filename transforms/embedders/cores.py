"""How many cores this process may really use, and its share of them beside other workers on the machine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from schemas.errors import BadConfig
from transforms.cgroups import MEMBERSHIPS, MOUNT, GroupFolder, group_folders

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


def available_cores(cgroups: Path = MOUNT, memberships: Path = MEMBERSHIPS) -> int:
    """Cores by affinity and by the CPU quota of the cgroup (v1 or v2), at least 1.

    A quota of one core and a half gives 1: threads beyond a quota are stopped together and wait together.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroups, memberships)
    return max(1, min(cores, math.floor(quota)) if quota is not None else cores)


def _cpu_quota(cgroups: Path, memberships: Path) -> float | None:
    """The smallest quota on the way from this process's group to the root, in cores; None without one."""
    quotas = map(_quota, group_folders("cpu", cgroups, memberships))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(folder: GroupFolder) -> float | None:
    if folder.is_v1:
        quota, period = folder.read("cpu.cfs_quota_us"), folder.read("cpu.cfs_period_us")
        return int(quota) / int(period) if quota and period and int(quota) > 0 else None
    text = folder.read("cpu.max").split()
    return int(text[0]) / int(text[1]) if len(text) == 2 and text[0] != "max" else None

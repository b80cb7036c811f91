"""Threads follow what the process was allotted, not what the machine has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from schemas.errors import BadConfig
from transforms.embedders.cores import available_cores, worker_threads

ALLOWED = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("quota", "cores"), [("100000", 1), ("50000", 1), ("99900000", ALLOWED), ("max", ALLOWED)]
)
def test_a_quota_of_the_second_kind_of_cgroup_limits_the_cores(
    tmp_path: Path, quota: str, cores: int
) -> None:
    memberships = write(tmp_path / "self", "0::/work/job\n")
    write(tmp_path / "fs/work/job/cpu.max", f"{quota} 100000\n")
    assert available_cores(tmp_path / "fs", memberships) == cores


def test_a_quota_of_a_parent_group_counts(tmp_path: Path) -> None:
    memberships = write(tmp_path / "self", "0::/work/job\n")
    write(tmp_path / "fs/work/cpu.max", "150000 100000\n")
    write(tmp_path / "fs/work/job/cpu.max", "max 100000\n")
    assert available_cores(tmp_path / "fs", memberships) == 1


def test_a_quota_of_the_first_kind_of_cgroup_limits_the_cores(tmp_path: Path) -> None:
    memberships = write(tmp_path / "self", "5:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n")
    write(tmp_path / "fs/cpu,cpuacct/cpu.cfs_quota_us", "100000\n")
    write(tmp_path / "fs/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert available_cores(tmp_path / "fs", memberships) == 1


def test_no_quota_leaves_the_cores_of_the_affinity(tmp_path: Path) -> None:
    memberships = write(tmp_path / "self", "4:cpu:/\n0::/\n")
    write(tmp_path / "fs/cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "fs/cpu/cpu.cfs_period_us", "100000\n")
    assert available_cores(tmp_path / "fs", memberships) == ALLOWED
    assert available_cores(tmp_path / "fs", tmp_path / "absent") == ALLOWED


@pytest.mark.parametrize(("cores", "workers", "threads"), [(8, "1", 8), (8, "3", 2), (2, "4", 1)])
def test_workers_that_share_a_machine_share_its_cores(cores: int, workers: str, threads: int) -> None:
    assert worker_threads(cores, {"HEADRACE_WORKERS": workers}) == threads


def test_a_worker_alone_has_all_cores() -> None:
    assert worker_threads(8, {}) == 8


@pytest.mark.parametrize("said", ["", "0", "-1", "two", "²"])
def test_a_number_of_workers_that_is_none_is_refused(said: str) -> None:
    with pytest.raises(BadConfig, match="HEADRACE_WORKERS"):
        worker_threads(8, {"HEADRACE_WORKERS": said})

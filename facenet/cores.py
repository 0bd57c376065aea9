"""Cores that this process may use, and how many threads one of its processes gets of them."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP_DIR = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Those that a container's limit leaves, too: threads beyond it are stopped together, each in the middle of what others wait for."""
    cores, quota = visible_cores(), container_cores()
    return cores if quota is None else max(1, min(cores, int(quota)))


def visible_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def container_cores(cgroup_dir: Path = CGROUP_DIR) -> float | None:
    """Cores that a container may use, by the kernel's quota; None without one."""
    file, old_file = cgroup_dir / "cpu.max", cgroup_dir / "cpu/cpu.cfs_quota_us"
    if file.is_file():
        quota, period = file.read_text().split()
    elif old_file.is_file():
        quota, period = old_file.read_text().strip(), old_file.with_name("cpu.cfs_period_us").read_text()
    else:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def threads_of(num_processes: int) -> int:
    """Of each of so many processes on this machine: what the environment says, else an equal part of the cores."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) > 0 else max(1, available_cores() // num_processes)

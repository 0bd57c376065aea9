"""Cores that this process may use, and how many threads one of its processes gets of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

CGROUP_DIR = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def available_cores() -> int:
    """Number of cores that this process may use, a container's limit included: threads beyond it are stopped together, each in the middle of what
    others wait for."""
    cores, quota = visible_cores(), container_cores()
    return cores if quota is None else max(1, min(cores, int(quota)))


def visible_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def container_cores(cgroup_dir: Path = CGROUP_DIR, own_group: Path = OWN_GROUP) -> float | None:
    """Cores that the kernel's quotas leave to a container or a unit of systemd, the least of its group and those above; None without one."""
    return min((quota for folder in groups(cgroup_dir, own_group) for quota in quotas(folder)), default=None)


def groups(cgroup_dir: Path, own_group: Path) -> Iterator[Path]:
    """The folder of this process's group and those above it. In a container it is mounted as the root, whatever its name outside."""
    roots = {"": cgroup_dir, "cpu": cgroup_dir / "cpu"}  # version 2, and 1
    yield from roots.values()
    with contextlib.suppress(OSError, ValueError):
        for line in own_group.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            root = next((roots[name] for name in controllers.split(",") if name in roots), None)
            while root is not None and (group := group.strip("/")) and ".." not in group:
                yield root / group
                group = group.rpartition("/")[0]


def quotas(folder: Path) -> Iterator[float]:
    """That of a group, if it has one that can be read."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (folder / "cpu.max").read_text().split()
        if quota != "max":
            yield int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)


def threads_of(num_processes: int) -> int:
    """Number of threads of each of so many processes on this machine: what the environment says, for the outermost of nested loops, else an equal
    part of the cores."""
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(said) if said.isdecimal() and int(said) > 0 else max(1, available_cores() // num_processes)

"""What `data.feed=auto` picks, from sizes alone, and the sentence that says why."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facenet.errors import UserError

FeedKind = Literal["auto", "files", "disk", "ram", "device"]
KINDS = ("auto", "files", "disk", "ram", "device")
SHARE = 0.5  # of what is free: the rest is for the network and for what else runs there
PASSES = 2.0  # making a cache costs one pass over the images; below two the files are faster


@dataclass(frozen=True)
class Room:
    """Free bytes; device is None where there is none besides the host or it does not tell."""

    disk: int
    ram: int
    device: int | None


@dataclass(frozen=True)
class Need:
    """num_bytes: of the cache. passes: how often the run shows each of its images. kept: the cache exists or is being written.
    obstacle: why preprocessed images cannot be kept, if they cannot."""

    num_bytes: int
    passes: float
    kept: bool
    obstacle: str | None


def choose(asked: FeedKind, need: Need, room: Room) -> tuple[str, str]:
    """(files, disk, ram or device; why). UserError for one that was asked for and is impossible."""
    if need.obstacle is not None:
        if asked not in ("auto", "files"):
            raise UserError(f"data.feed={asked}: {need.obstacle}; set data.feed=files, or augment=flip")
        return "files", need.obstacle
    if asked == "files":
        return "files", "asked for"
    size = f"{gigabytes(need.num_bytes)} of images"
    if asked != "auto":
        return _asked(asked, need, room, size)
    if not need.kept and need.passes < PASSES:
        return "files", f"the run shows its images {need.passes:.1f} times: a cache of {size} would not pay"
    if not need.kept and need.num_bytes > SHARE * room.disk:
        return "files", f"{size} are more than half of the {gigabytes(room.disk)} free on the cache's disk"
    if room.device is not None and need.num_bytes <= SHARE * room.device:
        return "device", f"{size} fit into half of the {gigabytes(room.device)} free on the device"
    if need.num_bytes <= SHARE * room.ram:
        return "ram", f"{size} fit into half of the {gigabytes(room.ram)} of free memory"
    return "disk", f"{size} are more than half of the {gigabytes(room.ram)} of free memory"


def _asked(asked: str, need: Need, room: Room, size: str) -> tuple[str, str]:
    if not need.kept and need.num_bytes > room.disk:
        raise UserError(
            f"data.feed={asked}: {size}, but {gigabytes(room.disk)} free for the cache; set data.cache_dir, or data.feed=files"
        )
    if asked == "device" and room.device is not None and need.num_bytes > room.device:
        raise UserError(f"data.feed=device: {size}, but {gigabytes(room.device)} free on the device; set data.feed=ram")
    return asked, f"asked for, {size}"


def gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"


def free_memory() -> int:
    """Bytes that this machine, or the container in it, still has for data."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        limit, used = (Path("/sys/fs/cgroup", name).read_text().strip() for name in ("memory.max", "memory.current"))
        return available if limit == "max" else min(available, max(0, int(limit) - int(used)))
    except (OSError, ValueError):
        return available


def free_disk(folder: Path) -> int:
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    return shutil.disk_usage(existing).free

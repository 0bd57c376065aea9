"""Which process a run belongs to, and whether that one still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path


def this_process() -> dict[str, str]:
    """Tags of a run: host, number, and when it started, since numbers are used again."""
    return {"host": socket.gethostname(), "pid": str(os.getpid()), "pid_started": start_of(os.getpid()) or ""}


def start_of(pid: int) -> str | None:
    """The start of the machine and, since then, that of a process (Linux); None where there is none of this number, or it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # after the name, which may hold anything
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def alive(tags: Mapping[str, str]) -> bool:
    """Returns whether the process of a run of this host is alive, by its tags. Runs of earlier versions do not say when they started: their number
    alone counts."""
    pid = tags.get("pid", "")
    found = start_of(int(pid)) if pid.isdigit() else None
    return found is not None and tags.get("pid_started", found) == found


def of_this_host(tags: Mapping[str, str]) -> bool:
    return tags.get("host") == socket.gethostname()

"""What the C library does with freed memory in a process of a peer. Candidates share a process, so it is set before each one's turn, and ours by
`keep_freed_memory`."""

from __future__ import annotations

from facenet.devices.host_memory import tuner

# What glibc's own rule comes to in a process that has freed blocks of 32 MiB: larger ones are mapped each by itself, and 64 MiB are kept.
GLIBC = {
    "M_MMAP_MAX": (-4, 65536),
    "M_MMAP_THRESHOLD": (-3, 2**25),
    "M_TRIM_THRESHOLD": (-1, 2**26),
    "M_TOP_PAD": (-2, 2**17),
}


def as_peers() -> None:
    mallopt = tuner()
    if mallopt is not None:
        for setting in GLIBC.values():
            mallopt(*setting)

"""Paths below a home directory, which not every process has: a container's user may have no name, or none that it can write."""

from __future__ import annotations

import os
from pathlib import Path


def expand_home(path: str | Path) -> Path:
    """With the home directory for a leading `~`; as it is where there is none, so that a message names what was given."""
    return Path(os.path.expanduser(path))


def writable_place(place: Path) -> bool:
    """Whether files could be put there, or into a folder that can be made there."""
    nearest = next(folder for folder in (place, *place.parents) if os.path.exists(folder))
    return os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)

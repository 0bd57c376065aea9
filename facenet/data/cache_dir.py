"""Where what can be made again is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """$FACENET_CACHE, else facenet in $XDG_CACHE_HOME, else ~/.cache/facenet."""
    if chosen := os.environ.get("FACENET_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "facenet"

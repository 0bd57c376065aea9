"""Where what can be made again is kept."""

from __future__ import annotations

import os
from pathlib import Path

from facenet.files.home import expand_home, writable_place


def cache_dir() -> Path | None:
    """$FACENET_CACHE, else facenet in $XDG_CACHE_HOME, else ~/.cache/facenet. None where nothing can be kept: no home directory, or one that
    cannot be written."""
    if chosen := os.environ.get("FACENET_CACHE"):
        place = expand_home(chosen)
    else:
        base = expand_home(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        if str(base).startswith("~"):
            return None
        place = base / "facenet"
    return place.absolute() if writable_place(place.absolute()) else None

"""Which checkpoints are of this user's own runs, so that what they say may be opened: their configs carry a mark that only a key in this user's
cache makes. Whoever changes the config, or has no such key, has no such mark."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

from facenet.files.cache_dir import cache_dir

NAME, LENGTH = "own_runs.key", 64


def mark(config: dict[str, Any]) -> str | None:
    """Of a config as a checkpoint has it; None where nothing can be kept, so that no run is known again."""
    found = key()
    text = json.dumps(config, sort_keys=True).encode()
    return None if found is None else hmac.new(found, text, "sha256").hexdigest()


def is_own(content: dict[str, Any]) -> bool:
    """Whether a loaded checkpoint was written by this user's own training."""
    stored = content.get("own")
    with contextlib.suppress(KeyError, ValueError, TypeError, RecursionError):
        expected = mark(content["config"])
        return (
            isinstance(stored, str) and expected is not None and hmac.compare_digest(expected.encode(), stored.encode())
        )
    return False


def key() -> bytes | None:
    """Made at its first use; one that another user made, or can read, is none."""
    folder = cache_dir()
    if folder is None:
        return None
    path = folder / NAME
    with contextlib.suppress(OSError, ValueError):
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            made_once(path, secrets.token_hex(LENGTH // 2).encode())
        with path.open("rb") as file:
            state, found = os.fstat(file.fileno()), file.read(LENGTH + 1)
        own = state.st_uid == os.geteuid() and not state.st_mode & 0o077  # a shared cache may hold another user's
        return found if own and len(found) == LENGTH else None
    return None


def made_once(path: Path, content: bytes) -> None:
    """Whole or absent, and never in the place of another process's: a link to a file that is written takes no name twice."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(file, content)
    finally:
        os.close(file)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink()

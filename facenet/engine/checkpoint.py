"""One checkpoint format: versioned, written atomically, loadable without executing anything in it, and enough by itself for use.

It carries the resolved config (so backbone and preprocessing), the identities, the chosen threshold with its unit, metrics and the run id.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import torch

from facenet.errors import UserError

FORMAT, VERSION = "facenet-checkpoint", 1
FIELDS = {
    "config": dict,
    "identities": list,
    "embedder": dict,
    "loss": dict,
    "epoch": int,
    "step": int,
    "metrics": dict,
}


def save(content: dict[str, Any], path: Path) -> None:
    """Writes beside the target and renames, so that a reader or a crash never meets half a file. Raises UserError on a full or
    read-only disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"checkpoint: {path} cannot be written ({error}); free space or set hydra.run.dir") from error
    finally:
        with contextlib.suppress(OSError):  # after the rename it is gone; below a file it cannot be
            temporary.unlink()


def load(path: str | Path) -> dict[str, Any]:
    """The content on the CPU. Raises UserError for a missing, damaged or foreign file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint={path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes surface as almost any type: RuntimeError, IndexError, ...
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        if isinstance(error, pickle.UnpicklingError):  # torch's words advise to load it without this protection
            reason = "it holds more than tensors and plain values, or broken bytes; nothing in it was run"
        raise UserError(f"checkpoint={path}: damaged, or no checkpoint ({reason})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"checkpoint={path}: holds bare weights; give it as weights={path} with backbone=...")
    if content.get("version") != VERSION:
        raise UserError(f"checkpoint={path}: format version {content.get('version')}, this facenet reads {VERSION}")
    wrong = [name for name, kind in FIELDS.items() if not isinstance(content.get(name), kind)]
    if wrong:
        raise UserError(f"checkpoint={path}: damaged, {wrong[0]!r} is missing or of another type")
    return content


class Keeper:
    """Writes `last.pt` at each call, `best.pt` when the score improved, and keeps the newest `keep` of `epoch-NNN.pt`."""

    def __init__(self, directory: Path, *, keep: int) -> None:
        self.directory, self.keep = directory, keep
        self.last = directory / "last.pt"
        self.best: float | None = None
        self.written: list[Path] = []

    def restore(self, best: float | None) -> None:
        """Goes on with the files that an earlier process left here."""
        self.best, self.written = best, sorted(self.directory.glob("epoch-*.pt"))

    def save(self, content: dict[str, Any], *, score: float | None, finished_epoch: bool) -> Path:
        """`score`: higher is better; None when nothing was tested. Returns the path of `last.pt`."""
        save(content, self.last)
        if score is not None and (self.best is None or score > self.best):
            self.best = score
            link(self.last, self.directory / "best.pt")
        if finished_epoch and self.keep > 0:
            numbered = self.directory / f"epoch-{content['epoch']:03d}.pt"
            link(self.last, numbered)
            self.written.append(numbered)
            for old in self.written[: -self.keep]:
                old.unlink(missing_ok=True)
            self.written = self.written[-self.keep :]
        return self.last


def link(source: Path, target: Path) -> None:
    """The same bytes under a second name, without a second write (`last.pt` is replaced, never changed in place)."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:  # a file system without hard links
        temporary.write_bytes(source.read_bytes())
    os.replace(temporary, target)

"""One checkpoint format: versioned, written atomically, loadable without executing anything in it, and enough by itself for use.

It carries the resolved config (so backbone and preprocessing), the identities, the chosen threshold with its unit, metrics and the run id.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from facenet import tensor_file
from facenet.atomic import replacing
from facenet.errors import UserError
from facenet.plain import plain

FORMAT, VERSION = "facenet-checkpoint", 1
SEAL, COMMENT_LENGTH = b"facenet sha256 ", 2  # the field before a zip file's comment, which is its end
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
    """A reader or a crash meets the old file or the whole new one. Raises UserError on a full or read-only disk."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    write(content, path)


def write(content: dict[str, Any], path: Path) -> None:
    """`save` into a directory that must be there: made anew, that of a mount that has vanished would be on another disk."""
    try:
        with replacing(path) as partial:
            partial.touch()  # says why it cannot be made, where torch would not
            torch.save(
                {"format": FORMAT, "version": VERSION, **content}, partial
            )  # a path: torch then lets other threads run
            seal(partial)
    except (OSError, RuntimeError) as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: Exception) -> UserError:
    """torch's own words for a full disk are "unexpected pos 576 vs 534"."""
    reason = error.strerror if isinstance(error, OSError) else "torch could not write all of it"
    try:
        reason = f"{reason}; {shutil.disk_usage(path.parent).free / 2**20:,.0f} MiB are free there"
    except OSError:
        reason = f"{reason}; {path.parent} is not there"
    return UserError(f"checkpoint: {path} cannot be written ({reason}); free space or set hydra.run.dir")


def load(path: str | Path) -> dict[str, Any]:
    """The content on the CPU. Raises UserError for a missing, damaged or foreign file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint={path}: no such file")
    try:
        check_seal(path)
        content = tensor_file.load(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{error}; nothing in it was run"
        raise UserError(f"checkpoint={path}: damaged, or no checkpoint ({reason})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"checkpoint={path}: holds bare weights; give it as weights={path} with backbone=...")
    if content.get("version") != VERSION:
        raise UserError(f"checkpoint={path}: format version {content.get('version')}, this facenet reads {VERSION}")
    wrong = [name for name, kind in FIELDS.items() if not isinstance(content.get(name), kind)]
    if wrong:
        raise UserError(f"checkpoint={path}: damaged, {wrong[0]!r} is missing or of another type")
    content["config"] = plain(content["config"], f"checkpoint={path}: damaged, config")
    return content


def seal(path: Path) -> None:
    """Adds the SHA-256 of all that torch wrote as the comment of its zip file, which torch.load passes over. A zip file has checksums of
    its records, but torch.load ignores them, and they do not cover the list of records: damage there loads as other weights."""
    comment = SEAL + digest(path, COMMENT_LENGTH).encode()
    with path.open("r+b") as file:
        file.seek(-COMMENT_LENGTH, os.SEEK_END)
        file.write(len(comment).to_bytes(COMMENT_LENGTH, "little") + comment)


def check_seal(path: Path) -> None:
    """Raises ValueError for bytes that are not those written. A file of an earlier facenet has no seal."""
    length = COMMENT_LENGTH + len(SEAL) + 64
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - length))
        end = file.read()
    whole = end[COMMENT_LENGTH:].startswith(SEAL)
    if SEAL in end and not (whole and end[-64:] == digest(path, length).encode()):
        raise ValueError("its checksum is wrong")


def digest(path: Path, end: int) -> str:
    """SHA-256 of the file without its last `end` bytes."""
    left, found = path.stat().st_size - end, hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(min(left, 2**20)):
            found.update(part)
            left -= len(part)
    return found.hexdigest()


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

    def open(self) -> None:
        """Makes the directory, once. Raises UserError where that cannot be."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.last, error) from error

    def save(self, content: dict[str, Any], *, score: float | None, finished_epoch: bool) -> Path:
        """`score`: higher is better; None when nothing was tested. Returns the path of `last.pt`. An older file goes only after the new one
        is complete."""
        write(content, self.last)
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
    try:
        with replacing(target) as partial:
            partial.unlink(missing_ok=True)
            try:
                os.link(source, partial)
            except OSError:  # a file system without hard links
                shutil.copyfile(source, partial)
    except OSError as error:
        raise unwritable(target, error) from error

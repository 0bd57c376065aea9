"""One checkpoint format: versioned, written atomically, loadable without executing anything in it, and enough by itself for use.

It carries the resolved config (so backbone and preprocessing), the identities, the chosen threshold with its unit, metrics and the run id.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from facenet.errors import UserError
from facenet.files import tensor_file
from facenet.files.atomic import replacing
from facenet.files.plain import plain
from facenet.files.renamed import renamed
from facenet.files.run_dir import Checkpoints, RunDir

log = logging.getLogger(__name__)
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
            # A path: torch then lets other threads run.
            torch.save({"format": FORMAT, "version": VERSION, **content}, partial)
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
    if os.path.isdir(path):
        places = (RunDir(path).checkpoints.best, Checkpoints(path).best)
        best = next((each for each in places if each.is_file()), None)
        raise UserError(f"checkpoint={path}: a directory; name a file in it" + (f": checkpoint={best}" if best else ""))
    if not os.path.isfile(path):
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
    content["config"] = renamed(plain(content["config"], f"checkpoint={path}: damaged, config"))
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
    """Writes `last.pt` at each call, `best.pt` when the score improved, and keeps the newest `keep` of `epoch-NNN.pt`.

    A kill may come between any two of these writes. `last.pt` is the first, and says in `best` which epoch's network `best.pt` has to hold, so
    that `restore` can make the others anew."""

    def __init__(self, directory: Path, *, keep: int) -> None:
        self.files, self.keep = Checkpoints(directory), keep
        self.best: float | None = None
        self.written: list[Path] = []
        self.mending: Callable[[], None] | None = None

    def restore(self, content: dict[str, Any], source: Path, *, best_anew: bool = False) -> bool:
        """Goes on from the checkpoint `source` with the files that an earlier process left here; what a kill kept it from writing is
        written, at once where that is the last one's, else with the first checkpoint of this process: until then the run is what it was.
        Returns whether there is a network of the epoch that the checkpoint calls best, or no such epoch. best_anew: there is none for this run."""
        row, own = content["best"]["row"], source == self.files.last
        others = [self.files.best, source, self.files.last, *self.files.numbered(), *self.files.set_aside()]
        found = None
        if row and not best_anew:
            found = next((path for path in others if is_best(content, source, path)), None)
        whole = found is not None or best_anew or not row
        self.best = content["best"]["score"] if whole and not best_anew else None
        if own and content["metrics"]:
            self.add_numbered(source, content["epoch"])
        self.mending = functools.partial(self.mend, content, source, found, best_anew=best_anew)
        if own and not best_anew:
            self.mending()
        return whole

    def mend(self, content: dict[str, Any], source: Path, found: Path | None, *, best_anew: bool) -> None:
        """Makes the other files those of the run up to the checkpoint. May be called again where a disk was full."""
        if content["metrics"] and source.is_file() and source != self.files.last:
            self.add_numbered(source, content["epoch"])
        if content["best"]["row"] and found != self.files.best:
            self.set_aside(0 if best_anew else content["epoch"])
            if found is not None:
                link(found, self.files.best)
                log.warning("%s is made anew from %s", self.files.best, found.name)
        known = self.files.numbered()
        later = [path for path in known if known[path] > content["epoch"]]  # where the run goes back: the first to go
        self.written = [*later, *(path for path in known if path not in later)]
        if not later:
            self.drop_oldest()
        self.mending = None

    def set_aside(self, epoch: int) -> None:
        """Keeps a `best.pt` of a later epoch than that from which the run goes on, under another name."""
        try:
            later = load(self.files.best)["epoch"]
        except UserError:
            return
        if later > epoch:
            kept = self.files.best_of(later)
            self.files.best.replace(kept)
            log.warning(
                "%s, of epoch %d, is not of what the run goes on from; it is now %s", self.files.best, later, kept
            )

    def open(self) -> None:
        """Makes the directory, once. Raises UserError where that cannot be."""
        try:
            self.files.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.files.last, error) from error

    def save(self, content: dict[str, Any], *, score: float | None, finished_epoch: bool) -> Path:
        """`score`: higher is better; None when nothing was tested. Returns the path of `last.pt`. An older file goes only after the new one
        is complete."""
        write(content, self.files.last)
        if self.mending is not None:
            self.mending()
        if score is not None and (self.best is None or score > self.best):
            link(self.files.last, self.files.best)
            self.best = score
        if finished_epoch:
            self.add_numbered(self.files.last, content["epoch"])
            self.drop_oldest()
        return self.files.last

    def add_numbered(self, source: Path, epoch: int) -> None:
        """`source` as `epoch-NNN.pt`, where any are kept."""
        path = self.files.of_epoch(epoch)
        if self.keep > 0:
            if not (path.exists() and path.samefile(source)):
                link(source, path)
            self.written = [*(other for other in self.written if other != path), path]

    def drop_oldest(self) -> None:
        """All but the newest `keep`; where none are to be written, those of an earlier part of the run stay."""
        if self.keep > 0:
            for old in self.written[: -self.keep]:
                old.unlink(missing_ok=True)
            self.written = self.written[-self.keep :]


def is_best(content: dict[str, Any], source: Path, path: Path) -> bool:
    """Whether `path` holds the network of the epoch that the checkpoint `content`, read from `source`, calls best."""
    try:
        other = content if path.exists() and path.samefile(source) else load(path)
    except UserError:
        return False
    return repr(other["metrics"]) == repr(content["best"]["row"])  # NaN equals itself in a text


def link(source: Path, target: Path) -> None:
    """Gives a file a second name, without a second write (`last.pt` is replaced, never changed in place)."""
    try:
        with replacing(target) as partial:
            partial.unlink(missing_ok=True)
            try:
                os.link(source, partial)
            except OSError:  # a file system without hard links
                shutil.copyfile(source, partial)
    except OSError as error:
        raise unwritable(target, error) from error

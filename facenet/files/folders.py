"""Folders that are there whole or not at all, and are written by one process at a time."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facenet.errors import UserError
from facenet.files.atomic import own

MARK = ".facenet-is-writing"


class BeingWritten(UserError):
    """By another process."""


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` at the end, and is removed after an error. UserError where `target` exists or is being written.

    The lock is on the folder itself: it ends with its holder, however that ends, and what a killed one left is cleared. That is known by a
    mark in it: a link, or a folder of the same name without the mark, is somebody's and stays as it is."""
    partial = partial_of(target)
    _refuse_existing(target)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if partial.is_symlink():
            raise UserError(f"{partial}: is a link, which is not followed; remove it or choose another place") from None
        raise UserError(f"{target}: cannot be written ({error.strerror}); choose another place") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BeingWritten(
                f"{target}: another command is writing it; wait for it, or choose another place"
            ) from None
        except OSError as error:
            raise UserError(
                f"{target}: cannot be locked there ({error.strerror}); choose a place on a local disk"
            ) from error
        _refuse_existing(target)  # the other one may have ended just now
        try:
            _clear(partial)
            yield partial
            _flush(partial)
            (partial / MARK).unlink()
            partial.rename(target)
        except OSError as error:
            raise UserError(
                f"{target}: cannot be written ({error.strerror}); free the disk or choose another place"
            ) from error
        finally:
            if (partial / MARK).exists():
                shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(lock)


def partial_of(target: Path) -> Path:
    """Where a folder stands while it is written."""
    return target.with_name(f".{target.name}.facenet-partial")


def _refuse_existing(target: Path) -> None:
    if os.path.exists(target):
        raise UserError(f"{target}: exists; choose another place or remove it")


def _clear(folder: Path) -> None:
    """Raises UserError for a folder with content that no command of ours began."""
    mark = folder / MARK
    if not mark.is_file() and any(folder.iterdir()):
        raise UserError(f"{folder}: holds files that facenet did not write; move them or choose another place")
    os.close(own(mark, os.O_WRONLY | os.O_CREAT))
    for left in folder.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        elif left.name != MARK:
            left.unlink()


def _flush(folder: Path) -> None:
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.fsync(file.fileno())

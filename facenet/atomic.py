"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from facenet.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A neighbour to write to. At the end it takes the place of `path`, on the disk too; after an exception nothing has changed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        sync(partial)  # before the rename: a crash of the machine could keep the name and lose the bytes
        os.replace(partial, path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # after the rename it is gone; below a file it cannot be
            partial.unlink()


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tidy(directory: Path) -> None:
    """Removes what a killed process was writing, here and in folders below. Only while no other process writes there."""
    for leftover in directory.rglob(".*.partial"):
        leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def writable(directory: Path) -> Iterator[None]:
    """What a disk refuses becomes a UserError that names the file."""
    try:
        yield
    except OSError as error:
        where = error.filename or directory
        raise UserError(f"{where}: cannot be written ({error.strerror}); free space or set hydra.run.dir") from error

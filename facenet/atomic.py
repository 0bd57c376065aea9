"""Files that are whole or absent, whatever happens while they are written, and directories for one command at a time."""

from __future__ import annotations

import contextlib
import fcntl
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
def alone_in(directory: Path, key: str, does: str) -> Iterator[None]:
    """Raises UserError while another command has the directory, which `key` names in the config. The lock ends with the process that holds it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    except OSError as error:
        raise UserError(f"{key}={directory}: cannot be written ({error.strerror}); choose another") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{key}={directory}: another command {does} there; wait for it or choose another") from None
        yield


@contextlib.contextmanager
def writable(directory: Path) -> Iterator[None]:
    """What a disk refuses becomes a UserError that names the file."""
    try:
        yield
    except OSError as error:
        where = error.filename or directory
        raise UserError(f"{where}: cannot be written ({error.strerror}); free space or set hydra.run.dir") from error

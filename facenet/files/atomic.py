"""Files that are whole or absent, whatever happens while they are written, and directories for one command at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from facenet.errors import UserError, shown

log = logging.getLogger(__name__)

# Of what is being written: with our mark, so that a file of the user's is never taken for it, and a name that nobody can have put a link at.
PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}\.facenet-partial")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A neighbour to write to. At the end it takes the place of `path`, on the disk too; after an exception nothing has changed."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.facenet-partial")
    try:
        yield partial
        sync(partial)  # before the rename: a crash of the machine could keep the name and lose the bytes
        os.replace(partial, path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # after the rename it is gone; below a file it cannot be
            partial.unlink()


def own(path: str | Path, flags: int) -> int:
    """An opener (of `open` and `os.open` alike) for files that a command keeps under a known name: a link at that name is not followed, for
    whoever made the directory may have put it there, and nothing is written into a pipe. Raises UserError that names it."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode) or stat.S_ISCHR(mode):  # the system's own, such as /dev/null
            return descriptor
        os.close(descriptor)
        raise UserError(f"{path}: is no ordinary file; remove it or choose another directory")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(
                f"{path}: is a link, and what a command writes follows none; remove it or choose another directory"
            ) from None
        if error.errno in (errno.ENXIO, errno.EISDIR):  # a pipe that nobody reads, a folder
            raise UserError(f"{path}: is no ordinary file; remove it or choose another directory") from None
        raise


def refuse_links(directory: Path, names: tuple[str, ...]) -> None:
    """Raises UserError where a folder that a command writes below `directory` is a link to elsewhere."""
    for name in names:
        if (directory / name).is_symlink():
            raise UserError(
                f"{directory / name}: is a link, and what a command writes follows none; put the folder itself there, "
                "or have the whole run elsewhere: hydra.run.dir=..."
            )


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tidy(directory: Path, folders: tuple[str, ...] = ()) -> None:
    """Removes what a killed process of ours was writing, here and in these folders, and nothing of anybody else's. Only while no other
    process writes there."""
    for place in (directory, *(directory / name for name in folders)):
        for leftover in place.glob(".*.facenet-partial"):
            if PARTIAL.fullmatch(leftover.name):
                with contextlib.suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                    leftover.unlink()


@contextlib.contextmanager
def alone_in(directory: Path, key: str, does: str) -> Iterator[int]:
    """Raises UserError while another command has the directory, which `key` names in the config. The lock ends with the last process that holds
    its descriptor, which is what one gets. Hosts that share a folder need not see each other's locks: the file names who has it, too."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(own(directory / ".lock", os.O_RDWR | os.O_CREAT), "r+", encoding="utf-8")  # noqa: SIM115  closed below
    except OSError as error:
        raise UserError(f"{key}={directory}: cannot be written ({error.strerror}); choose another") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = f"{key}={directory}: another command {does} there{holder(lock)}; wait for it or choose another"
            raise UserError(told) from None
        except OSError as error:  # NFS without its lock daemon, some file systems of FUSE
            log.warning("%s has no locks (%s): nothing keeps a second command out", directory, error.strerror)
        here = f" of host {socket.gethostname()}"
        if (before := holder(lock)) and not before.endswith(f"{here})"):
            log.warning("%s: the command before%s did not end by itself; look whether it still runs", directory, before)
        note(lock, f"process {os.getpid()}{here}\n")
        try:
            yield lock.fileno()
        finally:
            note(lock, "")


def note(lock: IO[str], text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk, or one that is gone: the lock is the kernel's
        os.ftruncate(lock.fileno(), 0)
        os.pwrite(lock.fileno(), text.encode(), 0)


def holder(lock: IO[str]) -> str:
    """In brackets, for a message; empty where the last one ended by itself."""
    told = os.pread(lock.fileno(), 200, 0).decode(errors="replace").strip()
    return f" ({shown(told)})" if told else ""


@contextlib.contextmanager
def writable(directory: Path) -> Iterator[None]:
    """What a disk refuses becomes a UserError that names the file."""
    try:
        yield
    except OSError as error:
        where = error.filename or directory
        raise UserError(f"{where}: cannot be written ({error.strerror}); free space or set hydra.run.dir") from error


def is_full(error: BaseException) -> bool:
    """Whether a disk, a quota or a limit of files is used up, by the system's words or a database's."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return any(words in str(error) for words in (os.strerror(errno.ENOSPC), "database or disk is full"))

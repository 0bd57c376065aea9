"""Files of others: only regular ones, since a pipe waits for ever and a device does not end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

LARGEST = 10_000_000  # bytes of what commands note for each other


def regular(path: str, flags: int) -> int:
    """An `opener` for open(). Raises OSError for whatever is no regular file."""
    file = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(file).st_mode
    if not stat.S_ISREG(mode):
        os.close(file)
        raise (
            IsADirectoryError(errno.EISDIR, "Is a directory")
            if stat.S_ISDIR(mode)
            else OSError(errno.EINVAL, "not a regular file")
        )
    return file


def text_of(path: Path) -> str:
    """Of a note that a command left in its directory, which may be anybody's. Raises OSError for what is no regular file or larger than a note is,
    ValueError for what is no text."""
    with open(path, "rb", opener=regular) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise OSError(errno.EFBIG, f"more than {LARGEST:,} bytes", str(path))
    return content.decode("utf-8")

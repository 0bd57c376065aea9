"""Files of others: only regular ones, since a pipe waits for ever and a device does not end."""

from __future__ import annotations

import errno
import os
import stat


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

"""Files of others: only regular ones, since a pipe waits for ever and a device does not end; and text in the encodings in which people have it."""

from __future__ import annotations

import codecs
import errno
import io
import os
import stat
from pathlib import Path

LARGEST = 10_000_000  # bytes of what commands note for each other
BLOCK = 1 << 16  # bytes by which a text's encoding and line ends are known
MARKS = {  # UTF-32's first: the one of UTF-16 begins it
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


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


def reason_of(path: Path) -> str | None:
    """Why nothing can be said of a place, in the system's words; None where it simply is not there. Path.is_file() and its like raise then."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror
    except ValueError as error:  # a zero byte
        return str(error)
    return None


def text_of(path: Path) -> str:
    """Returns the text of a note that a command left in its directory, which may be anybody's. Raises OSError for what is no regular file or larger
    than a note is, ValueError for what is no text."""
    with open(path, "rb", opener=regular) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise OSError(errno.EFBIG, f"more than {LARGEST:,} bytes", str(path))
    return content.decode("utf-8")


def encoding_of(beginning: bytes) -> str:
    """How a text is written that begins so: UTF-8, with a byte order mark or none, or what spreadsheets and PowerShell write, UTF-16. Without a mark
    that is told by the zero byte that every second one is, of letters, digits and separators of ASCII."""
    for mark, encoding in MARKS.items():
        if beginning.startswith(mark):
            return encoding
    sample = beginning[:1024]
    first, second = sample[::2].count(0), sample[1::2].count(0)
    if 6 * max(first, second) < max(1, len(sample)) or 4 * min(first, second) > max(first, second):
        return "utf-8-sig"
    return "utf-16-le" if second > first else "utf-16-be"


def decoded(content: bytes, errors: str = "strict") -> str:
    """Raises ValueError for what is no text, where `errors` is strict."""
    return content.decode(encoding_of(content), errors)


def open_text(path: Path, *, any_bytes: bool = False, lf_only: bool = False) -> io.TextIOWrapper:
    """A list, in any encoding that `encoding_of` knows and with line ends of LF, CR LF or CR. any_bytes: names of files in no encoding pass, as
    surrogates. lf_only: a CR within a line that ends with LF stays. Raises OSError for what is no regular file; reading raises ValueError for what
    is no text."""
    if "\0" in os.fspath(path):  # else a ValueError, which is for a text that is none
        raise OSError(errno.EINVAL, "a zero byte in its name", os.fspath(path))
    file = io.BufferedReader(io.FileIO(os.fspath(path), opener=regular), BLOCK)
    try:
        beginning = file.peek(BLOCK)
        encoding = encoding_of(beginning)
        newline = None
        if lf_only:
            sample = beginning.decode(encoding, "ignore")
            newline = "\n" if "\n" in sample or "\r" not in sample else "\r"
        errors = "surrogateescape" if any_bytes and encoding == "utf-8-sig" else "strict"
        return io.TextIOWrapper(file, encoding, errors, newline)
    except BaseException:
        file.close()
        raise

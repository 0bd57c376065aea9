"""What a command does not find everywhere: streams that can be written, and a home directory."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import sys
from typing import Any, TextIO


class Output(io.FileIO):
    """Drops what it cannot write: the reader of a pipe has ended (`| head`), the terminal is closed, the disk is full."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def settle() -> None:
    """For the first line of a command."""
    keep_open()
    # A container's user without a name: MLflow and others fail without a path to look below.
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = os.devnull
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # two long lines where it cannot write below that
    pass_over_matplotlibrc()


def say_loading(command: str, what: str) -> None:
    """Tells who waits at a terminal that a command has begun: on a busy machine imports take up to a minute."""
    if sys.stderr.isatty():
        print(f"{command}: loading {what}", file=sys.stderr, flush=True)


def pass_over_matplotlibrc() -> None:
    """Matplotlib takes its settings from the working directory before all others, and that may be anybody's: they have LaTeX run on what they say,
    and its older versions evaluate some. Where there is such a file it is imported from elsewhere, while there is one thread."""
    if "matplotlib" in sys.modules or not os.path.lexists("matplotlibrc"):
        return
    here = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))
    try:
        os.chdir(os.sep)
        with contextlib.suppress(ImportError):
            importlib.import_module("matplotlib")
    finally:
        os.fchdir(here)
        os.close(here)


def keep_open() -> None:
    """What is printed and cannot be written is dropped, and ends nothing. A closed stream (`>&-`) leads nowhere from now on: its number would go
    to the next file that is opened, a database or a checkpoint, and what processes print would come into it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(nowhere, True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None or stream is getattr(sys, f"__{name}__"):  # else somebody catches it, as pytest does
            setattr(sys, name, dropping(number, stream))


def dropping(number: int, before: TextIO | None) -> TextIO:
    """Returns a stream of the same encoding; line by line on a terminal and for errors."""
    if before is not None:
        with contextlib.suppress(OSError):
            before.flush()
    raw = Output(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors=getattr(before, "errors", None) or "backslashreplace",
        line_buffering=number == 2 or os.isatty(number),
    )

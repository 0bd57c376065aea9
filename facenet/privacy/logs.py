"""What is logged: in a form that a terminal shows as it is, without secrets, and with no line that looks like one of another record."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator

from facenet.errors import printable
from facenet.privacy.addresses import mask


class Guarded(logging.Formatter):
    """Before another formatter, whose own colours stay."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self.inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        told = copy.copy(record)
        told.msg, told.args = indented(printable(mask(record.getMessage()))), ()
        record.message = told.msg  # as every formatter of logging leaves it
        if record.exc_info or record.exc_text:
            told.exc_text = printable(mask(record.exc_text or self.formatException(record.exc_info)))  # type: ignore[arg-type]
            told.exc_info = None
        return self.inner.format(told)


def indented(text: str) -> str:
    first, *others = text.split("\n")
    return "\n".join([first, *(line if line[:1] in ("", " ", "\t") else f"  {line}" for line in others)])


def guard_logs(*names: str) -> None:
    """Guards the root logger and those named, every handler that they have by now, and of the one that Python has where there is none."""
    for handler in handlers_of(*names):
        if not isinstance(handler.formatter, Guarded):
            handler.setFormatter(Guarded(handler.formatter))


@contextlib.contextmanager
def guarded_logs() -> Iterator[None]:
    """Inside, the root logger is guarded; afterwards its handlers are as they were."""
    before = [(handler, handler.formatter) for handler in handlers_of()]
    guard_logs()
    try:
        yield
    finally:
        for handler, formatter in before:
            handler.setFormatter(formatter)


def handlers_of(*names: str) -> list[logging.Handler]:
    found = [handler for name in ("", *names) for handler in logging.getLogger(name or None).handlers]
    return [handler for handler in (*found, logging.lastResort) if handler is not None]

"""Mistakes of the user, and how a command ends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

USER, FAILURE, INTERRUPTED = 2, 1, 130


class UserError(Exception):
    """A mistake that the user can correct; the message is one line that names the file, key or flag and the way out."""


def shown(text: str) -> str:
    """A name from outside as one line that any log, terminal or JSON file can hold: quoted and escaped where it has line breaks, control
    characters or bytes that are no UTF-8."""
    return text if text.isprintable() else ascii(text)


def fail(message: str, code: int) -> NoReturn:
    """Ends the command with a message on stderr, after what it said so far."""
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)


class Halted(Exception):
    """A run that was ended because it went wrong; the message is one paragraph that says why and what to try."""


@contextlib.contextmanager
def told() -> Iterator[None]:
    """A user's mistake becomes its message and exit code 2, Ctrl-C one word and 130."""
    try:
        yield
    except UserError as error:
        fail(str(error), USER)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)

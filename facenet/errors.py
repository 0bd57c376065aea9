"""Mistakes of the user, and how a command ends."""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from collections.abc import Iterator
from typing import NoReturn

USER, FAILURE, INTERRUPTED = 2, 1, 130


class UserError(Exception):
    """A mistake that the user can correct; the message is one line that names the file, key or flag and the way out."""


def check_least(key: str, value: float, least: int = 1) -> None:
    """Raises UserError for a number below the least."""
    if value < least:
        raise UserError(f"{key}: expected {least} or more, got {value}")


def shown(text: str) -> str:
    """A name from outside as one line that any log, terminal or JSON file can hold. Line breaks, control characters, those that turn the direction
    of writing or cannot be seen, and bytes that are no UTF-8 are spelled as in Python; letters of all languages stay."""
    return text if text.isprintable() else "".join(map(spelled, text))


def printable(text: str) -> str:
    """Returns a text of several lines with each of them as `shown` makes it."""
    return "\n".join(
        part if part.isprintable() else "\t".join(map(shown, part.split("\t"))) for part in text.split("\n")
    )


def in_picture(name: str) -> str:
    """Returns a text for matplotlib, which sets text between dollar signs as a formula, and fails for what is none."""
    return shown(name).replace("$", r"\$")


def spelled(letter: str) -> str:
    odd = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    return ascii(letter)[1:-1] if odd else letter


def fail(message: str, code: int) -> NoReturn:
    """Ends the command with a message on stderr, after what it said so far."""
    sys.stdout.flush()
    print(printable(message), file=sys.stderr, flush=True)
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

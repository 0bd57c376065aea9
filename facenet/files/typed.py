"""Lines for people to type: words as a shell reads them, overrides as Hydra does, whatever a name holds."""

from __future__ import annotations

import os
import re
import shlex

PLAIN = re.compile(r"(?:\.{0,2}/|[A-Za-z_])[\w./+@-]*", re.ASCII)  # what needs no quotes of Hydra's, and is no number
WORDS = ("true", "false", "null", "nan", "inf")


def command(*words: str) -> str:
    """One line that a shell takes apart into these words."""
    return " ".join(map(quoted, words))


def naming(program: str, name: str, *flags: str) -> str:
    """The line for a program with flags of its own that takes this name, also one that begins as a flag does."""
    return command(program, *flags, "--", name) if name.startswith("-") else command(program, name, *flags)


def quoted(word: str) -> str:
    """A word for a shell, as printed: what a terminal does not show (line breaks, joiners of emoji, bytes that are no UTF-8) is spelled in bytes."""
    if word.isprintable():
        return shlex.quote(word)
    letters = (
        letter
        if letter.isprintable() and letter not in "'\\"
        else "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))
        for letter in word
    )
    return f"$'{''.join(letters)}'"


def override(key: str, value: object) -> str:
    """A word for Hydra, which takes little but letters of ASCII and digits without quotes."""
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in WORDS:
        return f"{key}={text}"
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + found[2].replace('"', '\\"'), text)
    return f'{key}="{escaped}"'

"""Names of runs and settings in the words of the field, at most 40 characters long: `lr 2e-3 · bs 96`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath

from facenet.errors import shown
from facenet.privacy.addresses import mask

LONGEST, SHORTEST = 40, 6  # characters of a name, and of a word in it that had to be cut
WHOLE = ("lr ", "bs ")
WORDS = {
    **{"optimizer.lr": "lr", "data.batch_size": "bs", "optimizer.weight_decay": "wd", "trainer.max_steps": "steps"},
    **{"backbone.embedding_size": "dim", "data.image_size": "px", "trainer.ema_decay": "ema", "trainer.epochs": "ep"},
}


def axes_name(axes: Mapping[str, str], last: str) -> str:
    """Of a setting of a sweep by its swept values, learning rate and batch first. `last` stands for those that find no place."""
    order = [key for key in ("optimizer.lr", "data.batch_size") if key in axes]
    return fitted([worded(key, axes[key], axes) for key in (*order, *(key for key in axes if key not in order))], last)


def worded(key: str, value: str, axes: Iterable[str] = ()) -> str:
    """`lr 2e-3` for optimizer.lr=0.002, `mobilenet_v1` for backbone=mobilenet_v1. Keys that end alike keep what they differ in."""
    value = PurePath(value).name if value.startswith("/") else value
    if "." not in key and key != "seed":
        return value
    word = WORDS.get(key, key.rpartition(".")[2])
    if sum(each.rpartition(".")[2] == key.rpartition(".")[2] for each in axes) > 1 and key not in WORDS:
        word = ".".join(part for part in key.split(".") if part not in ("loss", "terms", "backbone", "data"))
    return f"{word} {short_number(value)}"


def short_number(text: str) -> str:
    """2e-3 for 0.002 and 2.0e-03; what is no number as it is."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text):
        return text
    plain = f"{float(text):g}"
    if "e" not in plain and len(plain) <= 4:
        return plain
    mantissa, _, power = f"{float(text):.3e}".partition("e")
    return min(plain, f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}", key=len)


def fitted(parts: list[str], last: str) -> str:
    """Parts as one name of LONGEST characters at most: closer together, then the longest words are cut, and `last` stands for what still
    finds no place."""
    parts = [shown(mask(part)) for part in parts]
    dot = " · " if len(" · ".join(parts)) <= LONGEST else "·"
    while len(dot.join(parts)) > LONGEST:
        longest = max(range(len(parts)), key=lambda place: 0 if parts[place].startswith(WHOLE) else len(parts[place]))
        if len(parts[longest]) > SHORTEST and not parts[longest].startswith(WHOLE):
            parts[longest] = parts[longest].removesuffix("…")[:-1].rstrip(" ._") + "…"
        elif len(parts) > 2:
            parts = [*parts[: -2 if parts[-1] == last else -1], last]
        else:
            return dot.join(parts)[:LONGEST]
    return dot.join(parts) or "default"

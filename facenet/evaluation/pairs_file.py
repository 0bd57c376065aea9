"""The pair list of LFW View 2 (Huang et al. 2007).

A first line `folds half`, then for each fold `half` same and `half` different pairs. `name i j` is two images of one
identity, `name1 i name2 j` one image of each of two; image i of a name is `name/name_000i`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facenet.errors import UserError
from facenet.files import regular

LARGEST = 1 << 28  # characters; of several million pairs
LONGEST_NUMBER = 9  # digits; Python refuses to convert thousands of them


@dataclass(frozen=True)
class ListedPairs:
    """P pairs of image names `identity/identity_0001`; whether each is of one identity, and its fold from 0."""

    left: list[str]
    right: list[str]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]


def read_pairs(path: Path) -> ListedPairs:
    """UserError with the line number for a line that is not a pair, and for a count that is not the first line's."""
    lines = _text(path).splitlines()
    num_folds, half = _header(path, lines[0] if lines else "")
    numbered = [(number, line) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    pairs = [_pair(path, number, line) for number, line in numbered]
    if len(pairs) != num_folds * 2 * half:
        promise = f"{num_folds} x ({half} + {half}) = {num_folds * 2 * half} pairs"
        raise UserError(f"{path}: the first line promises {promise}, {len(pairs)} follow; fetch the list again")
    left, right = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    same = np.array([_identity(a) == _identity(b) for a, b in pairs])
    for fold, held in enumerate(same.reshape(num_folds, 2 * half).sum(axis=1)):
        if held != half:
            raise UserError(
                f"{path}: fold {fold + 1} holds {held} pairs of one identity, the first line says {half}; "
                "fetch the list again"
            )
    return ListedPairs(left, right, same, np.repeat(np.arange(num_folds), 2 * half))


def _text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", opener=regular) as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be read ({reason}); set benchmark.pairs to a list of LFW pairs") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text; set benchmark.pairs to a list of LFW pairs") from error
    if len(text) > LARGEST:
        raise UserError(f"{path}: more than {LARGEST:,} characters; set benchmark.pairs to a list of LFW pairs")
    return text


def _header(path: Path, line: str) -> tuple[int, int]:
    fields = line.split()
    if len(fields) == 2 and all(map(_whole, fields)) and int(fields[0]) >= 2 and int(fields[1]) >= 1:
        return int(fields[0]), int(fields[1])
    raise UserError(
        f"{path}, line 1: expected '<folds> <pairs of each kind per fold>' such as '10 300' and at least 2 folds, "
        f"got {line[:60]!r}"
    )


def _pair(path: Path, number: int, line: str) -> tuple[str, str]:
    fields = line.strip().split("\t") if "\t" in line else line.split()
    if len(fields) not in (3, 4):
        raise UserError(f"{path}, line {number}: expected 'name i j' or 'name1 i name2 j', got {line[:60]!r}")
    first, last = (fields[0], fields[1]), (fields[-2] if len(fields) == 4 else fields[0], fields[-1])
    if not (_whole(first[1]) and _whole(last[1])):
        raise UserError(f"{path}, line {number}: image numbers must be whole numbers, got {line[:60]!r}")
    if any(name in ("", ".", "..") or "/" in name or "\0" in name for name in (first[0], last[0])):
        raise UserError(f"{path}, line {number}: a name is a folder of benchmark.root, got {line[:60]!r}")
    pair = _image(*first), _image(*last)
    if pair[0] == pair[1]:
        raise UserError(f"{path}, line {number}: pairs {pair[0]} with itself")
    if len(fields) == 4 and first[0] == last[0]:
        raise UserError(f"{path}, line {number}: a pair of different identities names {first[0]} twice")
    return pair


def _whole(field: str) -> bool:
    return field.isdecimal() and len(field) <= LONGEST_NUMBER


def _image(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}"


def _identity(image: str) -> str:
    return image.rsplit("/", 1)[0]

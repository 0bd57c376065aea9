"""Lists of pairs: that of LFW View 2 (Huang et al. 2007), and the forms in which people have theirs.

| first line                     | then                                                                       |
| ------------------------------ | -------------------------------------------------------------------------- |
| `folds half`                   | for each fold `half` same and `half` different pairs: View 2               |
| `half`                         | `half` same and `half` different pairs: View 1                             |
| names of columns, or a pair    | pairs in any order                                                         |

A pair is `name i j`, two images of one identity, or `name1 i name2 j`, one image of each of two, where image i of a name is `name/name_000i`; or
`path path label`, with 1 for one identity and 0 or -1 for two. Fields are separated by tabs, commas, semicolons or blanks.
"""

from __future__ import annotations

import csv
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facenet.errors import UserError, shown
from facenet.evaluation.benchmarks.folds import dealt
from facenet.files.reading import open_text

log = logging.getLogger(__name__)
LARGEST = 1 << 28  # characters; of several million pairs
LONGEST_LINE = 1 << 14  # characters that are looked at
LONGEST_NUMBER = 9  # digits; Python refuses to convert thousands of them
NUM_FOLDS = 10  # of a list that has none of its own
TURNED = 0.9
MOST_AS_THEY_STAND = 20  # folds; View 2 has 10, and pairs that only take turns have hundreds
ANSWERS = {
    **dict.fromkeys(("1", "+1", "1.0", "true", "yes", "same"), True),
    **dict.fromkeys(("0", "-1", "0.0", "-1.0", "false", "no", "different"), False),
}
WORD = r"(?:name|person|identity|id|im(?:g|age)?|file|path|pair|left|right|label|(?:is_?)?same|target|fold)"
COLUMN_BEGINS = re.compile(rf"{WORD}(?:[\W\d_]|$)", re.IGNORECASE)
COLUMN = re.compile(rf"{WORD}[\s_]*(?:num(?:ber)?|name|path|id|[ab])?[\s_]*\d*", re.IGNORECASE)


@dataclass(frozen=True)
class ListedPairs:
    """P pairs of images, named `identity/identity_0001` or with their suffix as the list has it; whether each is of one identity, and its fold
    from 0."""

    left: list[str]
    right: list[str]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]


@dataclass(frozen=True)
class Pair:
    left: str
    right: str
    same: bool


def read_pairs(path: Path) -> ListedPairs:
    """UserError with the line number for a line that is not a pair, for a count that is not the first line's, and for a list without both kinds."""
    lines = _text(path).splitlines()
    separator = _separator(lines)
    numbered = [(number, fields) for number, line in enumerate(lines, start=1) if (fields := _fields(line, separator))]
    numbered = _without_row_numbers(numbered)
    answers = {field.lower() for _, fields in numbered[1:] for field in (fields[0], fields[-1])} & ANSWERS.keys()
    header = _header(path, *numbered[0], answers) if numbered else _unknown_header(path, 1, [])
    rows = numbered if header is None else numbered[1:]
    if header == ():  # a table for each kind, one below the other
        rows = [(number, fields) for number, fields in rows if not _again(fields, numbered[0][1])]
    pairs = [_pair(path, number, fields) for number, fields in rows]
    same = np.array([pair.same for pair in pairs], np.bool_)
    _tell_turned(path, pairs)
    folds = _dealt(path, same) if header in (None, ()) else _promised(path, same, *header)
    return ListedPairs([pair.left for pair in pairs], [pair.right for pair in pairs], same, folds)


def _without_row_numbers(numbered: list[tuple[int, list[str]]]) -> list[tuple[int, list[str]]]:
    """pandas writes a first column without a name, in which rows are counted from 0."""
    counted = [fields[0] for _, fields in numbered[1:]]
    if numbered and len(numbered[0][1]) >= 4 and not numbered[0][1][0] and counted == [*map(str, range(len(counted)))]:
        return [(number, fields[1:]) for number, fields in numbered]
    return numbered


def _text(path: Path) -> str:
    try:
        with open_text(path) as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be read ({reason}); set benchmark.pairs to a list of LFW pairs") from error
    except ValueError as error:
        raise UserError(
            f"{path}: is not text in UTF-8 or UTF-16; save it as UTF-8, or set benchmark.pairs to a list of LFW pairs"
        ) from error
    if len(text) > LARGEST:
        raise UserError(f"{path}: more than {LARGEST:,} characters; set benchmark.pairs to a list of LFW pairs")
    return text


def _separator(lines: list[str]) -> str | None:
    """None for tabs or blanks, a line at a time: names may hold blanks beside tabs."""
    filled = [line for line in lines if line.strip()]
    pairs = filled[1:] or filled  # the first line may hold one number
    if all(map(_in_blanks, pairs)):  # of names that hold commas
        return None
    return next((mark for mark in ",;" if pairs and all(mark in line and "\t" not in line for line in pairs)), None)


def _in_blanks(line: str) -> bool:
    fields = line[:LONGEST_LINE].split()
    if len(fields) not in (3, 4) or any(field.endswith((",", ";")) for field in fields):
        return False
    return (_whole(fields[1]) and _whole(fields[-1])) or (len(fields) == 3 and fields[-1].lower() in ANSWERS)


def _fields(line: str, separator: str | None) -> list[str]:
    line = line[:LONGEST_LINE]
    if separator is None:
        fields = line.strip().split("\t") if "\t" in line else line.split()
    else:
        try:
            fields = next(csv.reader([line], delimiter=separator), [])
        except csv.Error:
            fields = [line]
        while fields and not fields[-1].strip():  # a table with fewer columns in this row
            fields.pop()
    return [field.strip() for field in fields]


def _header(path: Path, number: int, fields: list[str], answers: set[str]) -> tuple[int, ...] | None:
    """(folds, half), (half,), () for names of columns, None where the first line is a pair. `answers`: those of the other lines."""
    if len(fields) <= 2 and all(map(_whole, fields)):
        numbers = tuple(map(int, fields))
        if numbers[-1] < 1 or (len(numbers) == 2 and numbers[0] < 2):
            _unknown_header(path, number, fields)
        return numbers
    if len(fields) >= 3:
        if _columns(fields) and not ("same" in map(str.lower, fields) and {"same", "different"} & answers):
            return ()
        if len(fields) in (3, 4):
            return None
    return _unknown_header(path, number, fields)


def _columns(fields: list[str]) -> bool:
    return all(not field or COLUMN.fullmatch(field) for field in fields) or _names_columns(fields)


def _again(fields: list[str], first: list[str]) -> bool:
    """Whether they are the columns of another table: `name1 picID1 ...` below `name picID1 ...`."""
    return _columns(fields) and fields[0].rstrip("0123456789") == first[0].rstrip("0123456789")


def _names_columns(fields: list[str]) -> bool:
    """Whether they are words, no answer but `same` and no path, of which one begins as those of tables do."""
    return any(map(COLUMN_BEGINS.match, fields)) and all(
        re.fullmatch(r"[^\W\d][\w ]*", field) and field.lower() not in ANSWERS.keys() - {"same"}
        for field in fields
        if field
    )


def _unknown_header(path: Path, number: int, fields: list[str]) -> tuple[int, ...]:
    got = " ".join(fields)
    raise UserError(
        f"{path}, line {number}: expected '<folds> <pairs of each kind per fold>' such as '10 300' and at least 2 folds, "
        f"or the first pair, got {got[:60]!r}"
    )


def _pair(path: Path, number: int, fields: list[str]) -> Pair:
    where, got = f"{path}, line {number}", shown(" ".join(fields)[:60])
    label = _label(fields)
    if label is None and len(fields) not in (3, 4):
        raise UserError(f"{where}: expected 'name i j' or 'name1 i name2 j' or 'path path label', got {got!r}")
    pair = _numbered(where, fields, got) if label is None else _labelled(where, fields, label, got)
    if pair.left == pair.right:
        raise UserError(f"{where}: pairs {pair.left} with itself, which any network gets right; remove the line")
    return pair


def _tell_turned(path: Path, pairs: list[Pair]) -> None:
    """Where 0 stands for one identity, as in lists of distances, folders of identities contradict nearly every answer. Folders that are none, one
    for all images or one for each pose, contradict half of them at most."""
    folders = [(pair.left.rpartition("/")[0], pair.right.rpartition("/")[0]) for pair in pairs]
    wrong = sum((left == right) != pair.same for (left, right), pair in zip(folders, pairs, strict=True))
    if wrong > TURNED * len(pairs):
        log.warning(
            "%s: the folders of %d of %d pairs contradict their answers (one folder is two identities, and two are one); if a folder is an identity, "
            "the answers are the other way round: 1 is one identity, 0 two",
            path,
            wrong,
            len(pairs),
        )


def _numbered(where: str, fields: list[str], got: str) -> Pair:
    first, last = (fields[0], fields[1]), (fields[-2] if len(fields) == 4 else fields[0], fields[-1])
    if not (_whole(first[1]) and _whole(last[1])):
        raise UserError(f"{where}: image numbers must be whole numbers, got {got!r}")
    if any(name in ("", ".", "..") or "/" in name or "\0" in name for name in (first[0], last[0])):
        raise UserError(f"{where}: a name is a folder of benchmark.root, got {got!r}")
    if len(fields) == 4 and first[0] == last[0] and int(first[1]) != int(last[1]):
        raise UserError(f"{where}: a pair of different identities names {first[0]} twice")
    return Pair(_image(*first), _image(*last), first[0] == last[0])


def _label(fields: list[str]) -> int | None:
    """Which of three fields answers for two paths: the last, or the first. None where an image is given by its number."""
    if len(fields) == 3 and not _whole(fields[1]):
        return next((at for at in (2, 0) if fields[at].lower() in ANSWERS), None)
    return None


def _labelled(where: str, fields: list[str], label: int, got: str) -> Pair:
    left, right = (field.replace("\\", "/").removeprefix("./") for at, field in enumerate(fields) if at != label)
    if any("\0" in path or {"", ".."} & {*path.split("/")} for path in (left, right)):
        raise UserError(f"{where}: a path is one below benchmark.root, got {got!r}")
    return Pair(left, right, ANSWERS[fields[label].lower()])


def _promised(path: Path, same: NDArray[np.bool_], *header: int) -> NDArray[np.int64]:
    """The folds of View 2; those of View 1, which has none, are dealt."""
    num_folds, half = header if len(header) == 2 else (1, *header)
    if len(same) != num_folds * 2 * half:
        promise = f"{num_folds} x ({half} + {half}) = {num_folds * 2 * half} pairs"
        raise UserError(f"{path}: the first line promises {promise}, {len(same)} follow; fetch the list again")
    for fold, held in enumerate(same.reshape(num_folds, 2 * half).sum(axis=1)):
        if held != half:
            raise UserError(
                f"{path}: fold {fold + 1} holds {held} pairs of one identity, the first line says {half}; "
                "fetch the list again"
            )
    return _dealt(path, same) if num_folds == 1 else np.repeat(np.arange(num_folds), 2 * half)


def _dealt(path: Path, same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The folds of a list that counts none: those of View 2 where its pairs stand so, as many same ones as different ones again and again; else each
    kind is dealt out in turn."""
    fewest = int(min(same.sum(), (~same).sum()))
    if fewest < 2:
        raise UserError(
            f"{path}: {same.sum()} pairs of one identity and {(~same).sum()} of two, at least 2 of each are needed; "
            "complete the list, or train with benchmark=none"
        )
    ends = np.flatnonzero(np.diff(same)) + 1
    runs = np.diff([0, *ends, len(same)])
    in_blocks = 4 <= len(runs) <= 2 * MOST_AS_THEY_STAND and len(runs) % 2 == 0
    if same[0] and in_blocks and (runs == runs[0]).all() and runs[0] > 1:
        log.info("%s: in %d folds of %d + %d pairs, as they stand", path, len(runs) // 2, runs[0], runs[0])
        return np.repeat(np.arange(len(runs) // 2), 2 * runs[0])
    num_folds = min(NUM_FOLDS, fewest)
    log.warning("%s: has no folds; each kind of pair is dealt into %d in turn", path, num_folds)
    return dealt(same, num_folds)


def _whole(field: str) -> bool:
    return field.isdecimal() and len(field) <= LONGEST_NUMBER


def _image(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}"

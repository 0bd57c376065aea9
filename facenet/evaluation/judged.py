"""The pairs of a test, one by one: who was shown, at which distance, and whether the test was right: two networks side by side."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facenet.evaluation.verification import Bools, Integers, Verification
from facenet.files.atomic import replacing

MOST = 100_000  # pairs; a file of LFW's 6,000 has 0.1 MB, and a published set of millions is compared by its figures
LARGEST = 1 << 26  # bytes that are unpacked of a file, whatever it promises
COLUMNS = ("left", "right", "same", "distance", "right_answer")


@dataclass(frozen=True)
class JudgedPair:
    """Two images by their names, whether they are of one identity, how far apart they are, and whether the test's answer was right."""

    left: str
    right: str
    same: bool
    distance: float
    correct: bool


def is_correct(result: Verification, same: Bools, folds: Integers) -> Bools:
    """Whether each pair (P,) was judged rightly, by the threshold that its fold was given: their share is the accuracy."""
    assert result.distances is not None
    _, numbered = np.unique(folds, return_inverse=True)
    accepted: Bools = result.distances < np.array(result.fold_thresholds)[numbered]
    return np.equal(accepted, same)


def below_one_folder(names: Sequence[str]) -> list[str]:
    """The names without the folders that all of them have in common: the same on every machine."""
    common = os.path.commonpath([os.path.dirname(name) for name in names])
    return [name[len(common) + 1 :] if common else name for name in names]


def save_pairs(path: Path, pairs: Sequence[JudgedPair]) -> None:
    """Writes them as a gzipped CSV, which pandas reads as it is."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in pairs:
        writer.writerow([each.left, each.right, int(each.same), f"{each.distance:.6g}", int(each.correct)])
    with replacing(path) as partial:  # without a time in it: the same bytes for the same pairs
        partial.write_bytes(gzip.compress(text.getvalue().encode("utf-8", "surrogateescape"), mtime=0))


def read_pairs(path: Path) -> list[JudgedPair]:
    """Returns what `save_pairs` wrote. Raises ValueError or OSError for a file that it did not write: it may be a stranger's."""
    with gzip.open(path) as file:
        data = file.read(LARGEST + 1)
    head, *rows = csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape")))
    if len(data) > LARGEST or tuple(head) != COLUMNS or len(rows) > MOST:
        raise ValueError(f"{path.name}: no list of judged pairs")
    pairs = [
        JudgedPair(left, right, same == "1", float(far), correct == "1") for left, right, same, far, correct in rows
    ]
    if not all(math.isfinite(each.distance) for each in pairs):
        raise ValueError(f"{path.name}: holds distances that are none")
    return pairs

"""Sets that say the opposite of what is meant, or nothing: answers the other way round, pairs of an image with itself."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from facenet.evaluation.benchmarks.choice import Bin
from facenet.evaluation.benchmarks.pairs_file import read_pairs
from facenet.evaluation.protocol import Protocol
from facenet.evaluation.report import table
from facenet.evaluation.verification import evaluate_pairs

SAME = [f"a/{n}.jpg a/{n + 1}.jpg" for n in range(10)]
DIFFERENT = [f"a/{n}.jpg b/{n}.jpg" for n in range(10)]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([f"{pair} 0" for pair in SAME] + [f"{pair} 1" for pair in DIFFERENT], True),
        ([f"{pair} 1" for pair in SAME] + [f"{pair} 0" for pair in DIFFERENT], False),
        # A folder for all images, and one for each pose of a person: folders say nothing of half of the pairs.
        ([f"x/{n}.jpg x/{n}_.jpg {n % 2}" for n in range(20)], False),
        ([f"p{n}/front/1.jpg p{n + n % 2}/side/1.jpg {1 - n % 2}" for n in range(20)], False),
        ([f"{n}.jpg {n}_.jpg {n % 2}" for n in range(20)], False),
    ],
    ids=["turned", "right", "one folder", "poses", "no folder"],
)
def test_answers_that_folders_contradict_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: list[str], told: bool
) -> None:
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    listed = read_pairs(tmp_path / "pairs.txt")
    assert listed.same.tolist() == [line.endswith(" 1") for line in lines]  # told, and read as it stands
    assert ("20 of 20 pairs" in caplog.text and "the other way round" in caplog.text) == told


@pytest.mark.parametrize(("shift", "told"), [(0.6, True), (0.0, False), (-0.6, False)])
def test_a_network_that_finds_the_different_ones_nearer_is_told(shift: float, told: bool) -> None:
    rng = np.random.default_rng(0)
    same = np.arange(400) % 2 == 0
    result = evaluate_pairs(rng.normal(1 + shift * same, 0.2), same, np.arange(400) // 2 % 10)
    assert ("the other way round" in table("set", result)) == told


def test_a_table_for_each_kind_is_one_list(tmp_path: Path) -> None:
    rows = ["name\tpicID1\tpicID2", "0a-5\t0\t7", "1b-6\t2\t9", "name1\tpicID1\tname2\tpicID2"]
    (tmp_path / "pairs.txt").write_text("\n".join([*rows, "0a-5\t113\t1b-6\t7", "1b-6\t11\t0a-5\t1"]))
    listed = read_pairs(tmp_path / "pairs.txt")
    assert listed.left == ["0a-5/0a-5_0000", "1b-6/1b-6_0002", "0a-5/0a-5_0113", "1b-6/1b-6_0011"]
    assert listed.same.tolist() == [True, True, False, False]


@pytest.mark.parametrize("num_alike", [0, 3])
def test_pairs_of_an_image_with_itself_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, num_alike: int
) -> None:
    images = [b"%d" % (n - n % 2 if n < 2 * num_alike else n) for n in range(40)]
    (tmp_path / "own.bin").write_bytes(pickle.dumps((images, [True, False] * 10)))
    assert len(Bin(path=str(tmp_path / "own.bin"), protocol=Protocol(), num_folds=2).open().same) == 20
    assert ("own: 3 of its pairs are of an image with itself" in caplog.text) == bool(num_alike)

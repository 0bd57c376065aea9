"""Lists of pairs as other programs write them; names and blocks that look like something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from facenet.errors import UserError
from facenet.evaluation.benchmarks.choice import Lfw
from facenet.evaluation.benchmarks.pairs_file import ListedPairs, read_pairs
from facenet.evaluation.protocol import Protocol

ROWS = [("a/1.jpg", "a/2.jpg", 1), ("a/1.jpg", "b/1.jpg", 0), ("b/1.jpg", "b/2.jpg", 1), ("a/2.jpg", "b/1.jpg", 0)]


def read(folder: Path, *lines: str) -> ListedPairs:
    (folder / "pairs.txt").write_text("\n".join(lines))
    return read_pairs(folder / "pairs.txt")


@pytest.mark.parametrize(
    "lines",
    [
        ["img1_path,img2_path,y", *(f"{a},{b},{y}" for a, b, y in ROWS)],
        [",left,right,match", *(f"{at},{a},{b},{y}" for at, (a, b, y) in enumerate(ROWS))],
        [f"{a},{b},{y:.1f}" for a, b, y in ROWS],
        [f"{a}, {b}, {'yes' if y else 'no'}" for a, b, y in ROWS],
    ],
)
def test_tables_as_programs_write_them(tmp_path: Path, lines: list[str]) -> None:
    listed = read(tmp_path, *lines)
    assert [*zip(listed.left, listed.right, listed.same.astype(int), strict=True)] == ROWS


def test_a_first_pair_without_its_answer_is_no_header(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 1"):
        read(tmp_path, "a/1.jpg b/1.jpg c", *(f"{a} {b} {y}" for a, b, y in ROWS))


def test_commas_may_be_of_names(tmp_path: Path) -> None:
    listed = read(tmp_path, "2 1", "Doe,A 1 2", "Doe,A 1 Roe,B 1", "Roe,B 1 2", "Roe,B 2 Doe,A 2")
    assert listed.left == ["Doe,A/Doe,A_0001", "Doe,A/Doe,A_0001", "Roe,B/Roe,B_0001", "Roe,B/Roe,B_0002"]
    assert listed.folds.tolist() == [0, 0, 1, 1]
    assert read(tmp_path, *(f"x,{a} x,{b} {y}" for a, b, y in ROWS)).left[0] == "x,a/1.jpg"


@pytest.mark.parametrize(("blocks", "num_folds"), [(5, 5), (20, 20), (21, 10), (300, 10)])
def test_pairs_that_only_take_turns_are_no_folds(tmp_path: Path, blocks: int, num_folds: int) -> None:
    rows = [f"a 1 {n + 2}\na 2 {n + 3}\na {n + 1} b 1\na {n + 1} c 1" for n in range(blocks)]
    listed = read(tmp_path, *rows)
    assert len({*listed.folds.tolist()}) == num_folds


@pytest.mark.parametrize("prefix", ["", "lfw/"])
def test_paths_count_from_the_root_or_from_the_only_folder_in_it(tmp_path: Path, prefix: str) -> None:
    for path in {path for *row, _ in ROWS for path in row}:
        place = tmp_path / "root/lfw" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    (tmp_path / "pairs.txt").write_text("\n".join(f"{prefix}{a} {prefix}{b} {y}" for a, b, y in ROWS))
    pair_set = Lfw(root=str(tmp_path / "root"), protocol=Protocol()).open()
    assert pair_set.faces.name(0) == f"{tmp_path}/root/lfw/a/1.jpg"

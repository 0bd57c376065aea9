"""Lists and pairs in every mixture of encoding, line end, separator, quotes and slashes: 200 draws of each are read as the plain ones are."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from facenet.data.files.annotation import read_annotation
from facenet.evaluation.benchmarks.pairs_file import read_pairs

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]
DRAWS = 200
CODES = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
NAMES = ("Ann", "bob c", "José", "李雷", "d-e_f", "O'Hara", "g.h")


def written(path: Path, lines: list[str], draw: random.Random) -> Path:
    end = draw.choice(("\n", "\r\n", "\r"))
    for _ in range(draw.randrange(3)):
        lines.insert(draw.randint(1, len(lines)), "")
    path.write_bytes((end.join(lines) + draw.choice(("", end))).encode(draw.choice(CODES)))
    return path


def spelled(image: str, draw: random.Random, windows: bool) -> str:
    quote = draw.choice(("", "", '"', "'"))
    path = image.replace("/", "\\") if windows else draw.choice(("", "~/", "./")) + image
    return f"{draw.choice(('', ' '))}{quote}{path}{quote}{draw.choice(('', ' '))}"


def test_annotation_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    draw = random.Random(int(os.environ.get("FACENET_FUZZ_SEED", "0")))
    images = [f"{name}/{number}.png" for name in NAMES for number in range(3)]
    for image in images:
        (tmp_path / image).parent.mkdir(exist_ok=True)
        (tmp_path / image).touch()
    for number in range(DRAWS):
        chosen = draw.sample(range(len(images)), draw.randint(12, len(images)))
        windows = draw.random() < 0.3
        lines = [f"{at // 3};{spelled(images[at], draw, windows)}" for at in chosen]
        faces = read_annotation(written(tmp_path / "list.txt", lines, draw))
        assert [os.path.normpath(path) for path in faces.paths] == [f"{tmp_path}/{images[at]}" for at in chosen], number
        assert [faces.identities[label] for label in faces.labels] == [NAMES[at // 3] for at in chosen], number


def test_pairs(tmp_path: Path) -> None:
    draw = random.Random(int(os.environ.get("FACENET_FUZZ_SEED", "0")))
    for number in range(DRAWS):
        folds, half = draw.randint(2, 4), draw.randint(2, 5)
        pairs: list[tuple[str, int, str, int]] = []
        for kind in (True, False) * folds:
            for _ in range(half):
                (one, other), (first, second) = draw.sample(NAMES, 2), draw.sample(range(1, 999), 2)
                pairs.append((one, first, one if kind else other, second))
        separator, labelled = draw.choice(("\t", ",", ";")), draw.random() < 0.5
        quote = '"' if separator != "\t" and draw.random() < 0.5 else ""
        rows = []
        for one, first, other, second in pairs:
            fields = [one, str(first), *([] if one == other else [other]), str(second)]
            if labelled:
                fields = [f"{one}/{one}_{first:04d}.jpg", f"{other}/{other}_{second:04d}.jpg", str(int(one == other))]
            rows.append(separator.join(f"{quote}{field}{quote}" for field in fields))
        header = draw.choice([[], [f"{folds}{separator}{half}"], [separator.join(("name", "image1", "image2"))]])
        listed = read_pairs(written(tmp_path / "pairs.txt", [*header, *rows], draw))
        suffix = ".jpg" if labelled else ""
        assert listed.left == [f"{one}/{one}_{first:04d}{suffix}" for one, first, _, _ in pairs], number
        assert listed.right == [f"{other}/{other}_{second:04d}{suffix}" for _, _, other, second in pairs], number
        assert listed.same.tolist() == ([True] * half + [False] * half) * folds, number
        assert listed.folds.tolist() == [fold for fold in range(folds) for _ in range(2 * half)], number

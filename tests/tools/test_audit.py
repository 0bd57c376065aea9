"""The audit finds what was planted, by count and name, and nothing in clean data."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from facenet import config as configs
from facenet.commands import flags as tools
from facenet.data.files.decode import DEFAULT
from facenet.data.files.duplicates import near_groups, same_groups
from facenet.data.files.inventory import appearance_of, look_at
from facenet.tasks import progress
from facenet.tools.overlap import plain_name, same_names


def picture(seed: int, side: int = 64) -> Image.Image:
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


def people(root: Path, names: list[str], *, first_seed: int, num_images: int = 2) -> Path:
    seed = first_seed
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(num_images):
            picture(seed).save(root / name / f"{number}.png")
            seed += 1
    return root


@pytest.fixture
def train(tmp_path: Path) -> Path:
    return people(tmp_path / "train", ["ann", "bob", "cyd"], first_seed=0)


@pytest.fixture
def test_set(tmp_path: Path) -> Path:
    return people(tmp_path / "test", ["dan", "eve"], first_seed=100)


def audited(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["facenet-data", "audit", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        tools.data()
    shown = capsys.readouterr()
    return int(ended.value.code or 0), shown.out + shown.err


def findings(report: str) -> dict[str, list[str]]:
    return {found["title"]: found["rows"] for found in json.loads(report)["findings"]}


def test_clean_data_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], train: Path, test_set: Path
) -> None:
    code, report = audited(monkeypatch, capsys, train, "--against", test_set, "--json")
    content = json.loads(report)
    assert code == 0 and content["clean"] and content["findings"] == []
    assert content["train"]["formats"] == {"PNG RGB": 6} and content["train"]["sizes"] == {"64x64": 6}
    assert content["train"]["images_per_identity"] == {"min": 2, "median": 2.0, "max": 2}
    assert content["shared"] == {"names": 0, "images": 0}
    code, report = audited(monkeypatch, capsys, train)
    assert code == 0 and "6 images of 3 identities" in report and "nothing that matters" in report
    assert "in both sets" not in report
    _, report = audited(monkeypatch, capsys, train, "--against", test_set)
    assert (
        "\nin both sets: people 0 by name, by face not compared (--checkpoint FILE); groups of images 0\nfindings\n"
        in report
    )


def test_images_of_both_sets_are_counted_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], train: Path, test_set: Path
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    _, report = audited(monkeypatch, capsys, train, "--against", test_set)
    assert [line for line in report.splitlines() if line.endswith(" of 10 images")] == [
        f"{done} of 10 images" for done in range(1, 11)
    ]


def test_everything_planted_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], train: Path, test_set: Path
) -> None:
    (train / "ann" / "cut.png").write_bytes((train / "ann" / "0.png").read_bytes()[:100])
    (train / "ann" / "emp\nty.jpg").write_bytes(b"")
    shutil.copy(train / "ann" / "0.png", train / "ann" / "copy.png")  # a copy
    shutil.copy(train / "ann" / "1.png", train / "bob" / "stolen.png")  # one image, two labels
    shutil.copy(test_set / "dan" / "0.png", train / "bob" / "leak.png")  # also in the test set
    Image.open(train / "cyd" / "0.png").resize((200, 200)).save(train / "cyd" / "bigger.jpg", quality=70)  # alike
    (train / "Évé_").mkdir()
    picture(50, side=20).save(train / "Évé_" / "tiny.jpg", "PNG")
    (train / "gus").mkdir()
    (train / "gus" / "bad.png").write_bytes(b"x")
    (train / "bob" / "notes.txt").write_text("x")
    code, report = audited(monkeypatch, capsys, train, "--against", test_set, "--json")
    found = findings(report)
    assert code == 1
    assert len(found.pop("images cannot be read")) == 3
    at = f"{train}/"
    assert found == {
        "identities without a readable image": ["gus"],
        "identities with one image, which make no pair": ["Évé_"],
        "images below 32 pixels": [f"{at}Évé_/tiny.jpg"],
        "images named after another format": [f"{at}Évé_/tiny.jpg"],
        "kinds of other files beside the images, which are left out": ["1 .txt"],
        "groups of the same file in training and test": [f"{at}bob/leak.png = {test_set}/dan/0.png"],
        "groups of the same file under two labels": [f"{at}ann/1.png = {at}bob/stolen.png"],
        "groups of the same file within an identity": [f"{at}ann/0.png = {at}ann/copy.png"],
        "groups of pictures that look the same within an identity": [f"{at}cyd/0.png = {at}cyd/bigger.jpg"],
        "identities of training and test have one name": ["Évé_ = eve"],
    }
    assert json.loads(report)["shared"] == {"names": 1, "images": 1}
    code, report = audited(monkeypatch, capsys, train)
    assert code == 1 and "! 3 images cannot be read" in report and r"emp\nty.jpg" in report
    code, report = audited(monkeypatch, capsys, train, "--max-pixels", 1)
    assert "! 14 images cannot be read" in report


def test_names_that_differ_in_spelling_only_are_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = ["Anna", "anna", "J\u00f6rg", "Jo\u0308rg", "bob ", "bob2"]
    code, report = audited(monkeypatch, capsys, people(tmp_path / "train", names, first_seed=0), "--json")
    title = "names of identities differ in capitals, blanks or the code of an accent only"
    assert (code, findings(report)) == (1, {title: ["Anna = anna", "Jo\u0308rg = J\u00f6rg"]})


def test_people_are_found_by_embedding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], train: Path, test_set: Path, tmp_path: Path
) -> None:
    """A test identity that shows a training identity's pictures in another size and format."""
    shutil.rmtree(test_set / "eve")
    (test_set / "someone").mkdir()
    for number in range(2):
        picture(2 + number, side=96).save(test_set / "someone" / f"{number}.bmp")
    torch.manual_seed(0)
    nodes = configs.chosen({"backbone": "mobilenet_v1", "preprocess": "resize"}, {"data": {"image_size": 64}})
    network = configs.build(nodes["backbone"])
    torch.save(network.state_dict(), tmp_path / "w.pth")
    flags = ["--weights", tmp_path / "w.pth", "--preprocess", "resize", "--image-size", 64, "--threshold", 0.9999]
    code, report = audited(monkeypatch, capsys, train, "--against", test_set, *flags, "--accelerator", "cpu", "--json")
    (title,) = (title for title in findings(report) if title.startswith("pairs of identities"))
    assert code == 1
    assert [row.rsplit(" ", 1)[0] for row in findings(report)[title]] == ["bob ~ someone"]
    assert json.loads(report)["shared"] == {"names": 0, "faces": 1, "images": 2}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weights", "w.pth"], "name it with --against"),
        (["--against", "TEST", "--weights", "w.pth", "--checkpoint", "c.pt"], "either --checkpoint or --weights"),
        (
            ["--against", "TEST", "--weights", "w.pth", "--backbone", "../data/folder"],
            "backbone: no '../data/folder'; one of",
        ),
        (["--against", "TEST", "--weights", "w.pth"], "no file at w.pth"),
        (["--against", "nowhere"], "nowhere: no such folder"),
        (["--num-workers", "0"], "--num-workers: expected 1 or more"),
        (["--max-pixels", "0"], "max_pixels: expected 1 to"),
        (["--accelerator", "tpu"], "accelerator: no 'tpu'"),
    ],
)
def test_wrong_flags_end_with_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    train: Path,
    test_set: Path,
    flags: list[str],
    message: str,
) -> None:
    code, told = audited(monkeypatch, capsys, train, *[str(test_set) if flag == "TEST" else flag for flag in flags])
    assert code == 2 and message in told and "Traceback" not in told


def test_names_are_compared_by_their_letters() -> None:
    assert plain_name("José_Álvarez") == plain_name("alvarez, JOSE") == "alvarez jose"
    assert same_names(["Ann B", "李雷", "--"], ["li", "b_ann", "李雷", "__"]) == [(0, 1), (1, 2)]


def test_groups_on_codes_placed_by_hand() -> None:
    first = [0b0, 0b111, 0b111 << 20, 0b1111 << 40, 31 << 50, 31 << 50]
    codes = np.array([[code, 7] for code in first], np.uint64)
    chosen = np.ones(6, bool)
    assert [group.tolist() for group in near_groups(codes, chosen)] == [[0, 1, 2], [4, 5]]
    assert [group.tolist() for group in same_groups(codes[:, 0], chosen)] == [[4, 5]]
    codes[1, 1] = 7 ^ 0b111111000  # six bits of the second code
    chosen[4] = False
    assert [group.tolist() for group in near_groups(codes, chosen)] == [[0, 2]]


def test_near_groups_agree_with_every_pair_compared() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, (40, 2), dtype=np.uint64)
    codes = np.concatenate([base, base ^ (np.uint64(1) << rng.integers(0, 64, (40, 2), dtype=np.uint64)), base[:5]])
    groups = {tuple(group.tolist()) for group in near_groups(codes, np.ones(len(codes), bool))}
    assert groups == {(n, n + 40, n + 80) if n < 5 else (n, n + 40) for n in range(40)}


def test_appearance_survives_scaling_and_compression_only(tmp_path: Path) -> None:
    def bits(left: Path, right: Path) -> list[int]:
        looks: list[Any] = [look_at(str(path), DEFAULT).appearance for path in (left, right)]
        return [(a ^ b).bit_count() for a, b in zip(*looks, strict=True)]

    picture(1).save(tmp_path / "a.png")
    picture(1, side=160).save(tmp_path / "b.jpg", quality=60)
    picture(2).save(tmp_path / "c.png")
    assert max(bits(tmp_path / "a.png", tmp_path / "b.jpg")) <= 3
    assert min(bits(tmp_path / "a.png", tmp_path / "c.png")) >= 15
    assert appearance_of(np.full((9, 9, 3), 77, np.uint8)) == (0, 0)

"""What people's files have besides: answers as an array, accents as a Mac writes them, a column called `same`, a zero byte in a name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from facenet.backbones.mobilefacenet import MobileFaceNet
from facenet.backbones.published import KNOWN, made_for
from facenet.backbones.weights import load_weights
from facenet.data.files.annotation import read_annotation
from facenet.errors import UserError
from facenet.evaluation.benchmarks.bin_file import read_bin
from facenet.evaluation.benchmarks.choice import Lfw
from facenet.evaluation.benchmarks.pairs_file import read_pairs
from facenet.evaluation.protocol import Protocol

IMAGES = [b"one", b"two", b"one", b"three"]


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "answers",
    [
        np.array([True, False]),
        np.array([1, 0]),
        np.array([[1], [0]], np.uint8),
        np.array([1, 0], np.int32),
        np.array([True, True, False, False])[::2].copy(),
    ],
    ids=["bool", "int64", "column", "int32", "view"],
)
def test_answers_as_an_array_are_read(tmp_path: Path, answers: np.ndarray, protocol: int) -> None:
    (tmp_path / "a.bin").write_bytes(pickle.dumps((IMAGES, answers), protocol=protocol))
    images, same = read_bin(tmp_path / "a.bin")
    assert images == IMAGES and same.tolist() == [True, False] and same.dtype == np.bool_


@pytest.mark.parametrize(
    ("images", "answers", "told"),
    [
        (IMAGES, np.array([2, 0]), "pair 0 is int, expected true or false"),
        (IMAGES, np.array([1, 0], ">i8"), "pair 0 is int, expected"),
        (IMAGES, np.array([1.0, 0.0]), "an array of type 'f8'; encoded images"),
        (IMAGES, np.array([[1, 0], [0, 1]]), "4 images for 0 pairs"),
        (IMAGES, np.array([1, 0, 1]), "4 images for 3 pairs"),
        ([np.array([True, False]), *IMAGES[1:]], [True, False], None),  # one byte each: bytes of no image
        ([np.array([1, 2]), *IMAGES[1:]], [True, False], "image 0 is an array of pixels"),
    ],
)
def test_arrays_that_are_no_answers_are_refused(tmp_path: Path, images, answers, told) -> None:
    (tmp_path / "a.bin").write_bytes(pickle.dumps((images, answers)))
    if told is None:
        assert read_bin(tmp_path / "a.bin")[0][0] == b"\1\0"
        return
    with pytest.raises(UserError, match=told):
        read_bin(tmp_path / "a.bin")


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


FORMS = [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")]
BLOCKS = [[2, 64, 5, 2], [4, 128, 1, 2], [2, 128, 6, 1], [4, 128, 1, 2], [2, 128, 2, 1]]
NAMES = ["José", "Zoë", "Ana"]


@pytest.mark.parametrize(("on_disk", "in_list"), FORMS)
def test_accents_may_be_written_in_either_form(tmp_path: Path, on_disk: str, in_list: str) -> None:
    for name in NAMES:
        for number in (1, 2):
            image(tmp_path / normalize(on_disk, name) / f"{normalize(on_disk, name)}_000{number}.jpg")
    if os.path.exists(tmp_path / normalize("NFC" if on_disk == "NFD" else "NFD", "Zoë")):
        pytest.skip("this disk takes the two for one name")
    lines = [f"{label};{name}/{name}_0001.jpg" for label, name in enumerate(NAMES)]
    (tmp_path / "list.txt").write_text(normalize(in_list, "\n".join(lines)), encoding="utf-8")
    faces = read_annotation(tmp_path / "list.txt")
    assert [os.path.isfile(faces.name(index)) for index in range(3)] == [True] * 3
    pairs = [f"{one} 1 {two} 2" for one, two in (("José", "Zoë"), ("Zoë", "Ana"))] + [f"{name} 1 2" for name in NAMES]
    (tmp_path / "pairs.txt").write_text(normalize(in_list, "\n".join(pairs)), encoding="utf-8")
    found = Lfw(root=str(tmp_path), protocol=Protocol()).open()
    assert len(found.faces) == 6 and all(os.path.isfile(found.faces.name(index)) for index in range(6))


def test_an_image_that_is_not_there_in_any_form_is_missing(tmp_path: Path) -> None:
    image(tmp_path / "Ana" / "Ana_0001.jpg")
    (tmp_path / "pairs.txt").write_text("Ana 1 Zoë 1\nAna 1 2\nAna 1 Zoë 2\nAna 2 3", encoding="utf-8")
    with pytest.raises(UserError, match="lfw: 4 files named by pairs.txt are missing"):
        Lfw(root=str(tmp_path), protocol=Protocol()).open()


def read(folder: Path, *lines: str) -> list[str]:
    (folder / "pairs.csv").write_text("\n".join(lines))
    return read_pairs(folder / "pairs.csv").left


def test_a_column_may_be_called_same(tmp_path: Path) -> None:
    rows = ["a/1.jpg,a/2.jpg,1", "a/1.jpg,b/1.jpg,0", "b/1.jpg,b/2.jpg,1", "a/2.jpg,b/1.jpg,0"]
    assert len(read(tmp_path, "img1_path,img2_path,same", *rows)) == 4
    assert len(read(tmp_path, "same,img1_path,img2_path", *[",".join([row[-1], row[:-2]]) for row in rows])) == 4
    words = ["img2,img3,different", "img2,img4,same", "img1,img4,different", "img3,img4,same"]
    assert read(tmp_path, "img1,img2,same", *words)[0] == "img1"  # a pair, answered as the others are


def test_a_zero_byte_in_the_name_of_a_list_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.list: .* cannot be read \(a zero byte in its name\)"):
        read_annotation(tmp_path / "a\0b")
    with pytest.raises(UserError, match=r"cannot be read \(a zero byte in its name\); set benchmark.pairs"):
        read_pairs(tmp_path / "a\0b")


@pytest.mark.data
def test_a_known_file_that_does_not_fit_is_told_what_it_was_made_for(shared_data: Path) -> None:
    """As by the defaults, whose images are 160 pixels wide."""
    path = shared_data / "weights" / "bubbliiiing_arcface_mobilefacenet_112x112.pth"
    network = MobileFaceNet(blocks=BLOCKS, input_size=[160, 160])
    with pytest.raises(UserError, match=r"does not fill.*It has those of arcface_mobilefacenet.pth.*: use backbone="):
        load_weights(network, path, whole=True)
    assert made_for("another") == "" and made_for(KNOWN[1].layout).endswith(KNOWN[1].overrides)

"""Verification sets: the forms in which they are pickled, and what a hostile or damaged file gets."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facenet.errors import UserError
from facenet.evaluation.benchmarks.bin_file import BinFaces, read_bin


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 8), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def python2(images: list[bytes], same: list[bool]) -> bytes:
    """As Python 2 wrote them: bytes are its str (BINSTRING), protocol 2; True and False have opcodes of their own."""
    items = b"".join(b"T" + len(image).to_bytes(4, "little") + image for image in images)
    answers = b"".join(b"\x88" if answer else b"\x89" for answer in same)
    return b"\x80\x02](" + items + b"e](" + answers + b"e\x86."


IMAGES = [png(1), png(2), png(1), png(3)]


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps((IMAGES, [True, False]), protocol=4),
        pickle.dumps((IMAGES, [True, False]), protocol=2),
        pickle.dumps([IMAGES, [1, 0]]),
        pickle.dumps((IMAGES, [np.bool_(True), np.bool_(False)])),
        pickle.dumps((IMAGES, [np.bool_(True), np.bool_(False)]), protocol=2),
        pickle.dumps((IMAGES, [np.bool_(True), np.bool_(False)]), protocol=2).replace(b"numpy._core", b"numpy.core"),
        python2(IMAGES, [True, False]),
    ],
    ids=["now", "protocol 2", "numbers", "numpy", "numpy protocol 2", "numpy 1", "python 2"],
)
def test_every_form_is_read_and_each_image_kept_once(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "lfw.bin").write_bytes(data)
    faces = BinFaces(tmp_path / "lfw.bin")
    assert len(faces) == 3
    assert (faces.left.tolist(), faces.right.tolist(), faces.same.tolist()) == ([0, 0], [1, 2], [True, False])
    assert [int(faces.load(index)[0, 0, 0]) for index in range(3)] == [1, 2, 3]
    assert faces.name(2) == "lfw.bin#2"


ARRAYS = [np.frombuffer(image, np.uint8).copy() for image in IMAGES]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("arrays", [ARRAYS, [np.frombuffer(image, np.uint8) for image in IMAGES]], ids=["own", "views"])
def test_images_as_arrays_of_bytes_are_these_bytes(tmp_path: Path, arrays: list[Any], protocol: int) -> None:
    """As insightface's sample has them, and numpy before its version 2 named them."""
    data = pickle.dumps((arrays, [True, False]), protocol=protocol)
    (tmp_path / "now.bin").write_bytes(data)
    assert read_bin(tmp_path / "now.bin")[0] == IMAGES
    if protocol < 4:  # later ones say how long a name is
        (tmp_path / "then.bin").write_bytes(data.replace(b"numpy._core", b"numpy.core"))
        assert read_bin(tmp_path / "then.bin")[0] == IMAGES


ANSWERS = [[np.int64(1), np.int32(0)], [np.uint8(1), np.bool_(False)], [1.0, 0.0], (True, False)]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("same", ANSWERS, ids=repr)
def test_answers_as_programs_count_them_are_these_answers(tmp_path: Path, same: Any, protocol: int) -> None:
    (tmp_path / "set.bin").write_bytes(pickle.dumps((tuple(IMAGES), same), protocol=protocol))
    assert read_bin(tmp_path / "set.bin")[1].tolist() == [True, False]


@pytest.mark.parametrize(
    ("same", "got"), [([np.int64(1), np.int64(2)], "int"), ([1.0, 0.5], "float"), ((1, "0"), "str")]
)
def test_answers_that_are_neither_are_refused(tmp_path: Path, same: Any, got: str) -> None:
    (tmp_path / "set.bin").write_bytes(pickle.dumps((IMAGES, same)))
    with pytest.raises(UserError, match=f"pair 1 is {got}, expected true or false"):
        read_bin(tmp_path / "set.bin")


class Stated:
    """Pickled as an array with this state."""

    def __init__(self, *state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        make, arguments, _ = np.zeros(1, np.uint8).__reduce__()[:3]  # type: ignore[misc]
        return make, arguments, self.state


UINT8 = np.dtype("u1")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), r"image 0 is an array of pixels of shape \(4, 4, 3\).*encode each image"),
        (np.zeros(4, np.float32), "it holds an array of type 'f4'"),
        (np.array([None]), "it holds an array of type 'O8?'"),
        (np.zeros(4, "V1"), "it holds an array of type 'V1'"),
        (Stated(1, (9,), UINT8, False, b"four"), r"an array of shape \(9,\) with other numbers"),
        (Stated(1, (-2, -2), UINT8, False, b"four"), "with other numbers"),
        (Stated(1, (1,) * 9, UINT8, False, b"f"), "an array without a shape"),
        (Stated(1, (4.0,), UINT8, False, b"four"), "an array without a shape"),
        (Stated(1, (4,), UINT8, False, ["four"]), "with other numbers"),
        (Stated(1, (4,), "u1", False, b"four"), "it holds an array of type None"),
        (Stated(1, (4,)), "an array without numbers"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_arrays_are_refused(tmp_path: Path, image: Any, message: str, protocol: int) -> None:
    (tmp_path / "bad.bin").write_bytes(pickle.dumps(([image, image], [True]), protocol=protocol))
    with pytest.raises(UserError, match=rf"bad.bin: .*{message}"):
        read_bin(tmp_path / "bad.bin")


def test_one_long_part_does_not_become_many(tmp_path: Path) -> None:
    """Protocol 5 keeps an array in a bytearray, which is copied into bytes; a file may name the same one again and again."""
    buffer = bytearray(100_000)

    class Again:
        def __reduce__(self) -> Any:
            return np.zeros(1, np.uint8).__reduce_ex__(5)[0], (buffer, UINT8, (100_000,), "C")  # type: ignore[index]

    (tmp_path / "bad.bin").write_bytes(pickle.dumps(([Again() for _ in range(4)], [True, False]), protocol=5))
    with pytest.raises(UserError, match="again and again"):
        read_bin(tmp_path / "bad.bin")


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Calls(os.mkdir, "run"), "posix.mkdir"),
        (([Calls(os.mkdir, "run")], [True]), "posix.mkdir"),
        (Calls(eval, "__import__('os').mkdir('run')"), "builtin.*eval"),
        (Calls(getattr, "x", "__class__"), "builtin.*getattr"),
        ((IMAGES, [np.float64(1.0), False]), "a number of type 'f8'"),
        ((IMAGES, [np.array([True]), False]), "pair 0 is an array"),
        (np.dtype([("a", "i4")]), "it holds (empty )?dict"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_what_a_file_names_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, named: str, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.bin").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(UserError, match=rf"bad.bin: .*{named}|bad.bin: expected a pair of lists|it encodes"):
        read_bin(tmp_path / "bad.bin")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps((IMAGES, [True, False]))[:-40], "damaged"),
        (b"", "damaged"),
        (b"\xff\xd8 a picture", "damaged"),
        (pickle.dumps((IMAGES[:3], [True, False])), "3 images for 2 pairs, expected two each"),
        (pickle.dumps(([], [])), "0 images for 0 pairs"),
        (pickle.dumps((["text", b"x"], [True])), "image 0 is str, expected bytes"),
        (pickle.dumps((IMAGES, [True, 2])), "pair 1 is int, expected true or false"),
        (pickle.dumps((IMAGES, [True, "no"])), "pair 1 is str, expected true or false"),
    ],
)
def test_damage_is_told(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "bad.bin").write_bytes(data)
    with pytest.raises(UserError, match=rf"bad.bin: {message}"):
        read_bin(tmp_path / "bad.bin")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gone.bin: cannot be read"):
        read_bin(tmp_path / "gone.bin")

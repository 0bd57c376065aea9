"""Lists and verification sets of others: what a few bytes, or one endless line, may cost. Each refusal beside what is read."""

from __future__ import annotations

import io
import os
import pickle
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from facenet.data.files.annotation import LONGEST_LINE, read_annotation
from facenet.errors import UserError
from facenet.evaluation.benchmarks.bin_file import read_bin
from facenet.evaluation.benchmarks.pairs_file import read_pairs

pytest.importorskip("cv2")


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 8), (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


SHARED = b")" + b"".join(
    b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60)
)  # a tuple of two of a tuple of two ...
BINS = {
    "memo": (b"Nr\xff\xff\xff\x7f.", "it puts value 3 at place 2147483647"),
    "memo as text": (b"Np2147483647\n.", "it puts value 3 at place 2147483647"),
    "keys that share lists": (b"}" + SHARED + b"Ns.", "it holds empty dict"),
    "set of such": (b"\x8f(" + SHARED + b"\x90.", "it holds empty set"),
    "frozen set of such": (b"(" + SHARED + b"\x91.", "it holds frozenset"),
    "a long number": (b"\x8b\xff\xff\x0f\x00" + b"\xff" * 0xFFFFF + b".", "it holds long4"),
    "a long number as text": (b"L" + b"9" * 5000 + b"L\n.", "damaged"),
    "an old class": (b"(iposix\ngetcwd\n.", "it holds inst"),
    "one text as bytes again and again": (
        b"(" + text("x" * 1000) + b"q\x00" + (b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R") * 50 + b"t.",
        "it encodes one text again and again",
    ),
}


@pytest.mark.parametrize(("content", "reason"), BINS.values(), ids=BINS)
def test_a_verification_set_of_a_few_bytes_takes_little(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\x80\x04" + content)
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"a\.bin: {reason}"):
        read_bin(tmp_path / "a.bin")
    assert tracemalloc.get_traced_memory()[1] < 1 << 25 and time.monotonic() - started < 10
    tracemalloc.stop()


@pytest.mark.parametrize("protocol", range(6))
def test_a_real_set_is_read_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    images = [png(number) for number in range(200)]
    (tmp_path / "a.bin").write_bytes(pickle.dumps((images, [True, False] * 50), protocol))
    found, same = read_bin(tmp_path / "a.bin")
    assert found == images and same.tolist() == [True, False] * 50


READERS: dict[str, Callable[[Path], Any]] = {"annotation": read_annotation, "pairs": read_pairs, "bin": read_bin}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_pipes_devices_and_folders_are_no_lists(read: Callable[[Path], Any], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, reason in (("pipe", "not a regular file"), ("zero", "not a regular file"), (".", "Is a directory")):
        with pytest.raises(UserError, match=reason):
            read(tmp_path / name)


def test_an_endless_line_is_refused_by_its_beginning(tmp_path: Path) -> None:
    with (tmp_path / "list.txt").open("wb") as file:
        file.write(b"0;a.png\n1;")
        file.truncate(1 << 30)  # zeros, which take no room
    tracemalloc.start()
    with pytest.raises(UserError, match=rf"list\.txt:2: a line of more than {LONGEST_LINE} characters"):
        read_annotation(tmp_path / "list.txt")
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_the_longest_path_there_is_fits_a_line(tmp_path: Path) -> None:
    names = ["a.png", "/" + "y" * 4094]
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("".join(f"{number};{name}\r\n" for number, name in enumerate(names)) + "1;ü.png")
    assert read_annotation(tmp_path / "list.txt").paths == [str(tmp_path / "a.png"), names[1], str(tmp_path / "ü.png")]

"""RecordIO: bytes laid out by hand, packs of folders, both layouts, and what is wrong with a file."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facenet.data.files.pack import pack_folder
from facenet.data.files.record_faces import RecordFaces
from facenet.data.files.records import DamagedRecord, RecordFile, RecordWriter, pack, unpack
from facenet.data.identities import FolderFaces, UnreadableImage
from facenet.errors import UserError
from facenet.files.folders import BeingWritten, written_whole

from ..conftest import MakeFolder

OTHERS = json.dumps({"identities": ["a"], "num_images": 4, "fingerprint": ""})
MAGIC = b"\x0a\x23\xd7\xce"


def png(colour: tuple[int, int, int], folder: Path) -> bytes:
    path = folder / "one.png"
    Image.new("RGB", (6, 8), colour).save(path)
    return path.read_bytes()


def test_the_bytes_are_those_of_the_format(tmp_path: Path) -> None:
    """Written out from dmlc-core's recordio.h: a record that holds the magic word at a multiple of 4 is three words longer."""
    with RecordWriter(tmp_path / "a") as writer:
        assert writer.write(0, b"abcde") == 0
        assert writer.write(7, b"1234" + MAGIC + b"5" + MAGIC + b"67") == 16
    assert (tmp_path / "a.idx").read_text() == "0\t0\n7\t16\n"
    assert (tmp_path / "a.rec").read_bytes() == (
        MAGIC + struct.pack("<I", 5) + b"abcde\0\0\0"
        + MAGIC + struct.pack("<I", 1 << 29 | 4) + b"1234"
        + MAGIC + struct.pack("<I", 3 << 29 | 7) + b"5" + MAGIC + b"67\0"
    )  # fmt: skip
    file = RecordFile(tmp_path / "a.rec")
    assert file.read(0) == b"abcde"
    assert file.read(16) == b"1234" + MAGIC + b"5" + MAGIC + b"67"
    with pytest.raises(DamagedRecord, match="byte 28: a part of a record"):
        file.read(28)
    with pytest.raises(DamagedRecord, match=r"byte 4: no record begins there \(found 0x00000005"):
        file.read(4)


@pytest.mark.parametrize("record", [b"", MAGIC, MAGIC * 3, b"12" + MAGIC, MAGIC + b"1", b"1234" + MAGIC * 2 + b"56"])
def test_records_with_the_magic_word_inside_come_back(tmp_path: Path, record: bytes) -> None:
    with RecordWriter(tmp_path / "a") as writer:
        writer.write(0, record)
        second = writer.write(1, b"next")
    file = RecordFile(tmp_path / "a.rec")
    assert (file.read(0), file.read(second)) == (record, b"next")


def test_headers_with_one_label_and_with_several() -> None:
    labels, body = unpack(struct.pack("<IfQQ", 0, 3.0, 9, 0) + b"jpeg")
    assert (labels.tolist(), body) == ([3.0], b"jpeg")
    labels, body = unpack(struct.pack("<IfQQ2f", 2, 0.0, 9, 0, 5.0, 8.0) + b"jpeg")
    assert (labels.tolist(), body) == ([5.0, 8.0], b"jpeg")
    assert pack((5.0, 8.0), 9, b"jpeg") == struct.pack("<IfQQ2f", 2, 0.0, 9, 0, 5.0, 8.0) + b"jpeg"
    with pytest.raises(DamagedRecord, match="1000 labels do not fit into 28 bytes"):
        unpack(struct.pack("<IfQQ", 1000, 0.0, 9, 0) + b"jpeg")


def test_a_pack_holds_the_folder(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"ann": 2, "bob": 1, "zoë": 3})
    Image.new("RGB", (6, 8), (9, 9, 9)).save(root / "bob" / "x.bmp")
    folder = FolderFaces(root)
    pack_folder(folder, tmp_path / "packed")
    packed = RecordFaces(tmp_path / "packed")
    assert packed.identities == folder.identities == ("ann", "bob", "zoë")
    assert packed.labels.tolist() == folder.labels.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert packed.fingerprint == folder.fingerprint
    for index in range(7):
        assert np.array_equal(packed.load(index), folder.load(index))
    assert (tmp_path / "packed" / "property").read_text() == "3,8,6\n"
    _, body = unpack(packed.file.read(int(packed.positions[0])))
    assert body == (root / "ann" / "0.png").read_bytes()
    assert packed.name(0) == f"{tmp_path / 'packed' / 'train.rec'}@40"
    assert RecordFaces(tmp_path / "packed" / "train.rec").fingerprint == folder.fingerprint
    assert not list(tmp_path.glob(".*"))


def test_the_files_are_those_that_insightface_reads(make_folder: MakeFolder, tmp_path: Path) -> None:
    """Its dataset takes keys 1 to label[0] - 1 of record 0 as images and the label of their own header."""
    pack_folder(FolderFaces(make_folder({"a": 2, "b": 1})), tmp_path / "packed")
    file = RecordFile(tmp_path / "packed" / "train.rec")
    places = dict(
        tuple(map(int, line.split("\t"))) for line in (tmp_path / "packed" / "train.idx").read_text().splitlines()
    )
    assert sorted(places) == [0, 1, 2, 3, 4, 5]
    assert unpack(file.read(places[0]))[0].tolist() == [4, 6]
    assert [unpack(file.read(places[key]))[0].tolist() for key in (1, 2, 3)] == [[0], [0], [1]]
    assert [unpack(file.read(places[key]))[0].tolist() for key in (4, 5)] == [[1, 3], [3, 4]]


def test_size_lessens_and_never_enlarges(tmp_path: Path) -> None:
    for name, size in (("a", (40, 20)), ("b", (8, 8))):
        (tmp_path / "people" / name).mkdir(parents=True)
        Image.new("RGB", size, (200, 100, 50)).save(tmp_path / "people" / name / "0.png")
    pack_folder(FolderFaces(tmp_path / "people"), tmp_path / "packed", size=16)
    packed = RecordFaces(tmp_path / "packed")
    assert [packed.load(index).shape for index in (0, 1)] == [(8, 16, 3), (8, 8, 3)]
    assert np.abs(packed.load(0).astype(int) - [200, 100, 50]).max() <= 3
    assert (tmp_path / "packed" / "property").read_text() == "2,16,16\n"


def write(folder: Path, records: list[tuple[int, bytes]]) -> Path:
    folder.mkdir(exist_ok=True)
    with RecordWriter(folder / "train") as writer:
        for key, record in records:
            writer.write(key, record)
    return folder


@pytest.mark.parametrize("first_key", [0, 1])
def test_the_plain_layout_takes_labels_from_the_images(tmp_path: Path, first_key: int) -> None:
    """As im2rec writes it, with several labels, gaps and an order of its own."""
    labels: list[float | tuple[float, ...]] = [7.0, 3.0, (7.0, 0.5), 9.0]
    images = [png((number, 0, 0), tmp_path) for number in range(4)]
    records = [
        (first_key + n, pack(label, n, image)) for n, (label, image) in enumerate(zip(labels, images, strict=True))
    ]
    faces = RecordFaces(write(tmp_path / "plain", records))
    assert faces.labels.tolist() == [1, 0, 1, 2]
    assert faces.identities == ("3", "7", "9")
    assert [int(faces.load(index)[0, 0, 0]) for index in range(4)] == [0, 1, 2, 3]
    assert len(faces.fingerprint) == 16


@pytest.mark.parametrize("rest", [(), (0.5,)], ids=["one", "several"])
def test_labels_behind_the_header_of_the_first_image_are_no_range(tmp_path: Path, rest: tuple[float, ...]) -> None:
    """As `im2rec --pack-label` writes all records, the one of key 0 too."""
    images = [png((number, 0, 0), tmp_path) for number in range(3)]
    records = [(n, pack((float(n // 2 + 4), *rest), n, image)) for n, image in enumerate(images)]
    faces = RecordFaces(write(tmp_path / "packed", records))
    assert (faces.labels.tolist(), faces.identities) == ([0, 0, 1], ("4", "5"))
    assert [int(faces.load(index)[0, 0, 0]) for index in range(3)] == [0, 1, 2]


def test_ranges_with_an_empty_identity_and_labels_of_another_order(tmp_path: Path) -> None:
    images = [png((number, 0, 0), tmp_path) for number in range(3)]
    ranged = [(0, pack((4.0, 7.0), 0)), *((n + 1, pack(float(n > 1) * 2, n, image)) for n, image in enumerate(images))]
    ends = [(4, pack((1.0, 3.0), 4)), (5, pack((3.0, 3.0), 5)), (6, pack((3.0, 4.0), 6))]
    faces = RecordFaces(write(tmp_path / "gap", [*ranged, *ends]))
    assert (faces.labels.tolist(), faces.identities) == ([0, 0, 1], ("0", "2"))
    swapped = [(0, pack((4.0, 6.0), 0)), *((n + 1, pack(float(n < 2), n, image)) for n, image in enumerate(images))]
    faces = RecordFaces(write(tmp_path / "swapped", [*swapped, (4, pack((1.0, 3.0), 4)), (5, pack((3.0, 4.0), 5))]))
    assert (faces.labels.tolist(), faces.identities) == ([1, 1, 0], ("0", "1"))


@pytest.fixture
def packed(make_folder: MakeFolder, tmp_path: Path) -> Path:
    pack_folder(FolderFaces(make_folder({"a": 2, "b": 2})), tmp_path / "packed")
    return tmp_path / "packed"


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def test_a_damaged_image_is_unreadable_and_named_by_its_position(packed: Path) -> None:
    faces = RecordFaces(packed)
    at = int(faces.positions[1])
    overwrite(packed / "train.rec", at + 4, struct.pack("<I", 1 << 28))
    with pytest.raises(
        UnreadableImage, match=rf"train.rec@{at}: byte {at}: a record of 268435456 bytes, but the file ends"
    ):
        RecordFaces(packed).load(1)
    overwrite(packed / "train.rec", int(faces.positions[2]) + 32, b"no image")
    with pytest.raises(UnreadableImage, match=rf"train.rec@{faces.positions[2]}: cannot identify"):
        RecordFaces(packed).load(2)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "train.idx").unlink(), "train.idx: no such file; a .rec file needs its .idx"),
        (lambda p: (p / "train.idx").write_text("0\t0\n1\tx\n"), "train.idx: expected lines <key> TAB <position>"),
        (lambda p: (p / "train.idx").write_text("0\t0\n1\n"), "train.idx: 3 numbers, expected two a line"),
        (lambda p: (p / "train.idx").write_text("0\t0\n1\t40\n1\t80\n"), "key 1 is listed twice"),
        (lambda p: (p / "train.idx").write_text("0\t0\n1\t999999\n"), "key 1 is at byte 999999, but the .rec file ends after"),
        (lambda p: (p / "train.idx").write_text("0\t0\n1\t40\n2\t44\n"), "identities are 5..6, but the index ends at key 2"),
        (lambda p: (p / "train.rec").write_bytes(b""), "train.rec: is empty"),
        (lambda p: os.truncate(p / "train.rec", 400), r"the .rec file ends after 400; it is cut, copy it again"),
        (lambda p: overwrite(p / "train.rec", 0, b"\0\0\0\0"), "byte 0: no record begins there"),
        (lambda p: overwrite(p / "train.rec", 32, struct.pack("<2f", 5, 3)), "record 0 says that identities are 5..2"),
        (lambda p: (p / "train.rec").rename(p / "a.rec"), "train.idx|a.idx: no such file"),
        (lambda p: (p / "identities.json").write_text("{"), "identities.json: damaged"),
        (lambda p: (p / "identities.json").write_text("[" * 100_000), "identities.json: damaged"),
        (
            lambda p: (p / "identities.json").write_text(
                json.dumps({"identities": [["a"], {}], "num_images": 4, "fingerprint": "x"})
            ),
            "belongs to another pack",
        ),
        (lambda p: (p / "identities.json").write_text(json.dumps({"identities": ["a"], "num_images": 4})), "damaged \\('fing"),
        (lambda p: (p / "identities.json").write_text(OTHERS), "belongs to another pack"),
    ],
)  # fmt: skip
def test_damage_is_told_before_training(packed: Path, damage: object, message: str) -> None:
    assert callable(damage)
    damage(packed)
    with pytest.raises(UserError, match=message):
        RecordFaces(packed)


def test_what_exists_or_is_being_written_is_refused(make_folder: MakeFolder, packed: Path, tmp_path: Path) -> None:
    faces = FolderFaces(tmp_path / "people")
    with pytest.raises(UserError, match="packed: exists; choose another place"):
        pack_folder(faces, packed)
    with written_whole(tmp_path / "other"), pytest.raises(BeingWritten, match="other: another command is writing it"):
        pack_folder(faces, tmp_path / "other")
    assert (tmp_path / "other").is_dir(), "the refused one disturbed the first"


def test_an_unreadable_image_ends_the_packing_and_leaves_nothing(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 1, "b": 1})
    (root / "b" / "x.bmp").write_bytes(b"no image")
    with pytest.raises(UserError, match="x.bmp: cannot be read .*; mend or remove it, then pack again"):
        pack_folder(FolderFaces(root), tmp_path / "packed")
    assert [path.name for path in tmp_path.iterdir()] == ["people"]


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_command_leaves_no_pack_and_the_next_one_writes_it(tmp_path: Path, how: int, code: int) -> None:
    root = tmp_path / "people"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (1000, 1000, 3), np.uint8)).save(
                root / name / f"{number}.bmp"
            )
    command = [
        sys.executable,
        "-c",
        "from facenet.commands.flags import data; data()",
        "pack",
        str(root),
        str(tmp_path / "packed"),
    ]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".packed.facenet-partial/train.rec")):
        assert first.poll() is None
        time.sleep(0.01)
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 2 and "another command is writing it" in second.stderr
    first.send_signal(how)
    assert first.communicate()[1].endswith("interrupted\n" if how == signal.SIGINT else "")
    assert first.returncode == code
    assert not (tmp_path / "packed").exists()
    third = subprocess.run([*command, "--size", "32"], capture_output=True, text=True, check=True)
    assert "8 images of 2 identities" in third.stdout and f"data=record data.path={tmp_path / 'packed'}" in third.stdout
    assert RecordFaces(tmp_path / "packed").load(3).shape == (32, 32, 3)
    assert not list(tmp_path.glob(".*"))


def test_a_pack_that_is_cut_while_it_is_in_use_is_told(tmp_path: Path) -> None:
    """Without a look at its size, the kernel ends the process."""
    with RecordWriter(tmp_path / "a") as writer:
        positions = np.array([writer.write(key, pack(0.0, key, bytes(6000))) for key in range(10)])
    file = RecordFile(tmp_path / "a.rec")
    assert len(file.read(int(positions[9]))) == 6024
    os.truncate(tmp_path / "a.rec", 4096)
    with pytest.raises(DamagedRecord, match="the file was cut while it was in use"):
        file.read(int(positions[9]))
    with pytest.raises(UserError, match=r"a\.rec: the file was cut while it was in use; copy it again"):
        file.heads(positions)

"""Images that are known again where they have moved, by size and checksum of a sample."""

import os
import shutil
import zlib

import numpy as np
import pytest

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.files import contents
from facenet.data.files.annotation import annotate, read_annotation
from facenet.data.files.pack import pack_folder
from facenet.data.files.record_faces import RecordFaces
from facenet.data.identities import FolderFaces, Subset
from facenet.data.shards.faces import ShardFaces

END = contents.END


@pytest.mark.parametrize("size", [0, 1, END - 1, END, END + 1, 2 * END - 1, 2 * END, 2 * END + 1, 5 * END])
def test_a_file_and_its_bytes_have_one_checksum_and_both_ends_count(tmp_path, size):
    data = np.random.default_rng(size).bytes(size)
    path = tmp_path / "image"
    path.write_bytes(data)
    assert contents.of_file(str(path)) == contents.of_bytes(data)
    if size <= 2 * END:
        assert contents.of_bytes(data) == (size, zlib.crc32(data))
    for place in {0, size - 1} if size else ():
        other = bytearray(data)
        other[place] ^= 1
        assert contents.of_bytes(bytes(other)) != contents.of_bytes(data)


def test_what_is_no_readable_file_is_absent_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "none", ".", "a\0b"):
        assert contents.of_file(str(tmp_path / name)) == contents.ABSENT


def test_the_sample_is_keyed_and_bounded(tmp_path):
    faces = SyntheticFaces(num_identities=50, images_per_identity=40, size=16)
    faces.contents = lambda index: (index, 0)
    first, same, other = (contents.sample(faces, seed) for seed in (1, 1, 2))
    assert first == same != other and len(first["images"]) == 256
    indices = [index for index, _, _ in first["images"]]
    assert indices == sorted(set(indices)) and max(indices) > 1500


def folder(root):
    return FolderFaces(root)


def annotated(root):
    annotate(root, root.parent / f"{root.name}.txt")
    return read_annotation(root.parent / f"{root.name}.txt")


def part(root):
    return Subset(FolderFaces(root), [0, 2, 4, 5])


def packed(root):
    target = root.parent / f"{root.name}.pack"
    if not target.exists():
        pack_folder(FolderFaces(root), target)
    return RecordFaces(target)


def sharded(root):
    from facenet.data.shards.writing import write_shards

    target = root.parent / f"{root.name}.shards"
    if not target.exists():
        write_shards(FolderFaces(root), target, images_per_shard=3)
    return ShardFaces(str(target))


@pytest.mark.parametrize("source", [folder, annotated, part, packed, sharded])
def test_each_source_knows_its_images_elsewhere(make_folder, source):
    root = make_folder({"Ada": 4, "Bo": 4})
    before = contents.sample(source(root), 0)
    moved = root.with_name("moved")
    shutil.copytree(root, moved)
    if source is sharded:
        shutil.copytree(root.parent / "people.shards", root.parent / "moved.shards")
    assert len(before["images"]) == (4 if source is part else 8)
    assert before["fingerprint"] == source(moved).fingerprint and contents.find_changed(source(moved), before) is None


@pytest.mark.parametrize("source", [folder, annotated, part, packed])
def test_each_source_says_other_contents_under_the_same_names(make_folder, source):
    root = make_folder({"Ada": 4, "Bo": 4})
    before = contents.sample(source(root), 0)
    other = root.with_name("other")
    shutil.copytree(root, other)
    shutil.copy(root / "Bo" / "1.png", other / "Ada" / "2.png")
    faces = source(other)
    said = contents.find_changed(faces, before)
    assert said is not None and said.startswith(
        f"1 of {len(before['images'])} sampled images have other contents, first "
    )


def test_what_could_not_be_read_then_is_not_known_and_what_cannot_now_is_said(make_folder):
    """A network's disk that was away for a moment changes no data."""
    root = make_folder({"Ada": 4, "Bo": 4})
    faces = FolderFaces(root)
    before = contents.sample(faces, 0)
    away = {**before, "images": [[index, *contents.ABSENT] for index, _, _ in before["images"]]}
    assert contents.find_changed(faces, away) is None
    (root / "Bo" / "0.png").unlink()
    assert contents.find_changed(faces, before) == f"1 of 8 sampled images cannot be read, first {root}/Bo/0.png"


def test_drawn_faces_are_what_their_numbers_say():
    faces = SyntheticFaces(num_identities=2, images_per_identity=3, size=16)
    assert contents.sample(faces, 0) == {"fingerprint": faces.fingerprint, "images": []}
    assert contents.find_changed(faces, contents.sample(faces, 0)) is None


@pytest.mark.parametrize(
    "images",
    [
        None,
        "x",
        {"a": 1},
        [1, None, [], [0], [0, 1], ["0", 1, 2], [0.0, 1, 2], [True, 1, 2], [-1, 1, 2], [8, 1, 2], [10**30, 1, 2]],
    ],
)
def test_a_sample_that_nobody_wrote_says_nothing(make_folder, images):
    faces = FolderFaces(make_folder({"Ada": 4, "Bo": 4}))
    assert contents.find_changed(faces, {"fingerprint": faces.fingerprint, "images": images}) is None
    assert contents.find_changed(faces, images) is None

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from facenet.data.files.decode import Decode
from facenet.data.identities import Faces, FolderFaces, UnreadableImage
from facenet.data.shards import faces as shard_faces
from facenet.data.shards.faces import ShardFaces
from facenet.data.shards.writing import ORDER_SEED, write_shards
from facenet.data.source import ShardData
from facenet.data.split import split_images
from facenet.errors import UserError

from .conftest import PEOPLE, Server, jpeg, tar

pytest.importorskip("webdataset", reason="needs facenet[shards]")
ORDER = np.random.default_rng(ORDER_SEED).permutation(30)
PATTERN = "shard-{000000..000003}.tar"


def same_images(faces: Faces, folder: Faces, order: np.ndarray) -> bool:
    return all(np.array_equal(faces.load(n), folder.load(int(index))) for n, index in enumerate(order))


def test_pixels_and_labels_are_those_of_the_folder(people: Path, written: Path) -> None:
    folder, faces = FolderFaces(people), ShardFaces(str(written))
    assert faces.identities == folder.identities == tuple(PEOPLE)
    assert faces.labels.tolist() == folder.labels[ORDER].tolist()
    assert same_images(faces, folder, ORDER)
    assert faces.name(9) == f"{written}/shard-000001.tar@{faces.index.offsets[9]}"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_gives_the_same(people: Path, written: Path, server: Server, ranges: bool) -> None:
    server.ranges = ranges
    for address in ("written", "written/", f"written/{PATTERN}"):
        faces = ShardFaces(f"{server.address}/{address}")
        assert faces.fingerprint == ShardFaces(str(written)).fingerprint
        assert same_images(faces, FolderFaces(people), ORDER)


def test_some_shards_of_a_set_keep_their_index(written: Path) -> None:
    faces = ShardFaces(f"{written}/shard-{{000002..000003}}.tar")
    assert len(faces) == 14 and faces.first.tolist() == [0, 8, 14] and set(faces.identities) <= set(PEOPLE)
    assert np.array_equal(faces.load(3), ShardFaces(str(written)).load(19))


def test_images_are_decoded_as_the_files_are(tmp_path: Path) -> None:
    """Turned by EXIF, transparent, broken: the choices of data.* and the reasons are those of the folder."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "ab":
        (tmp_path / "root" / name).mkdir(parents=True)
    Image.new("RGB", (4, 9), (200, 0, 0)).save(tmp_path / "root" / "a" / "0.jpg", exif=exif)
    Image.new("RGBA", (3, 3), (9, 9, 9, 0)).save(tmp_path / "root" / "a" / "1.png")
    (tmp_path / "root" / "b" / "0.jpg").write_bytes(b"\xff\xd8 broken")
    write_shards(FolderFaces(tmp_path / "root"), tmp_path / "out", images_per_shard=2)
    order = np.random.default_rng(ORDER_SEED).permutation(3).tolist()
    for decode in (Decode(), Decode(alpha="white", orientation=False), Decode(max_pixels=10)):
        folder, faces = FolderFaces(tmp_path / "root", decode), ShardFaces(str(tmp_path / "out"), decode)
        for n, index in enumerate(order):
            try:
                expected = folder.load(index)
            except UnreadableImage as error:
                with pytest.raises(UnreadableImage) as found:
                    faces.load(n)
                assert found.value.reason == error.reason
                assert found.value.name == faces.name(n)
            else:
                assert np.array_equal(faces.load(n), expected)


def test_shards_of_others_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FACENET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    for number in range(2):
        members = [
            (f"{key}.{kind}", data)
            for key in range(3)
            for kind, data in (("jpg", jpeg(number, key)), ("cls", b"%d" % key))
        ]
        tar(tmp_path / "set" / f"a{number}.tar", members)
    with caplog.at_level(logging.INFO):
        first = ShardFaces(str(tmp_path / "set"))
    assert "2 shards without index.npz are counted, once" in caplog.text
    assert (len(first), first.identities) == (6, ("0", "1", "2"))

    def again(*_: object, **__: object) -> None:
        raise AssertionError("counted again")

    with monkeypatch.context() as patch:
        patch.setattr(shard_faces, "scan_all", again)
        assert ShardFaces(f"{tmp_path}/set/a{{0..1}}.tar").fingerprint == first.fingerprint
    tar(tmp_path / "set" / "a1.tar", [*members, ("9.jpg", jpeg(9)), ("9.cls", b"9")])
    assert len(ShardFaces(str(tmp_path / "set"))) == 7, "a changed shard is counted anew"


def test_what_is_missing_or_another_file_is_told_before_training(written: Path, tmp_path: Path, server: Server) -> None:
    for wrong, message in (
        (
            str(tmp_path / "none"),
            "no index.npz there; name shards like .*casia-{000000..000099}.tar, or write some with: facenet-data",
        ),
        (f"{server.address}/none", "no index.npz there"),
        (f"{written}/shard-{{000003..000005}}.tar", "2 of 3 shards are missing, first .*shard-000004.tar"),
        (f"{written}::x.tar", "expected .tar files, or one folder"),
    ):
        with pytest.raises(UserError, match=f"data.shards.*{message}"):
            ShardFaces(wrong)
    copied = shutil.copytree(written, tmp_path / "copied")
    (copied / "shard-000002.tar").write_bytes((copied / "shard-000002.tar").read_bytes()[:-512])
    with pytest.raises(
        UserError, match=r"shard-000002.tar: has \d+ bytes, the index says \d+; it is cut or another file"
    ):
        ShardFaces(str(copied))
    (copied / "shard-000002.tar").unlink()
    with pytest.raises(UserError, match="1 of 4 shards are missing, first .*shard-000002.tar; copy them there"):
        ShardFaces(str(copied))


def test_identities_side_by_side_are_warned_of(written: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ShardFaces(str(written))
    assert "side by side" not in caplog.text
    members = [(f"{n}.{kind}", data) for n in range(20) for kind, data in (("jpg", b"x"), ("cls", b"%d" % (n // 5)))]
    tar(tmp_path / "sorted.tar", members)
    ShardFaces(str(tmp_path / "sorted.tar"))
    assert "images of one identity lie side by side" in caplog.text


def test_the_choice_of_data(written: Path) -> None:
    assert len(ShardData(shards=str(written), min_images=7).open()) == 24
    with pytest.raises(UserError, match="data.feed=ram: shards are read in order and not cached; leave it at auto"):
        ShardData(shards="x", feed="ram")
    with pytest.raises(UserError, match="data.shuffle_buffer: expected 1 or more, got 0"):
        ShardData(shards="x", shuffle_buffer=0)


def test_the_last_images_validate_and_every_identity_trains(written: Path) -> None:
    faces = ShardFaces(str(written))
    train, val = split_images(faces, 0.2, None)
    assert val.tolist() == list(range(24, 30)) and train.tolist() == list(range(24))
    train, val = split_images(faces, 0.9, None)
    assert set(faces.labels[train]) == set(range(4)) and sorted([*train, *val]) == list(range(30))

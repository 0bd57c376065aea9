"""A remembered index is the listed one, or is not taken."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from facenet.data.files import folder_index as module
from facenet.data.files.folder_index import FolderIndex, folder_index
from facenet.data.identities import FolderFaces, ImageList
from facenet.errors import UserError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty files at rest for an hour; the index of any number of images is worth remembering here."""
    monkeypatch.setenv("FACENET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "WORTH", 1)
    root = tmp_path / "people"
    for name, count in (("ann", 2), ("bö b", 1), ("cy\udcff", 3)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.jpg").touch()
    (root / "README").touch()
    rest(root)
    return root


def rest(root: Path) -> None:
    for folder in (root, *root.iterdir()):
        os.utime(folder, (time.time() - 3600,) * 2)


def remembered(root: Path) -> FolderIndex | None:
    found = list((root.parent / "cache" / "index").glob("*"))
    assert len(found) <= 1
    return module._recall(found[0], root) if found else None


def test_the_second_start_takes_what_the_first_listed(root: Path) -> None:
    first = folder_index(root)
    assert first.identities == ("ann", "bö b", "cy\udcff")
    assert first.labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert [first.name(index) for index in range(6)] == ["0.jpg", "1.jpg", "0.jpg", "0.jpg", "1.jpg", "2.jpg"]
    assert first.left_out == {"other": 1}
    again = remembered(root)
    assert again is not None
    for field in ("identities", "names", "left_out", "fingerprint"):
        assert getattr(again, field) == getattr(first, field), field
    assert again.counts.tolist() == first.counts.tolist() and again.ends.tolist() == first.ends.tolist()
    faces = FolderFaces(root)
    assert [faces.name(index) for index in (2, 5)] == [str(root / "bö b" / "0.jpg"), str(root / "cy\udcff" / "2.jpg")]
    paths = [faces.name(index) for index in range(6)]
    assert ImageList(paths, faces.labels, faces.identities).fingerprint == faces.fingerprint


def add(root: Path) -> None:
    (root / "ann" / "9.jpg").touch()


def remove(root: Path) -> None:
    (root / "cy\udcff" / "0.jpg").unlink()


def rename(root: Path) -> None:
    (root / "ann" / "0.jpg").rename(root / "ann" / "5.jpg")


def new_identity(root: Path) -> None:
    (root / "dan").mkdir()
    (root / "dan" / "0.jpg").touch()
    os.utime(root / "dan", (0, 0))


def exchange(root: Path) -> None:
    (root / "ann").rename(root / "x")
    (root / "bö b").rename(root / "ann")
    (root / "x").rename(root / "bö b")


@pytest.mark.parametrize("change", [add, remove, rename, new_identity, exchange])
def test_whatever_changes_the_listing_is_seen(root: Path, change: Callable[[Path], None]) -> None:
    before = folder_index(root)
    assert remembered(root) is not None
    change(root)
    assert remembered(root) is None
    after = folder_index(root)
    assert after.fingerprint != before.fingerprint
    assert after.fingerprint == module._list(root)[0].fingerprint


def test_folders_within_identities_are_looked_at_too(root: Path) -> None:
    (root / "ann" / "in").mkdir()
    (root / "ann" / "in" / "0.jpg").touch()
    for folder in (root / "ann" / "in", root, *root.iterdir()):
        os.utime(folder, (time.time() - 3600,) * 2)
    deeper = folder_index(root, 2)
    assert deeper.counts.tolist() == [3, 1, 3] and folder_index(root).counts.tolist() == [2, 1, 3]
    places = list((root.parent / "cache" / "index").glob("*"))
    assert len(places) == 2 and all(module._recall(place, root) is not None for place in places)
    (root / "ann" / "in" / "1.jpg").touch()
    assert folder_index(root, 2).counts.tolist() == [4, 1, 3]


def test_a_folder_that_changed_just_now_is_not_remembered(root: Path) -> None:
    """Its time might not change when it changes once more within the same tick."""
    os.utime(root / "ann")
    folder_index(root)
    assert remembered(root) is None


def test_links_are_not_remembered(root: Path, tmp_path: Path) -> None:
    """Their targets come and go without a trace in the folder."""
    (root / "ann" / "link.jpg").symlink_to(tmp_path / "nowhere.jpg")
    rest(root)
    assert len(folder_index(root).ends) == 6
    assert remembered(root) is None
    (tmp_path / "nowhere.jpg").touch()
    assert len(folder_index(root).ends) == 7


@pytest.mark.parametrize("at", [0, 9, 40, -1])
def test_damage_is_listed_anew(root: Path, at: int) -> None:
    expected = folder_index(root).fingerprint
    (place,) = (root.parent / "cache" / "index").glob("*")
    data = bytearray(place.read_bytes())
    data[at] ^= 1
    place.write_bytes(data)
    assert remembered(root) is None
    assert folder_index(root).fingerprint == expected
    assert remembered(root) is not None, "written anew"
    place.write_bytes(bytes(data[: len(data) // 2]))
    assert remembered(root) is None


def test_a_place_that_cannot_be_written_is_no_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.parent / "file").touch()
    monkeypatch.setenv("FACENET_CACHE", str(root.parent / "file"))
    assert len(folder_index(root).ends) == 6


def test_listing_asks_no_file_for_its_state(root: Path) -> None:
    """On a cold disk that would be one more read for each of half a million images."""
    code = (
        "import os, sys\n"
        "asked = []\n"
        "sys.addaudithook(lambda event, args: asked.append(args) if event == 'os.scandir' else None)\n"
        "stat = os.stat\n"
        "os.stat = lambda path, **more: asked.append((path, 'stat')) or stat(path, **more)\n"
        "from pathlib import Path\n"
        "from facenet.data.files.folder_index import _list\n"
        "asked.clear()\n"
        f"index, _ = _list(Path({str(root.parent / 'people')!r}))\n"
        "images = [entry for entry in asked if str(entry[0]).endswith('.jpg')]\n"
        "assert len(asked) <= 6 and not images, asked"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_one_identity_beside_deeper_images_says_where_these_are(tmp_path: Path) -> None:
    for image in ("d/a/1.jpg", "d/b/1.jpg", "d/cover.jpg"):
        (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / image).touch()
    with pytest.raises(UserError, match=r"only one identity has images \(d\).*deeper, as in d/a: name .*/d if that"):
        folder_index(tmp_path)


def test_links_to_folders_above_are_left_out_and_others_followed(tmp_path: Path) -> None:
    for image in ("f/a/s/1.jpg", "f/b/1.jpg", "elsewhere/2.jpg"):
        (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / image).touch()
    (tmp_path / "f/a/me").symlink_to(".")
    (tmp_path / "f/b/up").symlink_to("..")
    (tmp_path / "f/b/more").symlink_to(tmp_path / "elsewhere")
    index = folder_index(tmp_path / "f", 3)
    assert [index.name(at) for at in range(3)] == ["s/1.jpg", "1.jpg", "more/2.jpg"]
    assert (index.counts.tolist(), index.left_out) == ([1, 2], {"links to a folder above": 2})


@pytest.mark.parametrize("outer", ["", "only/"])
def test_folders_of_an_only_folder_are_taken_for_people_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, outer: str
) -> None:
    for name in ("s1", "s2"):
        (tmp_path / outer / name).mkdir(parents=True)
        (tmp_path / outer / name / "1.jpg").touch()
    assert FolderFaces(tmp_path).identities == ("s1", "s2")
    assert ("holds one folder only" in caplog.text) == bool(outer)

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facenet.data.files.decode import IMAGE_SUFFIXES, SUFFIXES
from facenet.data.identities import FolderFaces, ImageList, Subset, UnreadableImage, identity_index, with_min_images
from facenet.errors import UserError

from .conftest import MakeFolder, NumberedFaces


def test_folder_is_sorted_and_pixels_belong_to_their_label(make_folder: MakeFolder) -> None:
    faces = FolderFaces(make_folder({"zoe": 2, "Ann": 1, "bob": 3}))
    assert faces.identities == ("Ann", "bob", "zoe")
    assert faces.labels.tolist() == [0, 1, 1, 1, 2, 2]
    assert [faces.load(index)[0, 0].tolist() for index in range(6)] == [
        [0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 2, 0], [2, 0, 0], [2, 1, 0],
    ]  # fmt: skip
    assert faces.load(0).shape == (8, 6, 3)
    assert faces.load(0).dtype == np.uint8
    assert faces.name(5).endswith("zoe/1.png")


def test_files_that_are_no_images_are_counted_and_leave_no_label_gap(make_folder: MakeFolder) -> None:
    root = make_folder({"ann": 1, "bob": 2})
    (root / "README.txt").write_text("x")
    (root / "bob" / "Thumbs.db").write_bytes(b"x")
    (root / "bob" / "._0.png").write_bytes(b"resource fork")
    (root / "bob" / "folder.png").mkdir()
    (root / ".cache").mkdir()
    (root / "aaa_empty").mkdir()
    faces = FolderFaces(root)
    assert faces.identities == ("ann", "bob")
    assert faces.labels.tolist() == [0, 1, 1]
    assert faces.left_out == "1 .txt"  # Thumbs.db and hidden ones are the system's


def test_what_systems_leave_behind_is_no_identity_and_not_told(make_folder: MakeFolder) -> None:
    root = make_folder({"ann": 1, "bob": 2})
    for junk in ("lost+found", "__MACOSX", "$RECYCLE.BIN", "@eaDir", ".Trash-0"):
        (root / junk).mkdir()
        Image.new("RGB", (4, 4)).save(root / junk / "0.png")
        (root / "ann" / junk).mkdir()
        Image.new("RGB", (4, 4)).save(root / "ann" / junk / "0.png")
    for junk in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        (root / junk).write_bytes(b"x")
        (root / "bob" / junk).write_bytes(b"x")
    faces = FolderFaces(root)
    assert faces.identities == ("ann", "bob") and len(faces) == 3 and not faces.left_out
    assert FolderFaces(root, depth=2).fingerprint == faces.fingerprint


def test_every_format_that_is_read_makes_an_identity(tmp_path: Path) -> None:
    """Of any suffix: an identity of GIFs is one, by a folder as by a list."""
    for suffix in IMAGE_SUFFIXES:
        (tmp_path / "people" / suffix[1:]).mkdir(parents=True)
        kind = next(kind for kind, suffixes in SUFFIXES.items() if suffix in suffixes)
        Image.new("L", (4, 4), 9).save(tmp_path / "people" / suffix[1:] / f"0{suffix}", kind)
    faces = FolderFaces(tmp_path / "people")
    assert len(faces) == len(IMAGE_SUFFIXES) == 15
    assert [round(float(faces.load(index).mean())) for index in range(15)] == [9] * 15
    (tmp_path / "people" / "gif" / "movie.mp4").touch()
    (tmp_path / "people" / "gif" / "raw.heic").touch()
    (tmp_path / "people" / "gif" / "raw.HEIC").touch()
    assert FolderFaces(tmp_path / "people").left_out == "2 .heic, 1 .mp4"


def deep(root: Path, *images: str) -> Path:
    for number, image in enumerate(images):
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(root / image)
    return root


def test_a_folder_that_holds_all_identities_is_looked_into(tmp_path: Path) -> None:
    root = deep(tmp_path, "all/faces/ann/0.png", "all/faces/bob/0.png", "all/faces/bob/1.png")
    (root / "all" / "README").touch()
    faces = FolderFaces(root)
    assert (faces.root, faces.identities, len(faces)) == (root / "all" / "faces", ("ann", "bob"), 3)
    assert faces.name(2) == f"{root}/all/faces/bob/1.png"


def test_images_one_folder_deeper_are_told_and_read_where_asked(tmp_path: Path) -> None:
    root = deep(tmp_path, "ann/day 1/0.png", "ann/day 2/0.png", "bob/day 1/0.png", "bob/1.png")
    with pytest.raises(UserError, match=r"only one identity has images \(bob\)"):
        FolderFaces(root)
    (root / "bob" / "1.png").rename(root / "bob" / "day 1" / "1.png")
    with pytest.raises(
        UserError,
        match=r"images lie one folder deeper, as in ann/day 1: name .*/ann if .*data.depth=2 \(--depth 2\) if ann is",
    ):
        FolderFaces(root)
    faces = FolderFaces(root, depth=2)
    assert faces.identities == ("ann", "bob") and faces.labels.tolist() == [0, 0, 1, 1]
    assert faces.name(1) == f"{root}/ann/day 2/0.png" and faces.load(1)[0, 0, 0] == 1
    deep(root, "cy/0.png")
    assert FolderFaces(root, depth=2).identities == ("ann", "bob", "cy")
    deep(root, "dan/0.png")
    assert FolderFaces(root).left_out == "4 images in deeper folders"


def test_capital_suffixes_and_grey_palette_or_transparent_images_are_rgb(tmp_path: Path) -> None:
    for identity in ("a", "b"):
        (tmp_path / identity).mkdir()
    Image.new("L", (5, 4), 7).save(tmp_path / "a" / "GREY.PNG")
    Image.new("RGBA", (5, 4), (1, 2, 3, 0)).save(tmp_path / "a" / "alpha.png")
    Image.new("P", (5, 4)).save(tmp_path / "b" / "palette.png")
    Image.new("CMYK", (5, 4)).save(tmp_path / "b" / "print.jpg")
    faces = FolderFaces(tmp_path)
    assert [faces.load(index).shape for index in range(4)] == [(4, 5, 3)] * 4
    assert faces.load(0)[0, 0].tolist() == [7, 7, 7]
    assert faces.load(1)[0, 0].tolist() == [1, 2, 3]


def test_fingerprint_follows_names_not_the_place(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"ann": 1, "bob": 2})
    before = FolderFaces(root).fingerprint
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert FolderFaces(moved).fingerprint == before
    assert len(before) == 16
    (moved / "bob" / "1.png").rename(moved / "bob" / "2.png")
    assert FolderFaces(moved).fingerprint != before


@pytest.mark.parametrize(
    ("people", "message"),
    [({}, "no images; expected .*/<identity>/<image>"), ({"ann": 3}, r"only one identity has images \(ann\)")],
)
def test_too_little_to_train_on(make_folder: MakeFolder, people: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FolderFaces(make_folder(people))


def test_a_file_in_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "list.txt").touch()
    with pytest.raises(UserError, match=r"list.txt: is a file; expected .*/<identity>/<image>"):
        FolderFaces(tmp_path / "list.txt")


def test_missing_folder_and_images_without_identity_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        FolderFaces(tmp_path / "nowhere")
    Image.new("RGB", (4, 4)).save(tmp_path / "flat.png")
    with pytest.raises(UserError, match="1 images but no folder per identity"):
        FolderFaces(tmp_path)


def truncated_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()[:-600]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (truncated_jpeg(), "truncated"),
        (b"", "cannot identify it as an image$"),
        (b"<html>404</html>", "cannot identify"),
        (None, "No such file"),
    ],
)
def test_damage_is_an_unreadable_image_with_name_and_reason(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=reason) as caught:
        ImageList([str(path)], [0], ["a"]).load(0)
    assert caught.value.name == str(path)
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("labels", [[0, 2], [0, 0], [0, 1, 2], [-1, 0]])
def test_image_list_refuses_labels_with_gaps(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="labels"):
        ImageList(["a/0.png", "b/0.png"], labels, ["a", "b"])


def test_subset_renumbers_and_reads_the_parents_images() -> None:
    faces = NumberedFaces([0, 1, 1, 2, 2, 3])
    part = Subset(faces, [4, 1, 5])
    assert part.labels.tolist() == [1, 0, 2]
    assert part.identities == ("p1", "p2", "p3")
    assert [part.name(index) for index in range(3)] == ["face4", "face1", "face5"]
    assert part.load(0)[0, 0, 0] == 4
    nested = Subset(part, [2, 0])
    assert nested.labels.tolist() == [1, 0]
    assert nested.identities == ("p2", "p3")
    assert nested.load(0)[0, 0, 0] == 5
    assert len({part.fingerprint, nested.fingerprint, faces.fingerprint, Subset(faces, [4, 5, 1]).fingerprint}) == 4


def test_subset_can_keep_the_parents_labels() -> None:
    part = Subset(NumberedFaces([0, 1, 1, 2]), [3, 2], keep_labels=True)
    assert part.labels.tolist() == [2, 1]
    assert part.identities == ("p0", "p1", "p2")


def test_identities_with_too_few_images_are_left_out() -> None:
    faces = NumberedFaces([0, 1, 1, 2, 2, 3])
    assert with_min_images(faces, 1) is faces
    kept = with_min_images(faces, 2)
    assert kept.identities == ("p1", "p2")
    assert kept.labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match=r"data.min_images=3: 0 of 4 identities"):
        with_min_images(faces, 3)


def test_identity_index_groups_images() -> None:
    order, start, count = identity_index(np.array([2, 0, 2, 3, 0]))
    groups = [order[start[label] : start[label] + count[label]].tolist() for label in range(4)]
    assert groups == [[1, 4], [], [0, 2], [3]]


@pytest.mark.data
def test_real_faces(train_faces_dir: Path) -> None:
    faces = FolderFaces(train_faces_dir)
    assert len(faces) == 10_827
    assert len(faces.identities) == 359
    assert not faces.left_out
    assert faces.load(0).shape == (160, 160, 3)

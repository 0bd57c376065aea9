from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facenet.data import annotation
from facenet.data.annotation import annotate, read_annotation, write_annotation
from facenet.data.identities import FolderFaces, ImageList
from facenet.errors import UserError

from .conftest import MakeFolder

# everything a POSIX path component can hold but line breaks and a blank at the end
component = st.text(
    st.characters(blacklist_characters="/\0\n", blacklist_categories=()).filter(
        lambda c: not 0xD800 <= ord(c) < 0xDC80 and not 0xDCFF < ord(c) < 0xE000
    ),
    min_size=1,
    max_size=12,
).filter(lambda text: text not in {".", ".."} and text.rstrip(" \t\r") == text)


@given(people=st.lists(st.tuples(component, component), min_size=2, max_size=6, unique_by=lambda pair: pair[0]))
def test_any_path_survives_the_round_trip(
    people: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    paths = [os.path.join("/faces", identity, image) for identity, image in people]
    file = tmp_path_factory.mktemp("list") / "cls_train.txt"
    write_annotation(ImageList(paths, range(len(paths)), [identity for identity, _ in people]), file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annotation, "_check_some_exist", lambda *_: None)
        faces = read_annotation(file)
    assert faces.paths == paths
    assert faces.labels.tolist() == list(range(len(paths)))
    assert list(faces.identities) == [identity for identity, _ in people]


def test_annotate_writes_the_references_lines_sorted(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"b; c": 2, "a d": 1})
    out = tmp_path / "new" / "cls_train.txt"
    listed = annotate(root, out)
    assert out.read_text() == f"0;{root}/a d/0.png\n1;{root}/b; c/0.png\n1;{root}/b; c/1.png\n"
    assert len(listed) == 3
    assert [path.name for path in out.parent.iterdir()] == ["cls_train.txt"]
    faces = read_annotation(out)
    assert faces.identities == ("a d", "b; c")
    assert faces.fingerprint == FolderFaces(root).fingerprint
    assert np.array_equal(faces.load(2), listed.load(2))


def test_relative_folder_becomes_absolute(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder({"a": 1, "b": 1})
    monkeypatch.chdir(root.parent)
    annotate("people", "list.txt")
    assert (tmp_path / "list.txt").read_text().startswith(f"0;{root}/a/0.png\n")


def test_the_references_own_file_is_read(make_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    """Gaps where its folder held stray files, images in any order, CRLF, blanks at the ends of lines, an empty last
    line.
    """
    root = make_folder({"a": 2, "b": 1})
    file = root.parent / "cls_train.txt"
    file.write_bytes(f"\ufeff3;{root}/a/1.png \r\n3;{root}/a/0.png\t\r\n7;{root}/b/0.png\r\n\r\n".encode())
    with caplog.at_level(logging.WARNING):
        faces = read_annotation(file)
    assert faces.labels.tolist() == [0, 0, 1]
    assert faces.identities == ("a", "b")
    assert faces.paths == [f"{root}/a/1.png", f"{root}/a/0.png", f"{root}/b/0.png"]
    assert "6 of 8 labels have no image" in caplog.text


def test_relative_paths_count_from_the_list_and_names_stay_distinct(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 1, "b": 1})
    (root / "list.txt").write_text("0;a/0.png\n1;a/0.png\n2;b/0.png\n")
    faces = read_annotation(root / "list.txt")
    assert faces.identities == ("a", "1", "b")
    assert faces.load(2)[0, 0, 0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0;/x/a.png\nfoo\n", r"list.txt:2: expected <label>;<path>.*'foo'"),
        ("0;/x/a.png\n\n-1;/x/b.png\n", "list.txt:3: expected"),
        ("0;/x/a.png\none;/x/b.png\n", "list.txt:2: expected"),
        ("0;\n", "list.txt:1: expected"),
        ("\n \n", "lists no images"),
        ("", "lists no images"),
        ("4;/x/a.png\n4;/x/b.png\n", r"only one identity is listed \(label 4\)"),
        ("0;/nowhere/a.png\n1;/nowhere/b.png\n", "none of 2 sampled images exists, first /nowhere/a.png"),
    ],
)
def test_wrong_lists_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "list.txt"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_annotation(file)


def test_missing_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data.list: .*gone.txt cannot be read \(No such file.*facenet-data annotate"):
        read_annotation(tmp_path / "gone.txt")


@pytest.mark.parametrize("name", ["a\nb.png", "a.png ", "a.png\t"])
def test_a_path_that_does_not_fit_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    out = tmp_path / "list.txt"
    with pytest.raises(UserError, match="rename it"):
        write_annotation(ImageList([f"/x/{name}", "/y/a.png"], [0, 1], ["x", "y"]), out)
    assert not list(tmp_path.iterdir())


def test_unwritable_place(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 1, "b": 1})
    with pytest.raises(UserError, match=r"list.txt: cannot be written \(.*0.png"):
        annotate(root, root / "a" / "0.png" / "list.txt")

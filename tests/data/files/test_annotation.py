from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facenet.data.files import annotation
from facenet.data.files.annotation import annotate, read_annotation, write_annotation
from facenet.data.identities import FolderFaces, ImageList
from facenet.errors import UserError

from ..conftest import MakeFolder

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
    "line",
    [
        "{0};{1}\\0.png",
        "{0};.\\{1}\\0.png\r",
        '{0};"{1}/0.png"',
        "{0};'{1}/0.png'",
        '"{0};{1}/0.png"',
        "{0}; {1}/0.png",
        "{0} ; {1}/0.png",
        "{0};~/people/{1}/0.png",
    ],
)
def test_paths_as_people_have_them(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    root = make_folder({"a": 1, "b c": 2})
    monkeypatch.setenv("HOME", str(root.parent))
    rows = [line.format(label, name) for label, name in enumerate(["a", "b c"])]
    (root / "list.txt").write_text("\n".join(rows))
    faces = read_annotation(root / "list.txt")
    assert faces.identities == ("a", "b c") and [faces.load(at)[0, 0, 0] for at in (0, 1)] == [0, 1]


def test_backslashes_in_names_stay_where_such_files_are(tmp_path: Path) -> None:
    for name in ("a\\1.png", "b\\1.png"):
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("0;a\\1.png\n1;b\\1.png\n")
    assert read_annotation(tmp_path / "list.txt").paths == [f"{tmp_path}/a\\1.png", f"{tmp_path}/b\\1.png"]


@pytest.mark.parametrize("form", ["{0};{1}/0.png", "{0};{1}\\0.png", "{0}; '{1}/0.png'"])
def test_a_list_of_a_chinese_windows_is_read_where_names_are_in_utf8(make_folder: MakeFolder, form: str) -> None:
    """The reference writes its list in the system's encoding. The second byte of a letter may be a backslash there."""
    names = ("ann", "李雷", "乗")
    root = make_folder(dict.fromkeys(names, 1))
    assert b"\\" in "乗".encode("gb18030")
    (root / "list.txt").write_bytes("\n".join(form.format(at, name) for at, name in enumerate(names)).encode("gb18030"))
    assert read_annotation(root / "list.txt").identities == names


def test_an_image_that_is_listed_twice_is_told(make_folder: MakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    root = make_folder({"a": 1, "b": 2})
    lines = ["0;a/0.png", "1;b/0.png", "1;b/1.png", "1;b/1.png", "1;b/1.png", "0;b/0.png"]
    (root / "list.txt").write_text("\n".join(lines[:3]))
    read_annotation(root / "list.txt")
    assert not caplog.records
    (root / "list.txt").write_text("\n".join(lines))
    assert len(read_annotation(root / "list.txt")) == 6  # as the reference trains on it
    assert [record.getMessage() for record in caplog.records] == [
        f"{root}/list.txt: 2 lines list an image again, first {root}/b/1.png with labels 1 and 1",
        f"{root}/list.txt: 1 lines list an image under another label, first {root}/b/0.png with labels 1 and 0",
    ]


@pytest.mark.parametrize(
    ("line", "shape"),
    [
        ("0,/x/a.png", "<label>,<path>"),
        ("0\t/x/a.png", "<label> TAB <path>"),
        ("7\t0.000000\ta/1.png", "<key> TAB <label> TAB <path>, a list of im2rec"),
        ("1\t/x/1.png\t0", "<aligned> TAB <path> TAB <label>, a list of insightface's face2rec"),
        ("/x/a b.png 0", "<path> <label>"),
        ("/x/a.png;0", "<path> <label>"),
        ("/x/a.png", "a path without label"),
    ],
)
def test_the_shape_of_another_list_is_named(tmp_path: Path, line: str, shape: str) -> None:
    (tmp_path / "list.txt").write_text(f"0;/x/b.png\n{line}\n")
    with pytest.raises(UserError, match=f"list.txt:2: expected .*; it seems to be {shape}: write the label and ;"):
        read_annotation(tmp_path / "list.txt")


@pytest.mark.parametrize("path", ["D:\\faces\\a\\1.jpg", "c:/faces/a.jpg", "\\\\nas\\faces\\a.jpg"])
def test_absolute_paths_of_windows_are_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "list.txt").write_text(f"0;{path}\n")
    with pytest.raises(UserError, match="list.txt:1: .* is a path of a Windows machine; write it as it is called here"):
        read_annotation(tmp_path / "list.txt")


@pytest.mark.parametrize("path", ["..\\b\\1.png", "a\\..\\..\\1.png", "a/../../1.png"])
def test_no_spelling_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "list.txt").write_text(f"0;{path}\n1;a.png\n")
    with pytest.raises(UserError, match="list.txt:1: .* leads out of the list's folder"):
        read_annotation(tmp_path / "list.txt")


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

"""Annotation lists whose names look like something else, and spellings that a byte makes out of another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from facenet.data.files.annotation import read_annotation
from facenet.errors import UserError


def listed(folder: Path, lines: str | bytes, *images: str) -> list[str]:
    """Paths that are read, from the list's folder."""
    for image in images:
        place = Path(f"{folder}/{image}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    (folder / "list.txt").write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    return [path[len(f"{folder}/") :] for path in read_annotation(folder / "list.txt").paths]


@pytest.mark.parametrize(
    "names", [("a:/1.png", "b:/1.png"), (" a/1.png", " b/1.png"), ("'a/1'", "'b/1'"), ("~/1", "~b/1")]
)
def test_names_that_look_like_something_else_are_files_where_they_are_there(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    assert listed(tmp_path, f"0;{names[0]}\n1;{names[1]}\n", *names) == [*names]


@pytest.mark.parametrize("line", ['"{}";"{}/1.png"', '"{}";{}/1.png', "'{};{}/1.png'"])
def test_quotes_around_the_line_or_its_parts(tmp_path: Path, line: str) -> None:
    text = f"{line.format(0, 'a')}\n{line.format(1, 'b')}\n"
    assert listed(tmp_path, text, "a/1.png", "b/1.png") == ["a/1.png", "b/1.png"]


def test_half_of_a_chinese_letter_is_no_folder_that_one_leads_out_of(tmp_path: Path) -> None:
    """0x81 0x5c is one letter in GB18030 and ends with a backslash in bytes."""
    inner = tmp_path / "inner"
    (inner / "乗A").mkdir(parents=True)
    (tmp_path / "secret.png").touch()
    with pytest.raises(UserError, match="leads out of the list's folder"):
        listed(inner, b"0;\x81\\A\\..\\..\\secret.png\n1;\x81\\A\\..\\..\\secret.png\n")
    assert os.path.isfile(inner / "乗A/../../secret.png")
    twin = listed(inner, b"0;\x81\\A\\1.png\n1;\x81\\B\\1.png\n", "乗A/1.png", "乗B/1.png")
    assert twin == ["乗A/1.png", "乗B/1.png"]

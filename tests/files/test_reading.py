"""Text in the encodings and with the line ends in which people have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from facenet.data.files.annotation import read_annotation
from facenet.data.files.record_faces import RecordFaces
from facenet.data.files.records import RecordWriter, pack, read_index
from facenet.errors import UserError
from facenet.evaluation.benchmarks.pairs_file import read_pairs
from facenet.files.plain import yaml_text
from facenet.files.reading import decoded, open_text
from facenet.tracking.dllogger import read_metric

CODES = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
ENDS = ("\n", "\r\n", "\r")
every_text = pytest.mark.parametrize("code", CODES)
every_end = pytest.mark.parametrize("end", ENDS, ids=("LF", "CRLF", "CR"))


@every_text
@every_end
def test_lists_and_pairs(tmp_path: Path, code: str, end: str) -> None:
    for name in ("ann/1.png", "böb/1.png", "böb/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    lines = ["3;ann/1.png", "7;böb/1.png", "7;böb/2.png"]
    (tmp_path / "list.txt").write_bytes("".join(line + end for line in lines).encode(code))
    faces = read_annotation(tmp_path / "list.txt")
    assert faces.labels.tolist() == [0, 1, 1] and faces.identities == ("ann", "böb")
    assert faces.paths == [str(tmp_path / line[2:]) for line in lines]
    pairs = ["2\t1", "Jörg\t1\t2", "Jörg\t1\tBo\t3", "Bo\t3\t12", "Bo\t1\tCy Lee\t4"]
    (tmp_path / "pairs.txt").write_bytes(end.join(pairs).encode(code))
    listed = read_pairs(tmp_path / "pairs.txt")
    assert listed.right == ["Jörg/Jörg_0002", "Bo/Bo_0003", "Bo/Bo_0012", "Cy Lee/Cy Lee_0004"]


def test_the_encoding_is_known_without_a_mark_whatever_the_first_letter_is(tmp_path: Path) -> None:
    for code in ("utf-16-le", "utf-16-be"):
        assert decoded("李雷\t1\t2\n李雷\t1\tJosé\t3\n".encode(code)).startswith("李雷\t1\t2")
    assert decoded(b"0;a\0b.png\n1;c.png\n") == "0;a\0b.png\n1;c.png\n"  # a zero byte makes no UTF-16
    (tmp_path / "list.txt").write_bytes(b"0;a\0b/1.png\n1;c/1.png\n")
    with pytest.raises(UserError, match="none of 2 sampled images exists"):
        read_annotation(tmp_path / "list.txt")


def test_a_return_within_a_line_stays_where_lines_end_otherwise(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"0;/faces/a\rb/1.png\n1;/faces/c\xff/1.png\n")
    with open_text(tmp_path / "list.txt", any_bytes=True, lf_only=True) as file:
        assert list(file) == ["0;/faces/a\rb/1.png\n", "1;/faces/c\udcff/1.png\n"]


@every_text
def test_yaml_logs_and_indices(tmp_path: Path, code: str) -> None:
    path = tmp_path / "x"
    path.write_bytes("# @package _global_\nnote: grün\n".encode(code))
    assert yaml_text(path).startswith("# @package") and yaml_text(path).endswith("grün\n")
    path.write_bytes('DLLL {"type": "LOG", "step": [1, 2], "data": {"train.loss": 0.5}}\r\n'.encode(code))
    assert read_metric(path, "train.loss") == [(1, 2, 0.5)]
    path.write_bytes("0\t0\r\n3\t64\r\n".encode(code))
    keys, positions = read_index(path, 100)
    assert keys.tolist() == [0, 3] and positions.tolist() == [0, 64]


def test_names_that_an_editor_saved_belong_to_the_pack(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "train") as writer:
        for key in range(4):
            writer.write(key, pack(float(key // 2), key, b"an image"))
    names = '{"identities": ["ann", "bob"], "num_images": 4, "fingerprint": "0"}'
    (tmp_path / "identities.json").write_bytes(names.encode("utf-8-sig"))
    assert RecordFaces(tmp_path).identities == ("ann", "bob")


def test_what_is_cut_or_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("0;a/1.png\n1;b/1.png\n".encode("utf-16")[:-1])
    with pytest.raises(UserError, match=r"data.list: .*list.txt is damaged .*; save it as UTF-8"):
        read_annotation(path)
    with pytest.raises(UserError, match="list.txt: is not text in UTF-8 or UTF-16; save it"):
        read_pairs(path)
    with pytest.raises(ValueError, match="utf-8"):
        decoded(b"gr\xfcn")
    assert decoded(b"gr\xfcn", "replace") == "gr\ufffdn" and decoded(b"") == ""

"""Two settings pair by pair: who is right alone, by counting; and what a stranger's lists may not do."""

from __future__ import annotations

import gzip
import itertools
import math
import random
import re

import pytest
from PIL import Image

from facenet.errors import UserError
from facenet.evaluation.judged import JudgedPair, below_one_folder, read_pairs, save_pairs
from facenet.reports import pairwise
from facenet.reports.page import page
from facenet.reports.pairwise import Found, compared, faces_of, mcnemar
from facenet.reports.study import Job, Study

NAMES = ("lr 1e-3 · bs 30", "lr 1e-3 · bs 96")


def pairs(answers, far=0.5):
    return [
        JudgedPair(f"p{number}/1.jpg", f"p{number}/2.jpg", number % 2 == 0, far + number / 100, right)
        for number, right in enumerate(answers)
    ]


def test_pairs_are_counted_by_who_is_right():
    draw = random.Random(7)
    one, other = (pairs([draw.random() < 0.7 for _ in range(200)], far) for far in (0.5, draw.random()))
    found = compared(NAMES, one, other)
    naive = dict.fromkeys(itertools.product((True, False), repeat=2), 0)
    for mine, theirs in zip(one, other, strict=True):
        naive[mine.correct, theirs.correct] += 1
    assert (found.both, found.first, found.second, found.neither) == tuple(naive.values())
    assert len(found.listed) == pairwise.SHOWN and all(
        each.first.correct != each.second.correct for each in found.listed
    )
    assert f"Of 200 pairs {found.both} are judged rightly by both" in found.told
    assert f"{found.first} by {NAMES[0]} alone and {found.second} by {NAMES[1]} alone" in found.told


def test_the_first_of_the_list_are_those_that_differ_most():
    one = pairs([True, False, True, True])
    other = [
        JudgedPair(**{**vars(each), "correct": False, "distance": far})
        for each, far in zip(one, (0.6, 9.0, 1.5, 0.5), strict=True)
    ]
    assert [each.first.left for each in compared(NAMES, one, other).listed] == ["p2/1.jpg", "p0/1.jpg", "p3/1.jpg"]


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 9), (9, 3), (10, 10), (0, 12)])
def test_mcnemar_is_the_share_of_all_ways_to_be_right(counts):
    total = sum(counts)
    ways = [sum(each) for each in itertools.product((0, 1), repeat=min(total, 12))]
    if total <= 12:  # each way by itself
        as_far = sum(abs(heads - total / 2) >= abs(counts[0] - total / 2) for heads in ways)
        assert mcnemar(*counts) == pytest.approx(as_far / 2**total)
    else:
        assert mcnemar(*counts) == 1.0


def test_other_pairs_are_not_compared():
    one = pairs([True, False])
    assert compared(NAMES, one, one[:1]) is None and compared(NAMES, [], []) is None
    assert compared(NAMES, one, [JudgedPair(**{**vars(each), "left": "x"}) for each in one]) is None


def test_a_list_of_pairs_is_read_as_it_was_written(tmp_path):
    written = [JudgedPair('a,"b"\n/é.jpg', "caf\udce9", True, 0.125, False), JudgedPair("x", "y", False, 1.5, True)]
    save_pairs(tmp_path / "pairs.csv.gz", written)
    assert read_pairs(tmp_path / "pairs.csv.gz") == written
    first = (tmp_path / "pairs.csv.gz").read_bytes()
    save_pairs(tmp_path / "pairs.csv.gz", written)
    assert (tmp_path / "pairs.csv.gz").read_bytes() == first


HEAD = b"left,right,same,distance,right_answer\n"


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", HEAD + b"a,b,1,nan,1\n", HEAD + b"a,b,1\n", HEAD + b"a" * (1 << 20)]
)
def test_a_file_that_is_none_is_refused(tmp_path, content, monkeypatch):
    monkeypatch.setattr("facenet.evaluation.judged.LARGEST", 1 << 16)  # what a bomb would pass
    (tmp_path / "pairs.csv.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError):
        read_pairs(tmp_path / "pairs.csv.gz")
    (tmp_path / "pairs.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(OSError):
        read_pairs(tmp_path / "pairs.csv.gz")


def test_names_are_those_below_one_folder():
    assert below_one_folder(["/data/lfw/a/1.jpg", "/data/lfw/b/2.jpg"]) == ["a/1.jpg", "b/2.jpg"]
    assert below_one_folder(["face 1 of 2", "face 2 of 2"]) == ["face 1 of 2", "face 2 of 2"]


def test_faces_come_from_the_folder_that_is_named_and_from_nowhere_else(tmp_path):
    root = tmp_path / "lfw"
    for name in ("p0/1.jpg", "../secret.jpg"):
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (8, 8), "red").save(root / name)
    one = [
        JudgedPair("p0/1.jpg", "../secret.jpg", True, 0.5, True),
        JudgedPair("p0/1.jpg", str(tmp_path / "secret.jpg"), True, 0.5, True),
    ]
    found = compared(NAMES, one, [JudgedPair(**{**vars(each), "correct": False}) for each in one])
    faces = faces_of(found, root)
    assert faces.keys() == {"p0/1.jpg"} and faces["p0/1.jpg"].startswith("data:image/jpeg;base64,")
    with pytest.raises(UserError, match="--faces .*p0: holds none of the images of these pairs, first"):
        faces_of(found, root / "p0")


def test_the_page_shows_pairs_and_pictures_and_no_name_acts():
    evil = "'\"><script>alert(1)</script>{{ 1 }}"
    one = [JudgedPair(evil, "b.jpg", True, 0.25, True)]
    found = compared((evil, "x"), one, [JudgedPair(evil, "b.jpg", True, 1.25, False)])
    job = Job(number=0, run_id="r", name="", status="FINISHED", axes={}, value=0.5)
    study, faces = Study(sweep_id="s", metric="lfw/accuracy", jobs=(job,)), {"b.jpg": "data:image/jpeg;base64,AA=="}
    source = page(study, {}, found=Found({"roc.png": b"\x89PNG"}, found, faces))
    assert source.count("<script>") == 1 and "alert(1)&lt;/script&gt;" in source
    assert re.findall(r'src="([^"]*)"', source) == ["data:image/png;base64,iVBORw==", "data:image/jpeg;base64,AA=="]
    assert "0.2500" in source and "1.2500" in source and "p = 1, not significantly different" in source
    assert math.isclose(mcnemar(0, 6), 2 / 64)

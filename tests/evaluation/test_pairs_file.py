import numpy as np
import pytest

from facenet.errors import UserError
from facenet.evaluation.pairs_file import read_pairs

GOOD = "2\t1\nAda\t1\t2\nAda\t1\tBob\t3\nBob\t3\t12\nBob\t1\tCy Lee\t4\n"


def write(tmp_path, text):
    path = tmp_path / "pairs.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", [GOOD, GOOD.replace("\n", "\r\n"), GOOD + "\n\n"])
def test_pairs_and_folds_of_the_list(tmp_path, text):
    listed = read_pairs(write(tmp_path, text))
    assert listed.left == ["Ada/Ada_0001", "Ada/Ada_0001", "Bob/Bob_0003", "Bob/Bob_0001"]
    assert listed.right == ["Ada/Ada_0002", "Bob/Bob_0003", "Bob/Bob_0012", "Cy Lee/Cy Lee_0004"]
    assert listed.same.tolist() == [True, False, True, False] and listed.folds.tolist() == [0, 0, 1, 1]


def test_spaces_in_place_of_tabs(tmp_path):
    listed = read_pairs(write(tmp_path, "2 1\nAda 1 2\nAda 1 Bob 3\nBob 3 12\nBob 1 Ada 4\n"))
    assert listed.right[0] == "Ada/Ada_0002" and listed.same.sum() == 2


@pytest.mark.data
def test_the_standard_list(shared_data):
    listed = read_pairs(shared_data / "lfw" / "pairs.txt")
    assert len({*listed.left, *listed.right}) == 7701
    assert (listed.left[0], listed.right[0]) == ("Abel_Pacheco/Abel_Pacheco_0001", "Abel_Pacheco/Abel_Pacheco_0004")
    assert np.bincount(listed.folds).tolist() == [600] * 10
    assert listed.same.reshape(20, 300).all(axis=1).tolist() == [True, False] * 10


@pytest.mark.parametrize(
    ("line", "text", "problem"),
    [
        (3, GOOD.replace("Ada\t1\tBob\t3", "Ada\t1"), "expected 'name i j' or"),
        (3, GOOD.replace("Ada\t1\tBob\t3", "Ada\t1\tBob\t3\t4"), "expected 'name i j' or"),
        (4, GOOD.replace("Bob\t3\t12", "Bob\tthree\t12"), "must be whole numbers"),
        (2, GOOD.replace("Ada\t1\t2", "Ada\t2\t2"), "pairs Ada/Ada_0002 with itself"),
        (3, GOOD.replace("Ada\t1\tBob\t3", "Ada\t1\tAda\t3"), "names Ada twice"),
        (1, GOOD.replace("2\t1", "600"), "got '600'"),
        (1, GOOD.replace("2\t1", "1\t2"), "at least 2 folds"),
        (1, GOOD.replace("2\t1", "ten 300"), "such as '10 300'"),
        (1, "", "got ''"),
    ],
)
def test_wrong_lines_are_named_by_number(tmp_path, line, text, problem):
    with pytest.raises(UserError) as caught:
        read_pairs(write(tmp_path, text))
    assert f"pairs.txt, line {line}: " in str(caught.value) and problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_list_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"promises 2 x \(1 \+ 1\) = 4 pairs, 3 follow"):
        read_pairs(write(tmp_path, GOOD.rsplit("\n", 2)[0]))


def test_a_fold_out_of_balance_is_refused(tmp_path):
    with pytest.raises(UserError, match="fold 1 holds 2 pairs of one identity, the first line says 1"):
        read_pairs(write(tmp_path, GOOD.replace("Ada\t1\tBob\t3", "Ada\t1\t3")))


def test_a_missing_or_binary_list_is_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_pairs(tmp_path / "pairs.txt")
    (tmp_path / "pairs.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="is not text"):
        read_pairs(tmp_path / "pairs.txt")

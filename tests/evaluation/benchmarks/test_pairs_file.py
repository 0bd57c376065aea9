import numpy as np
import pytest

from facenet.errors import UserError
from facenet.evaluation.benchmarks.pairs_file import read_pairs

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


DOUBLE = "2\t2\n" + 2 * "Ada\t1\t2\nAda\t1\t3\nAda\t1\tBob\t3\nAda\t2\tBob\t3\n"


def labelled(text):
    """The same pairs as `path path label`."""
    listed = [line.split("\t") for line in text.splitlines()[1:]]
    ends = [(row[:2], row[-2:] if len(row) == 4 else [row[0], row[2]]) for row in listed]
    paths = [[f"{name}/{name}_{int(number):04d}.jpg" for name, number in pair] for pair in ends]
    return [(*pair, "01"[len(row) == 3]) for pair, row in zip(paths, listed, strict=True)]


@pytest.mark.parametrize(
    "text",
    [
        DOUBLE.split("\n", 1)[1],
        DOUBLE.replace("\t", ","),
        DOUBLE.replace("\t", ";"),
        "name,imagenum1,imagenum2,\n" + DOUBLE.split("\n", 1)[1].replace("\t", ",").replace("\n", ",\n"),
        '"name";"image 1";"image 2"\n'
        + "".join(";".join(f'"{field}"' for field in line.split("\t")) + "\n" for line in DOUBLE.splitlines()[1:]),
    ],
    ids=["no header", "commas", "semicolons", "kaggle", "quoted"],
)
def test_folds_of_a_list_without_its_header_are_those_in_which_its_pairs_stand(tmp_path, text):
    with_header, without = read_pairs(write(tmp_path, DOUBLE)), read_pairs(write(tmp_path, text))
    for name in ("left", "right", "same", "folds"):
        assert list(getattr(without, name)) == list(getattr(with_header, name)), name


@pytest.mark.parametrize("form", ["{0} {1} {2}", "{2},{0},{1}", "./{0}\t{1}\t{2}"])
def test_paths_with_a_label(tmp_path, form):
    text = "".join(form.format(*row) + "\n" for row in labelled(DOUBLE))
    listed = read_pairs(write(tmp_path, text))
    with_header = read_pairs(write(tmp_path, DOUBLE))
    assert listed.left == [f"{image}.jpg" for image in with_header.left]
    assert listed.right == [f"{image}.jpg" for image in with_header.right]
    assert listed.same.tolist() == with_header.same.tolist() and listed.folds.tolist() == with_header.folds.tolist()


def test_paths_of_windows_and_other_words_for_a_label(tmp_path):
    listed = read_pairs(
        write(tmp_path, "a\\1.png a\\2.png True\na\\1.png b.png -1\na\\2.png b.png false\na\\1.png a\\3.png 1\n")
    )
    assert listed.left[0] == "a/1.png" and listed.same.tolist() == [True, False, False, True]
    assert listed.folds.tolist() == [0, 0, 1, 1]  # each kind in turn


def test_view_1_is_dealt_into_ten_folds_of_both_kinds_and_says_so(tmp_path, caplog):
    rows = [
        "20",
        *(f"Ada\t1\t{number}" for number in range(2, 22)),
        *(f"Ada\t{number}\tBob\t1" for number in range(1, 21)),
    ]
    listed = read_pairs(write(tmp_path, "\n".join(rows)))
    assert listed.same.tolist() == [True] * 20 + [False] * 20
    assert listed.folds.tolist() == [number % 10 for number in range(20)] * 2
    assert "pairs.txt: has no folds; each kind of pair is dealt into 10 in turn" in caplog.text
    with pytest.raises(UserError, match=r"promises 1 x \(20 \+ 20\) = 40 pairs, 39 follow"):
        read_pairs(write(tmp_path, "\n".join(rows[:-1])))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a/1.png a/2.png 1\n/b/1.png a/2.png 0\n", "line 2: a path is one below benchmark.root"),
        ("a/1.png a/2.png 1\nb/../1.png a/2.png 0\n", "line 2: a path is one below benchmark.root"),
        ("a/1.png a/2.png 1\na/1.png a/1.png 0\n", "line 2: pairs a/1.png with itself"),
        ("a/1.png a/2.png 1\na/1.png a/3.png 1\n", "2 pairs of one identity and 0 of two, at least 2 of each"),
        ("Ada one two\nAda\t1\t2\n", "line 1: image numbers must be whole numbers"),
    ],
)
def test_what_is_wrong_with_a_list_without_header(tmp_path, text, problem):
    with pytest.raises(UserError, match=problem):
        read_pairs(write(tmp_path, text))


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
        (1, GOOD.replace("2\t1", "0"), "got '0'"),
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

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facenet.data.identities import ImageList
from facenet.errors import UserError
from facenet.evaluation.benchmarks.choice import Bin, HeldOut, Lfw, NoBenchmark
from facenet.evaluation.protocol import Protocol

PLAIN = Protocol()
PAIRS = "2\t1\nAda\t1\t2\nAda\t1\tBob\t3\nBob\t3\t12\nBob\t12\tCy\t4\n"
IMAGES = ["Ada/Ada_0001", "Ada/Ada_0002", "Bob/Bob_0003", "Bob/Bob_0012", "Cy/Cy_0004"]


@pytest.fixture
def root(tmp_path):
    """A tiny LFW whose list lies beside the folder of images."""
    (tmp_path / "pairs.txt").write_text(PAIRS)
    for image in IMAGES:
        path = tmp_path / "lfw" / f"{image}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    return tmp_path / "lfw"


def lfw(root, **settings):
    return Lfw(root=str(root), protocol=PLAIN, **settings)


def test_lfw_opens_each_image_of_the_list_once(root):
    Image.new("RGB", (8, 8)).save(root / "Cy" / "Cy_0001.jpg")  # in no pair
    pair_set = lfw(root, batch_size=5).open()
    names = [pair_set.faces.name(index) for index in range(len(pair_set.faces))]
    assert names == [str(root / f"{image}.jpg") for image in IMAGES]
    assert pair_set.left.tolist() == [0, 0, 2, 3] and pair_set.right.tolist() == [1, 2, 3, 4]
    assert pair_set.same.tolist() == [True, False, True, False] and pair_set.folds.tolist() == [0, 0, 1, 1]
    assert pair_set.faces.identities == ("Ada", "Bob", "Cy") and pair_set.faces.labels.tolist() == [0, 0, 1, 1, 2]
    assert (pair_set.name, pair_set.batch_size, pair_set.protocol) == ("lfw", 5, PLAIN)
    assert str(pair_set) == "lfw: 4 pairs in 2 folds, 5 images"


def test_list_in_the_folder_goes_before_the_one_beside_it(root, tmp_path):
    (root / "pairs.txt").write_text(PAIRS.replace("Cy\t4", "Ada\t1"))
    assert len(lfw(root).open().faces) == 4
    assert len(lfw(root, pairs=str(tmp_path / "pairs.txt")).open().faces) == 5


def test_png_images_are_found(root):
    for path in list(root.rglob("*.jpg")):
        path.rename(path.with_suffix(".png"))
    assert lfw(root).open().faces.name(0).endswith("Ada_0001.png")


@pytest.mark.parametrize("suffix", [".JPG", ".bmp", ".webp", ".ppm", ".Jpeg", ".gif"])
def test_images_of_every_suffix_that_is_read_are_found(root, suffix):
    for path in list(root.rglob("*.jpg")):
        path.rename(path.with_suffix(suffix))
    pair_set = lfw(root).open()
    assert pair_set.faces.name(0) == f"{root}/Ada/Ada_0001{suffix}" and len(pair_set.faces) == 5


def test_of_an_image_that_is_there_twice_the_jpg_is_taken(root):
    for suffix in (".webp", ".png", ".bmp"):
        Image.new("RGB", (8, 8)).save(root / "Ada" / f"Ada_0001{suffix}")
    assert lfw(root).open().faces.name(0).endswith("Ada_0001.jpg")


def test_an_archive_that_was_unpacked_into_a_folder_of_its_own_name_is_looked_into(root, tmp_path):
    (tmp_path / "outer").mkdir()
    (tmp_path / "outer" / "README").touch()
    (tmp_path / "pairs.txt").rename(root / "pairs.txt")
    root.rename(tmp_path / "outer" / "lfw")
    pair_set = lfw(tmp_path / "outer").open()
    assert pair_set.faces.name(0) == f"{tmp_path}/outer/lfw/Ada/Ada_0001.jpg" and len(pair_set.faces) == 5


def test_paths_with_labels_name_images_in_any_depth(root, tmp_path):
    Image.new("RGB", (8, 8)).save(root / "flat.PNG")
    (root / "Cy" / "day 2").mkdir()
    Image.new("RGB", (8, 8)).save(root / "Cy" / "day 2" / "1.png")
    rows = ["Cy/day 2/1.png,Cy/Cy_0004.jpg,1", "flat.png,Cy/Cy_0004.png,0", "flat.PNG,Ada/Ada_0001.jpg,0"]
    (tmp_path / "pairs.csv").write_text("\n".join([*rows, "Ada/Ada_0001.jpg,Ada/Ada_0002.jpg,1"]))
    pair_set = lfw(root, pairs=str(tmp_path / "pairs.csv")).open()
    names = [pair_set.faces.name(index).removeprefix(f"{root}/") for index in pair_set.left]
    assert names == ["Cy/day 2/1.png", "flat.PNG", "flat.PNG", "Ada/Ada_0001.jpg"]
    assert pair_set.faces.name(pair_set.right[1]).endswith("Cy/Cy_0004.jpg")  # saved anew in another format since


def test_missing_images_are_counted_and_the_first_named(root):
    (root / "Bob" / "Bob_0012.jpg").unlink()
    (root / "Ada" / "Ada_0002.jpg").unlink()
    with pytest.raises(UserError) as caught:
        lfw(root).open()
    assert str(caught.value) == (
        f"lfw: 2 files named by pairs.txt are missing under {root}, first Ada/Ada_0002.jpg; "
        "set benchmark.root, or benchmark=none"
    )


def test_missing_and_empty_folders_are_refused(root, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder; set benchmark.root"):
        lfw(tmp_path / "nowhere").open()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty is empty; set benchmark.root"):
        lfw(tmp_path / "empty").open()


def test_missing_lists_are_refused(root, tmp_path):
    with pytest.raises(UserError, match="other.txt: cannot be read"):
        lfw(root, pairs=str(tmp_path / "other.txt")).open()
    (tmp_path / "pairs.txt").unlink()
    with pytest.raises(UserError, match="no pairs.txt in .* or beside it; set benchmark.pairs"):
        lfw(root).open()


def test_a_wrong_line_is_named(root, tmp_path):
    (tmp_path / "pairs.txt").write_text(PAIRS.replace("Bob\t3\t12", "Bob\t3"))
    with pytest.raises(UserError, match="pairs.txt, line 4: "):
        lfw(root).open()


@pytest.mark.data
def test_the_whole_of_lfw(lfw_dir, shared_data):
    pair_set = lfw(lfw_dir, pairs=str(shared_data / "lfw" / "pairs.txt")).open()
    assert str(pair_set) == "lfw: 6,000 pairs in 10 folds, 7,701 images" and len(pair_set.faces.identities) == 4281
    assert ((pair_set.faces.labels[pair_set.left] == pair_set.faces.labels[pair_set.right]) == pair_set.same).all()


def people(*counts):
    """Faces by label only: opening a benchmark must read no pixels."""
    marks = np.repeat(np.arange(len(counts)), counts)
    return ImageList(
        [f"{mark}/{number}.jpg" for number, mark in enumerate(marks)], marks, [str(i) for i in range(len(counts))]
    )


def heldout(num_pairs=40, num_folds=4, **settings):
    return HeldOut(num_pairs=num_pairs, num_folds=num_folds, protocol=PLAIN, **settings)


def pair_names(pair_set):
    names = [pair_set.faces.name(index) for index in range(len(pair_set.faces))]
    return [(names[a], names[b]) for a, b in zip(pair_set.left, pair_set.right, strict=True)]


def test_heldout_pairs_are_balanced_and_right():
    pair_set = heldout().open(people(5, 6, 7, 1))
    labels = pair_set.faces.labels
    assert ((labels[pair_set.left] == labels[pair_set.right]) == pair_set.same).all()
    for fold in range(4):
        assert pair_set.same[pair_set.folds == fold].tolist().count(True) == 5
        assert pair_set.same[pair_set.folds == fold].tolist().count(False) == 5
    assert set(pair_set.left) | set(pair_set.right) == set(range(len(pair_set.faces)))
    assert str(pair_set).startswith("heldout: 40 pairs in 4 folds")


def test_heldout_pairs_depend_on_the_seed_alone():
    faces = people(9, 9, 9, 9)
    first, again, other = heldout().open(faces), heldout().open(faces), heldout(seed=1).open(faces)
    assert pair_names(first) == pair_names(again) != pair_names(other)
    assert first.faces.fingerprint == again.faces.fingerprint


def test_fewer_pairs_than_asked_for_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        pair_set = heldout(num_pairs=1000).open(
            people(4, 4, 2)
        )  # 13 possible pairs of one identity: 3 for each of 4 folds
    assert len(pair_set.same) == 24 and pair_set.num_asked == 1000
    assert "heldout: 24 pairs of 1,000 asked for in 4 folds" in caplog.text and "data.val_identities" in caplog.text


def test_enough_pairs_are_not_reported(caplog):
    assert heldout().open(people(9, 9, 9)).num_asked is None and caplog.text == ""


@pytest.mark.parametrize(
    ("faces", "problem"),
    [
        (None, "0 identities are held out"),
        (people(30), "1 identities are held out"),
        (people(2, 2, 2), "3 held-out identities give 3 pairs of one identity and 12 of two, benchmark.num_folds=4"),
        (people(1, 1, 1, 1, 1), "give 0 pairs of one identity"),
        (people(9, 1), "9 of two, benchmark.num_folds=10"),
    ],
)
def test_too_few_heldout_identities_are_refused(faces, problem):
    num_folds = 10 if "num_folds=10" in problem else 4
    with pytest.raises(UserError, match=problem) as caught:
        heldout(num_folds=num_folds).open(faces)
    assert "data.val_identities" in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: heldout(num_folds=1),
        lambda: heldout(num_pairs=7),
        lambda: heldout(batch_size=0),
        lambda: lfw("x", batch_size=0),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(UserError, match="benchmark"):
        make()


def test_no_benchmark_opens_nothing():
    assert NoBenchmark().open() is None and NoBenchmark().name == "none" and not NoBenchmark().needs_heldout
    assert HeldOut.needs_heldout and not Lfw.needs_heldout


def test_a_verification_set_keeps_its_order_and_is_folded_as_insightface_does(tmp_path: Path) -> None:
    """sklearn's KFold without shuffling: the first P % folds folds are one larger."""
    images = [bytes([number // 3]) for number in range(46)]
    (tmp_path / "agedb_30.bin").write_bytes(pickle.dumps((images, [number % 2 == 0 for number in range(23)])))
    pair_set = Bin(path=str(tmp_path / "agedb_30.bin"), num_folds=10, protocol=Protocol()).open()
    assert pair_set.name == "agedb_30"
    assert len(pair_set.faces) == 16
    assert (pair_set.left[:3].tolist(), pair_set.right[:3].tolist()) == ([0, 0, 1], [0, 1, 1])
    assert np.bincount(pair_set.folds).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    assert (np.diff(pair_set.folds) >= 0).all()
    assert pair_set.same.sum() == 12
    with pytest.raises(UserError, match="agedb_30: 23 pairs in 12 folds"):
        Bin(path=str(tmp_path / "agedb_30.bin"), num_folds=12, protocol=Protocol()).open()
    with pytest.raises(UserError, match="^benchmark.path: .*gone.bin: cannot be read"):
        Bin(path=str(tmp_path / "gone.bin"), protocol=Protocol()).open()

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from facenet.data.split import save_split, split_identities, split_images
from facenet.errors import UserError

from .conftest import NumberedFaces


def test_image_split_is_the_references_rule() -> None:
    faces = NumberedFaces([0] * 300 + [1] * 250)
    lines = [str(index) for index in range(550)]
    np.random.seed(10101)
    np.random.shuffle(lines)  # as the reference does, on the list of lines
    train, val = split_images(faces, 0.01, 10101)
    assert val.tolist() == sorted(int(line) for line in lines[-5:])
    assert train.tolist() == sorted(int(line) for line in lines[:-5])


def test_no_identity_loses_all_its_training_images() -> None:
    faces = NumberedFaces(list(range(50)) + [50] * 50)
    train, val = split_images(faces, 0.5, 0)
    assert np.unique(faces.labels[train]).tolist() == list(range(51))
    assert set(faces.labels[val]) == {50}
    assert sorted([*train, *val]) == list(range(100))


def test_zero_share_holds_nothing_out() -> None:
    faces = NumberedFaces([0, 0, 1])
    for train, rest in (split_images(faces, 0.0, 1), split_identities(faces, 0.0, 1)):
        assert train.tolist() == [0, 1, 2]
        assert not len(rest)


def test_identity_split_shares_no_identity_and_follows_the_seed() -> None:
    faces = NumberedFaces([label for label in range(40) for _ in range(3)])
    train, held = split_identities(faces, 0.1, 5)
    assert len(held) == 12
    assert not set(faces.labels[train]) & set(faces.labels[held])
    assert np.array_equal(held, split_identities(faces, 0.1, 5)[1])
    assert not np.array_equal(held, split_identities(faces, 0.1, 6)[1])
    assert len(set(faces.labels[split_identities(faces, 0.001, 5)[1]])) == 2  # fewer than two make no pair


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_out_of_range(share: float) -> None:
    with pytest.raises(UserError, match=r"data.val_images: expected a share in \[0, 1\)"):
        split_images(NumberedFaces([0, 1]), share, 0)


def test_too_few_identities_to_hold_any_out() -> None:
    with pytest.raises(UserError, match="holding out 2 of 3 identities leaves 1 to train on"):
        split_identities(NumberedFaces([0, 1, 2]), 0.1, 0)


def test_saved_split_names_what_is_not_trained_on(tmp_path: Path) -> None:
    faces = NumberedFaces([0, 0, 1, 1, 2])
    save_split(tmp_path / "run" / "split.json", faces, seed=3, val=np.array([1]), heldout=np.array([4]))
    assert json.loads((tmp_path / "run" / "split.json").read_text()) == {
        "fingerprint": "0" * 16,
        "seed": 3,
        "num_images": {"train": 3, "val": 1, "heldout": 1},
        "val_images": ["face1"],
        "heldout_identities": ["p2"],
    }

"""Whatever the protocol, a pair set has pictures: with the mean taken away each fold has distances of its own."""

from __future__ import annotations

import numpy as np
import pytest

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.evaluation.benchmarks.pair_set import PairSet
from facenet.evaluation.judged import read_pairs
from facenet.evaluation.protocol import Protocol


@pytest.mark.parametrize(
    "protocol", [Protocol(), Protocol(subtract_mean=True, flip="concat"), Protocol(distance="cosine")]
)
def test_pictures_of_any_protocol(protocol, tmp_path):
    faces = SyntheticFaces(num_identities=4, images_per_identity=4, size=16)
    left, right = np.arange(0, 16, 2), np.arange(1, 17, 2) % 16
    right[1::2] = (right[1::2] + 4) % 16
    same = faces.labels[left] == faces.labels[right]
    pairs = PairSet(
        name="p", faces=faces, left=left, right=right, same=same, folds=np.arange(8) // 2 % 2, protocol=protocol
    )
    rows = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    outcome = pairs.run(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    assert outcome.draw is not None
    assert [path.name for path in outcome.draw(tmp_path)] == [
        "scores-p.png",
        "det-p.png",
        "faces-hardest-p.png",
        "hardest-p.json",
        "projection-p.png",
        "pairs-p.csv.gz",
    ]
    listed = read_pairs(tmp_path / "pairs-p.csv.gz")
    assert [(each.left, each.right) for each in listed] == [
        (faces.name(a).removeprefix("synthetic/"), faces.name(b).removeprefix("synthetic/"))
        for a, b in zip(left, right, strict=True)
    ]
    by_fold = [
        np.mean([each.correct for each, fold in zip(listed, pairs.folds, strict=True) if fold == n]) for n in (0, 1)
    ]
    assert by_fold == pytest.approx(list(outcome.folds)), "the share of right answers is the accuracy"
    assert [each.same for each in listed] == same.tolist()

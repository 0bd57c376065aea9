"""Pairs and embeddings that no run should have, and some have: zeros, many more pairs than images, numbers of a damaged checkpoint."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.errors import UserError
from facenet.evaluation import protocol, report
from facenet.evaluation.benchmarks import choice as benchmark
from facenet.evaluation.benchmarks.choice import Bin, HeldOut, Lfw
from facenet.evaluation.benchmarks.drawn_pairs import draw_different, draw_same
from facenet.evaluation.protocol import Protocol, multiply_pairs, verify
from facenet.tasks.as_trained import as_trained


def people(num=8, images=4, dimensions=16):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(num, 1, dimensions)) + 0.1 * rng.normal(size=(num, images, dimensions))
    left = np.arange(num * images)
    right = np.where(left % 2 == 0, left + 1, (left + images) % len(left))
    return rows.reshape(-1, dimensions).astype(np.float32), left, right, left // images == right // images


def judged(rows, left, right, same, **options):
    return verify(rows, left, right, same, (left // 2) % 4, Protocol(**options))


@pytest.mark.parametrize("options", [{}, {"distance": "cosine"}, {"subtract_mean": True}])
def test_embeddings_of_zeros_are_one_embedding(options):
    """Their products are those of right angles: a dead network would be told to have a spread of 1.41."""
    rows, *pairs = people()
    result = judged(np.zeros_like(rows), *pairs, **options)
    assert result.spread == 0 and result.collapsed
    assert report.metrics("lfw", result) == {"lfw/spread": 0.0}


def test_a_part_that_collapsed_hides_no_figures_until_it_is_most_of_the_pairs():
    rows, left, right, same = people()
    sound = judged(rows, left, right, same)
    assert sound.accuracy == 1.0 and not sound.collapsed
    few, most = rows.copy(), rows.copy()
    few[:8], most[:28] = 1.0, 1.0
    assert not judged(few, left, right, same).collapsed and judged(few, left, right, same).accuracy < 1
    assert judged(most, left, right, same).collapsed


def test_pairs_are_compared_some_at_a_time(monkeypatch):
    rows, left, right, same = people()
    whole = judged(rows, left, right, same, subtract_mean=True)
    monkeypatch.setattr(protocol, "AT_A_TIME", 5)
    unit = rows.astype(np.float64)
    assert np.array_equal(multiply_pairs(unit, left, right), np.einsum("pd,pd->p", unit[left], unit[right]))
    assert judged(rows, left, right, same, subtract_mean=True).fold_thresholds == whole.fold_thresholds


FACES = SyntheticFaces(num_identities=6, images_per_identity=6, size=16)


def test_more_pairs_than_the_images_can_give_are_bounded_or_refused(monkeypatch):
    monkeypatch.setattr(benchmark, "ALWAYS_DRAWN", 1000)
    with pytest.raises(UserError, match="benchmark.num_pairs: at most 10,000,000 are drawn, got 1,000,000,000"):
        HeldOut(num_pairs=10**9, protocol=Protocol())
    many = HeldOut(num_pairs=10**7, num_folds=3, protocol=Protocol()).open(FACES)
    assert len(many.same) == 2 * 90 and many.same.sum() == 90  # 15 pairs of each identity, and as many others


def test_the_bound_changes_no_pairs_that_people_have():
    for num_pairs in (60, 2000):
        found = HeldOut(num_pairs=num_pairs, num_folds=3, protocol=Protocol()).open(FACES)
        rng = np.random.default_rng(0)
        draw_same(FACES.labels, num_pairs // 2, rng)
        expected = draw_different(FACES.labels, num_pairs // 2, rng)[0][: len(found.same) // 2]
        assert np.array_equal(found.faces.indices[found.left[~found.same]], expected)


STORED = {"_target_": "facenet.evaluation.HeldOut", "num_pairs": 60, "num_folds": 3, "seed": 5}
OWN = {"distance": "l2", "flip": "concat", "subtract_mean": True, "thresholds": "exact"}


def content(**benchmark):
    return {"config": {"benchmark": {**STORED, "protocol": OWN, **benchmark}}}


@pytest.mark.parametrize(
    "numbers", [{"num_folds": 0}, {"num_folds": 1}, {"num_pairs": 0}, {"num_pairs": 4, "num_folds": 3}, {"seed": 10**7}]
)
def test_numbers_of_a_damaged_checkpoint_count_for_nothing(numbers):
    """0 folds were a division by zero, 1 a traceback of the rates."""
    found = as_trained(HeldOut(num_pairs=2000, protocol=Protocol()), content(**numbers), [])
    assert (found.num_pairs, found.num_folds, found.seed) == (2000, 10, 0)
    found.open(FACES)


def test_numbers_of_the_command_that_do_not_go_with_the_runs_are_a_mistake():
    with pytest.raises(UserError, match="heldout: 60 pairs in 50 folds; benchmark.num_folds must be"):
        as_trained(HeldOut(num_pairs=2000, num_folds=50, protocol=Protocol()), content(), ["benchmark.num_folds=50"])
    given = Bin(path="a.bin", protocol=Protocol())
    found = as_trained(given, content(_target_="facenet.evaluation.Bin", num_folds=5), [])
    assert found.num_folds == 5


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["benchmark/protocol@benchmark.protocol=plain"], Protocol()),
        (["+benchmark/protocol=plain"], Protocol()),
        (["benchmark.protocol={flip: none}"], Protocol(subtract_mean=True)),
        (["benchmark={protocol: {flip: none, subtract_mean: false}}"], Protocol()),
        (["~benchmark.protocol.flip"], Protocol(subtract_mean=True)),
        (["benchmark.root='/a=b'"], Protocol(flip="concat", subtract_mean=True)),
    ],
)
def test_the_command_goes_before_however_it_is_written(said, expected, caplog):
    with caplog.at_level(logging.INFO):
        assert as_trained(Lfw(root="/lfw", protocol=Protocol()), content(), said).protocol == expected

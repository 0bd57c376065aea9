"""A test of a checkpoint is that of its run, but for what the command line says."""

from __future__ import annotations

import logging

import pytest

from facenet.evaluation.benchmarks.choice import Bin, HeldOut, Lfw, NoBenchmark
from facenet.evaluation.protocol import Protocol
from facenet.tasks.as_trained import as_trained

FLIP_MEAN = {"_target_": "facenet.evaluation.Protocol", "distance": "l2", "flip": "concat"}
FLIP_MEAN |= {"subtract_mean": True, "thresholds": "exact"}
HELDOUT = {"_target_": "facenet.evaluation.HeldOut", "num_pairs": 60, "num_folds": 3, "seed": 5}


def content(**benchmark):
    return {"config": {"benchmark": {**HELDOUT, "protocol": FLIP_MEAN, **benchmark}}}


def lfw():
    return Lfw(root="/lfw", protocol=Protocol())


def test_the_checkpoints_own_protocol_is_used_and_said(caplog):
    given = lfw()
    with caplog.at_level(logging.INFO):
        found = as_trained(given, content(), ["checkpoint=best.pt"])
    assert found.protocol == Protocol(flip="concat", subtract_mean=True)
    assert "judged as the checkpoint's run was" in caplog.text and "flip concat, subtract_mean true" in caplog.text
    assert given.protocol == Protocol()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (["benchmark/protocol=plain"], Protocol()),
        (["benchmark.protocol.flip=none"], Protocol(flip="none", subtract_mean=True)),
        (["++benchmark.protocol.subtract_mean=false"], Protocol(flip="concat")),
        (["benchmark.root=/lfw", "benchmark=lfw"], Protocol(flip="concat", subtract_mean=True)),
    ],
)
def test_what_the_command_says_goes_before(said, expected):
    given = lfw()
    if said[0].startswith("benchmark/"):
        given.protocol = expected
    assert as_trained(given, content(), said).protocol == expected


def test_held_out_pairs_are_those_of_the_run():
    given = HeldOut(num_pairs=2000, protocol=Protocol())
    found = as_trained(given, content(), [])
    assert (found.num_pairs, found.num_folds, found.seed) == (60, 3, 5)
    found = as_trained(given, content(), ["benchmark.num_pairs=2000"])
    assert (found.num_pairs, found.num_folds) == (2000, 3)
    other = Bin(path="x.bin", protocol=Protocol())
    assert as_trained(other, content(), []).num_folds == 10  # of another set


@pytest.mark.parametrize(
    "protocol", [None, 3, {"flip": "sideways"}, {"subtract_mean": 1}, {"distance": ["l2"]}, {"flip": None}]
)
def test_a_damaged_protocol_counts_for_nothing(protocol):
    assert as_trained(lfw(), content(protocol=protocol), []).protocol == Protocol()


@pytest.mark.parametrize("number", [-1, True, "60", 10**12, 2.5])
def test_damaged_numbers_count_for_nothing(number):
    found = as_trained(HeldOut(num_pairs=2000, protocol=Protocol()), content(num_pairs=number), [])
    assert found.num_pairs == 2000


def test_a_run_without_a_benchmark_leaves_the_default():
    none = {"config": {"benchmark": {"_target_": "facenet.evaluation.NoBenchmark"}}}
    assert as_trained(lfw(), none, []).protocol == Protocol()
    assert isinstance(as_trained(NoBenchmark(), content(), []), NoBenchmark)

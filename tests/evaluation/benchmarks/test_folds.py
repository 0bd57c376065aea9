"""Sets whose pairs stand in order of kind, as CALFW's raw order is, and sets of one kind alone."""

from __future__ import annotations

import io
import logging
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from facenet.errors import UserError
from facenet.evaluation.benchmarks.choice import Bin
from facenet.evaluation.benchmarks.folds import consecutive, dealt, have_both
from facenet.evaluation.protocol import Protocol
from facenet.evaluation.verification import evaluate_pairs
from facenet.tasks.train import told_already


def a_set(path, same):
    """A .bin of tiny images, each of them another grey."""
    images = []
    for number in range(2 * len(same)):
        held = io.BytesIO()
        Image.new("L", (2, 2), number).save(held, "PNG")
        images.append(held.getvalue())
    path.write_bytes(pickle.dumps((images, [bool(each) for each in same])))
    return Bin(path=str(path), protocol=Protocol(), num_folds=4)


def test_a_set_in_order_of_kind_is_dealt_from_both_kinds_and_says_so(tmp_path, caplog):
    pair_set = a_set(tmp_path / "sorted.bin", [True] * 10 + [False] * 6).open()
    assert pair_set.folds.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 0, 1]
    assert have_both(pair_set.same, pair_set.folds)
    assert "sorted: its pairs stand in order of kind" in caplog.text and "dealt into 4" in caplog.text
    evaluate_pairs(np.linspace(0, 1, 16), pair_set.same, pair_set.folds)  # can be judged


def test_a_set_of_mixed_pairs_keeps_consecutive_folds(tmp_path, caplog):
    pair_set = a_set(tmp_path / "mixed.bin", [True, True, False, False] * 4).open()
    assert pair_set.folds.tolist() == np.repeat(np.arange(4), 4).tolist() and caplog.text == ""


@pytest.mark.parametrize(
    ("same", "told"),
    [
        ([True] * 16, "16 pairs of one identity and 0 of two.* choose another set, or benchmark=none"),
        ([False] * 16, "0 pairs of one identity and 16 of two"),
        ([True] * 13 + [False] * 3, "benchmark.num_folds=4 of each are needed; lower it to 3, or benchmark=none"),
    ],
)
def test_a_set_that_cannot_be_judged_is_refused_when_it_is_opened(tmp_path, same, told):
    with pytest.raises(UserError, match=told):
        a_set(tmp_path / "odd.bin", same).open()


def test_dealt_folds_differ_by_one_pair_of_a_kind_at_most():
    same = np.random.default_rng(0).random(101) < 0.3
    folds = dealt(same, 10)
    for kind in (same, ~same):
        counts = np.bincount(folds[kind], minlength=10)
        assert counts.max() - counts.min() <= 1
    assert consecutive(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]


def test_a_rank_does_not_tell_again_what_the_plan_told(caplog, monkeypatch):
    """On the terminal; train.log has it too."""
    log, terminal = logging.getLogger("facenet.evaluation.benchmarks.choice"), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = logging.StreamHandler(terminal)
    logging.root.addHandler(handler)
    with caplog.at_level(logging.INFO):
        with told_already():
            log.warning("once")
            log.error("wrong")
        log.info("afterwards")
    logging.root.removeHandler(handler)
    assert terminal.getvalue().splitlines() == ["wrong", "afterwards"]
    assert caplog.messages == ["once", "wrong", "afterwards"]

"""What a run leaves of an epoch. A picture that fails costs the picture."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import numpy as np

from facenet.engine.progress import Progress
from facenet.evaluation.contract import Outcome
from facenet.tasks.records import Records, draw_all
from facenet.tracking.tracker import NullTracker


def test_a_picture_that_cannot_be_drawn_is_told_and_the_others_are_there(tmp_path, caplog):
    def fails(directory):
        raise RuntimeError("no\x1b[2J font")

    def full(directory):
        raise OSError(28, "No space left on device")

    with caplog.at_level(logging.WARNING):
        assert draw_all([fails, lambda directory: [directory / "a.png"], full], tmp_path) == [tmp_path / "a.png"]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "RuntimeError: no\\x1b[2J font",
        "OSError: [Errno 28] No space left on device",
    ]


def test_figures_of_a_benchmark_of_ones_own_are_told_drawn_and_kept(tmp_path, caplog):
    mine = SimpleNamespace(name="ids", measures={"rank1": False})
    row = {
        "epoch": 1.0,
        "train/loss": 2.0,
        "heldout/accuracy": 0.5,
        "heldout/eer": 0.5,
        "ids/rank1": 0.25,
        "ids/more": 3.0,
    }
    found = {
        "heldout": Outcome(metrics={"accuracy": 0.5, "eer": 0.5}, files={"heldout.json": {"benchmark": "heldout"}}),
        "ids": Outcome(
            metrics={"rank1": np.float32(0.25), "more": 3.0},
            files={"result.json": 1, "heldout.json": 2, "ranks.json": 3},
        ),
    }
    records = Records(tmp_path, NullTracker(), [SimpleNamespace(name="heldout", measures={"accuracy": False}), mine])
    with caplog.at_level(logging.INFO):
        records.epoch(Progress(epoch=1, step=2, history=[row]), row, found, more={})
    assert caplog.messages == ["epoch 1: train/loss 2.0000, heldout/accuracy 0.5000, ids/rank1 0.2500"]
    kept = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert kept.pop("history.json") == [row]
    assert kept == {
        "heldout.json": {"benchmark": "heldout"},
        "ids.json": {"benchmark": "ids", "rank1": 0.25, "more": 3.0},
        "ids-result.json": 1,  # the run's own is its own
        "ids-heldout.json": 2,
        "ranks.json": 3,
    }
    assert {path.name for path in records.written if path.suffix == ".png"} == {
        "epoch_loss.png",
        "epoch_acc.png",
        "figures-ids.png",
    }

"""A run whose network collapses, as its user sees it: nothing of it is the best, whatever chooses."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.slow


def test_a_collapsed_network_is_not_the_best_by_its_loss(facenet_train):
    """It was: best.pt, the rank in a sweep and a registered model, since a loss is measured all the same."""
    done = facenet_train("optimizer=sgd", "optimizer.lr=1000", "schedule=constant", "trainer.select=val/loss")
    assert done.code == 0, done.err
    assert "no best epoch: embeddings collapsed: two identities are " in done.out
    assert not (done.run_dir / "checkpoints" / "best.pt").exists()
    result = json.loads((done.run_dir / "result.json").read_text())
    assert result["objective"] is None and result["metrics"] == {} and "collapsed" in result["collapsed"]
    written = json.loads((done.run_dir / "heldout.json").read_text())
    assert written["accuracy"] is None and written["spread"] < 0.01

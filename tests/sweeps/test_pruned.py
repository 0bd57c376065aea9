"""sweep.prune=median, as its user runs it, with two processes a job: they must agree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from facenet.errors import UserError
from facenet.sweeps.settings import Sweep
from facenet.tracking import reading

COMMAND = (
    str(Path(sys.executable).parent / "facenet-train"),
    "-m",
    "data.num_identities=12",
    "data.images_per_identity=8",
    "data.image_size=32",
    "backbone.trunk.width=0.25",
    "data.batch_size=12",
    "data.num_workers=1",
    "benchmark=none",
    "schedule=constant",
    "trainer.select=train/loss",
    "trainer.epochs=3",
    "accelerator=cpu",
    "distributed=ddp",
    "distributed.num_processes=2",
    "optimizer.lr=1e-3,2e-3,1000",
    "sweep.prune=median",
    "sweep.prune_min_jobs=2",
    "hydra.sweep.dir=sweep",
)


@pytest.mark.slow
def test_an_absurd_learning_rate_ends_after_its_first_epoch_and_the_others_do_not(tmp_path):
    done = subprocess.run(COMMAND, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, absurd = reading.runs_of_sweep(f"sqlite:///{tmp_path / 'mlflow.db'}", "sweep")
    assert [run.status for run in (first, second, absurd)] == ["FINISHED"] * 3
    assert [run.metrics["epoch"] for run in (first, second, absurd)] == [3, 3, 1]
    assert not {"pruned", "pruned_at_epoch"} & (first.tags | first.metrics | second.tags | second.metrics).keys()
    assert absurd.metrics["pruned_at_epoch"] == 1
    own, told = absurd.metrics["best/train/loss"], absurd.tags["pruned"]
    assert told.startswith(f"epoch 1: train/loss {own:.4f} at best is above ") and told.endswith(
        "the median of 2 others"
    )
    results = [json.loads((tmp_path / "sweep" / num / "result.json").read_text()) for num in "012"]
    assert [result["pruned"] for result in results] == [None, None, told]
    assert results[2]["objective"] == pytest.approx(own) and own > 10 * results[0]["objective"]


@pytest.mark.slow
def test_without_mlflow_nothing_can_be_compared(tmp_path):
    command = [*COMMAND, "tracking=none", "optimizer.lr=1e-3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 2 and "set tracking=mlflow, or sweep.prune=null" in done.stderr


def test_settings_out_of_range_are_refused():
    for key in ("jobs_per_node", "prune_min_jobs", "prune_warmup_epochs"):
        with pytest.raises(UserError, match=f"sweep.{key}: expected 1 or more, got 0"):
            Sweep(**{key: 0})

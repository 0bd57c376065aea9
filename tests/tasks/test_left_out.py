"""Images that a run never learns from, and validation batches that say nothing, are told by the plan."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from facenet.engine import checkpoint
from facenet.tasks import rehearsal
from facenet.tasks.job import prepare


@pytest.fixture
def planned(compose, tmp_path):
    """planned(*overrides): the plan for 12 identities of 5 images and, with `alone`, 4 more of one."""

    def plan(*overrides, alone=0):
        rehearsal.tell.cache_clear()
        for label in range(12 + alone):
            for number in range(5 if label < 12 else 1):
                path = tmp_path / f"p{label:02d}" / f"{number}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(np.full((32, 32, 3), label, np.uint8)).save(path)
        source = ("data=folder", f"data.root={tmp_path}", "data.val_identities=0", "data.batch_size=16")
        return prepare(compose(*source, "benchmark=none", "sampler=identity", *overrides))[1]

    return plan


@pytest.mark.parametrize(
    ("overrides", "num_batches", "select", "told"),
    [
        (("loss=triplet_hard",), 0, "train/loss", "there is no validation loss"),
        (("loss=cosface_triplet",), 1, "val/loss", "val/triplet is 0 and says nothing"),
        (("loss=triplet_hard", "data.val_images=0.4"), 1, "val/loss", None),
        (("loss=arcface",), 1, "val/loss", None),
        (("loss=triplet_hard", "data.val_images=0"), 0, "train/loss", None),
    ],
)
def test_a_validation_loss_that_is_always_0_chooses_nothing(planned, caplog, overrides, num_batches, select, told):
    plan = planned(*overrides)
    assert (plan.batches.num_val_batches, plan.select) == (num_batches, select)
    assert (told in caplog.text) if told else "of the validation images" not in caplog.text


@pytest.mark.parametrize(
    ("overrides", "alone", "told"),
    [
        (("loss=arcface",), 4, True),
        (("loss=arcface",), 0, False),
        (("loss=arcface", "data.min_images=2"), 4, False),
        (("loss=arcface", "sampler=shuffle"), 4, False),
        (("loss=arcface", "sampler.images_per_identity=1"), 4, False),
    ],
)
def test_identities_that_are_never_drawn_are_told(planned, caplog, overrides, alone, told):
    planned("data.val_images=0", *overrides, alone=alone)
    assert ("4 of 16 identities have one image to train on and are never drawn" in caplog.text) == told


@pytest.mark.slow
def test_a_score_by_another_metric_than_the_plans_begins_anew(facenet_train, tmp_path):
    """As of a run that chose by a validation loss which is no longer taken."""
    job = ("benchmark=none", "data.val_identities=0", "data.val_images=0")
    assert facenet_train(*job, "trainer.epochs=1").code == 0
    path = tmp_path / "run/checkpoints/last.pt"
    content = checkpoint.load(path)
    content["best"]["score"] = 0.0  # nothing is below a loss of 0
    checkpoint.save(content, path)
    done = facenet_train("resume=auto", *job, "trainer.epochs=3", "resume_changed=true")
    assert (
        done.code == 0
        and "best score: starts anew, the rest goes on (was not scored by train/loss)" in done.out + done.err
    )
    result = json.loads((tmp_path / "run/result.json").read_text())
    history = json.loads((tmp_path / "run/history.json").read_text())
    assert result["objective"] == min(row["train/loss"] for row in history[1:])

"""The reference's commands as presets: what their plans say, and that they train."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from facenet import config as configs
from facenet.data.files.annotation import annotate
from facenet.errors import UserError
from facenet.tasks.feed import Feed
from facenet.tasks.job import prepare
from facenet.tasks.recipe import Recipe
from facenet.tasks.run import Run
from facenet.tasks.train import run

REFERENCE = ["single_spa", "single_card", "reference_as_shipped"]
NUM_IDENTITIES, EACH = 12, 20
SMALL = ["backbone=mobilenet_v1", "backbone.trunk.width=0.25", "data.image_size=32"]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What the presets ask for: a list of 12 x 20 small images, each identity of a colour, and the same folder as LFW."""
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    for person in range(NUM_IDENTITIES):
        folder = root / "people" / f"P{person}"
        folder.mkdir(parents=True)
        colour = rng.integers(40, 200, 3)
        for number in range(1, EACH + 1):
            pixels = (colour + rng.integers(0, 50, (24, 20, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"P{person}_{number:04d}.jpg")
    pairs = ["2\t3"]
    for fold in range(2):
        pairs += [f"P{fold * 3 + i}\t1\t2" for i in range(3)]
        pairs += [f"P{fold * 3 + i}\t1\tP{fold * 3 + (i + 1) % 3}\t1" for i in range(3)]
    (root / "pairs.txt").write_text("\n".join(pairs) + "\n")
    annotate(root / "people", root / "cls_train.txt")
    return [f"data.list={root}/cls_train.txt", f"benchmark.root={root}/people", "accelerator=cpu", "tracking=none"]


@pytest.fixture
def composed(compose_train, given):
    """composed(preset, *overrides): the resolved config on a CPU, in bf16 for the fp16 that it lacks."""
    return lambda preset, *overrides: compose_train(f"preset={preset}", *given, "precision=bf16", *overrides)


def test_one_spa_trains_at_ten_times_the_lr_of_its_command(composed):
    plan = prepare(composed("single_spa"))[1]
    batches, machine = plan.batches, plan.machine
    sizes = (batches.batch_size, batches.images_per_step, batches.batch_size_per_process, machine.num_processes)
    assert sizes == (30, 30, 30, 1)
    assert (plan.lr.lr, plan.lr.min_lr, plan.lr.clipped) == (3e-4, pytest.approx(3e-6), True)
    assert plan.lr.note.startswith("lr 3e-05 x batch 30 / 64 = 1.40625e-05, clipped to 0.0003 by schedule.lr_limits")
    steps = plan.steps
    assert (steps.epochs, steps.steps_per_epoch, steps.total_steps) == (14, 7, 98)  # 238 of 240 train: 1 % validate
    assert (plan.batches.layout, plan.benchmark) == ("triplet", "lfw: 12 pairs in 2 folds, 12 images")
    assert "batch        30 images a step, 30 a process\n" in str(plan)


@pytest.mark.parametrize("preset", ["single_card", "reference_as_shipped"])
def test_three_spas_train_90_of_96_images(composed, preset):
    plan = prepare(composed(preset))[1]
    batches, machine = plan.batches, plan.machine
    sizes = (batches.batch_size, batches.images_per_step, batches.batch_size_per_process, machine.num_processes)
    assert sizes == (96, 90, 30, 3)
    assert (plan.lr.lr, plan.lr.min_lr) == (1e-3, pytest.approx(1e-5)), "the batch rule sees 96"
    assert (plan.steps.steps_per_epoch, plan.steps.epochs) == (2, 14), "238 // 96"
    assert "batch        96 images a step asked for, 90 trained: 30 a process\n" in str(plan)


@pytest.mark.parametrize("preset", REFERENCE)
def test_what_the_recipes_share(compose_train, given, preset):
    config = compose_train(f"preset={preset}", *given)
    assert config["precision"]["dtype"] == "fp16" and config["seed"] == 11
    with pytest.raises(UserError, match="precision=fp16: not on cpu"):
        prepare(config)
    assert config["backbone"]["trunk"] == {
        "_target_": "facenet.backbones.InceptionResNetV1",
        "init": "reference",
    }
    assert config["backbone"]["dropout"] == 0.5 and config["data"]["image_size"] == 160
    assert config["preprocess"]["fit"] == "letterbox" and config["augment"] == {
        "_target_": "facenet.data.Augment",
        "flip": 0.5,
        "pipeline": None,
    }
    optimizer = config["optimizer"]
    assert optimizer["_target_"] == "torch.optim.Adam" and optimizer["betas"] == [0.9, 0.999]
    assert optimizer["weight_decay"] == 0.0 and config["schedule"]["batch_rule"] is True
    assert config["benchmark"]["protocol"]["thresholds"] == "reference"


def feed_of(config, rank):
    material, plan = prepare(config)
    return Feed(material, plan, Recipe(**configs.build(config)), rank=rank)


def epoch_of(feed, epoch):
    return [(batch.indices.tolist(), batch.images) for batch in feed.train(epoch)]


def same(first, second):
    return first[0] == second[0] and torch.equal(first[1], second[1])


def test_repeats_are_behind_a_switch(composed):
    """Of one process of three: 30 images a batch; images and flips repeat alike."""
    small = [*SMALL, "sampler.num_workers=2"]
    shipped = feed_of(composed("reference_as_shipped", *small), rank=1)
    first, second = epoch_of(shipped, 0), epoch_of(shipped, 1)
    assert [len(indices) for indices, _ in first] == [30, 30]
    assert same(first[0], first[1]) and same(first[0], second[0]) and same(first[0], second[1])
    mended = feed_of(composed("reference_as_shipped", *small, "sampler.repeat_batches=false"), rank=1)
    batches = epoch_of(mended, 0) + epoch_of(mended, 1)
    assert same(batches[0], first[0]) and len({tuple(indices) for indices, _ in batches}) == 4


def test_parts_of_a_step_hold_what_is_trained(composed):
    feed = feed_of(composed("single_card", *SMALL, "trainer.accumulate=2"), rank=2)
    assert (feed.plan.batches.images_per_step, feed.plan.batches.accumulate) == (90, 2)
    assert [len(batch.labels) for batch in feed.train(0)] == [15] * 4


class NeverStop:
    def __bool__(self):
        return False


@pytest.mark.parametrize(("preset", "precision"), [*zip(REFERENCE, ["bf16", "fp32", "bf16"], strict=True)])
def test_a_recipe_trains(composed, preset, precision, tmp_path):
    short = ["trainer.max_steps=2", "trainer.log_every=1", "distributed.num_processes=1", f"precision={precision}"]
    config = composed(preset, *SMALL, *short)
    result = run(Run(tmp_path, config, None, NeverStop()))
    metrics = result["metrics"]
    assert metrics["train/loss"] == pytest.approx(metrics["train/triplet"] + metrics["train/ce"], rel=1e-3)
    assert np.isfinite(metrics["train/loss"]) and result["objective"] == metrics["lfw/accuracy"] >= 0.5


@pytest.mark.slow
def test_the_command_of_one_card(given, started, finished, tmp_path):
    """Three processes, to the end, with the numbers that MLflow shows."""
    from mlflow import MlflowClient

    database = f"sqlite:///{tmp_path}/mlflow.db"
    short = ["trainer.max_steps=2", "trainer.log_every=1", "tracking=mlflow", f"tracking.uri={database}"]
    overrides = [*given[:-1], "precision=bf16", *SMALL, *short]
    done = finished(started("facenet-train", tmp_path / "run", "preset=single_card", *overrides), tmp_path / "run")
    assert done.code == 0, done.err
    assert "96 images a step asked for, 90 trained: 30 a process" in done.out
    client = MlflowClient(tracking_uri=database)
    (found,) = client.search_runs([client.get_experiment_by_name("facenet").experiment_id])
    assert found.data.metrics["samples_seen"] == 2 * 90

"""What a plan tries before it is printed: each refusal by the key that mends it, beside what people legitimately do."""

from __future__ import annotations

import copy

import pytest

from facenet import config as configs
from facenet.data.transforms import Preprocess
from facenet.distributed.choice import Distributed
from facenet.errors import UserError
from facenet.tasks.job import prepare
from facenet.tasks.recipe import Recipe
from facenet.tasks.recipe import build_planned as parts_of
from facenet.tasks.rehearsal import check_input, check_parts

SCHEDULERS = "torch.optim.lr_scheduler."


@pytest.fixture(scope="module")
def base(compose):
    return compose("schedule=constant", "trainer.epochs=10")  # 40 steps


def planned(config):
    configs.check(config, Recipe)
    return prepare(config)[1]


def changed(config, **groups):
    """A copy, with other values of a group, or with another group in place of it where that has a _target_."""
    made = copy.deepcopy(config)
    for group, values in groups.items():
        made[group] = {**({} if "_target_" in values else made[group]), **values}
    return made


def optimizer(name: str, **options):
    return {"optimizer": {"_target_": name, "_partial_": True, "lr": 1e-3, **options}}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (optimizer("torch.optim.Adam", lr=-1), "optimizer.lr=-1: Adam cannot step with it"),
        (optimizer("torch.optim.Adam", betas=[2, 3]), r"optimizer.betas=\[2, 3\]: Adam cannot"),
        (optimizer("torch.optim.Adam", betas=[0.9]), "optimizer: Adam cannot"),
        (optimizer("torch.optim.AdamW", weight_decay=-1), "optimizer.weight_decay=-1: AdamW cannot"),
        (optimizer("torch.optim.SGD", momentum=1.5), "optimizer.momentum=1.5: SGD keeps"),
        (optimizer("torch.optim.LBFGS"), "optimizer: LBFGS cannot step"),
        (optimizer("torch.optim.SGD", lr=0), "optimizer.lr: the learning rate is 0 at every step"),
        (optimizer("facenet.engine.Muon", betas=[2, 3]), r"optimizer: betas \[2, 3\] must"),
        (optimizer("facenet.engine.Muon", lr=-1), "optimizer: lr -1"),
        ({"optimizer": {"_target_": "torch.optim.Adam", "_partial_": True}}, "optimizer.lr: Adam needs a number"),
    ],
)
def test_an_optimizer_that_cannot_step_is_refused_in_the_plan(base, given, told):
    with pytest.raises(UserError, match=told):
        planned(changed(base, **given))


@pytest.mark.parametrize(
    "given",
    [
        optimizer("torch.optim.Adam", eps=0, betas=[0.0, 0.9]),
        optimizer("torch.optim.SGD", momentum=0.0, lr=5.0),
        optimizer("torch.optim.Adagrad"),
        optimizer("torch.optim.RMSprop", momentum=0.9),
        optimizer("torch.optim.Adam", fused=True),
        optimizer("facenet.engine.Muon", momentum=0.0),
    ],
)
def test_optimizers_that_can_step_are_planned(base, given):
    assert planned(changed(base, **given)).steps.total_steps == 40


def of_torch(name: str, every: str = "step", **options):
    scheduler = {"_target_": SCHEDULERS + name, "_partial_": True, **options}
    return {"schedule": {"_target_": "facenet.engine.TorchSchedule", "every": every, "scheduler": scheduler}}


def of_ours(name: str, **options):
    return {"schedule": {"_target_": f"facenet.engine.schedule.{name}", **options}}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            of_torch("PolynomialLR", total_iters=5),
            r"schedule: from step 5 of 40 on the lr is below 1e-06 of its peak 0.001 \(down to 0\), in 88% of the steps after that: .* "
            "set schedule.scheduler.total_iters=40",
        ),
        (of_torch("ExponentialLR", gamma=0.5), "raise schedule.scheduler.gamma, or set schedule.every=epoch"),
        (of_torch("StepLR", step_size=1), "raise schedule.scheduler.step_size, or set schedule.every=epoch"),
        (of_torch("OneCycleLR", total_steps=5, max_lr=1e-3), "schedule"),
        (of_torch("ExponentialLR", gamma=-1), "the lr of step 1 is -0.001; raise schedule.scheduler.gamma"),
        (
            of_ours("ReferenceStep", min_lr_ratio=0, lr_limits=[1e-4, 1e-2]),
            "from step 4 of 40 .*; raise schedule.min_lr_ratio",
        ),
        (of_ours("ReferenceCosine", min_lr_ratio=0, lr_limits=[1e-4, 1e-2]), "raise schedule.min_lr_ratio"),
    ],
)
def test_a_schedule_that_leaves_no_learning_rate_is_refused_in_the_plan(base, given, told):
    with pytest.raises(UserError, match=told):
        planned(changed(base, **given))


@pytest.mark.parametrize(
    "given",
    [
        of_torch("PolynomialLR"),  # its length is the run's
        of_torch("PolynomialLR", power=2.0),
        of_torch("CosineAnnealingLR"),
        of_torch("CosineAnnealingWarmRestarts", T_0=10),
        of_torch("LinearLR"),
        of_torch("StepLR", "epoch", step_size=3),
        of_torch("ExponentialLR", "epoch", gamma=0.5),
        of_torch("OneCycleLR", final_div_factor=1e4),
        of_ours("WarmupCosine", min_lr_ratio=0.0, start_lr_ratio=0.0),
        of_ours("Constant"),
    ],
)
def test_schedules_that_end_near_0_are_planned(base, given):
    plan = planned(changed(base, **given))
    assert plan.steps.total_steps == 40


def test_a_schedule_is_played_as_far_as_the_run_goes(base):
    short = of_torch("PolynomialLR", total_iters=30)
    with pytest.raises(UserError, match="total_iters=40"):
        planned(changed(base, **short))
    assert planned(changed(base, **short, trainer={"max_steps": 30})).steps.total_steps == 30


HARD = {"_target_": "facenet.losses.TripletLoss", "mining": "batch_hard"}
SHUFFLE = {"_target_": "facenet.data.ShuffleSampler"}


def groups_of(number: int):
    return {"_target_": "facenet.data.IdentitySampler", "images_per_identity": number}


@pytest.fixture(scope="module")
def hard(base):
    terms = {"triplet": {"weight": 1.0, "loss": HARD}}
    return changed(base, loss={"_target_": "facenet.losses.LossMix", "terms": terms}, sampler=SHUFFLE)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"data": {"batch_size": 1}}, "one image at a time has no batch statistics.*; change data.batch_size to have"),
        (
            {"data": {"batch_size": 4}, "trainer": {"accumulate": 4}},
            "in 4 part.*; change data.batch_size or trainer.accumulate to",
        ),
        ({"data": {"batch_size": 4}, "distributed": {"num_processes": 4}}, "or distributed.num_processes to"),
        ({"data": {"batch_size": 2}}, "loss.terms.triplet: no batch can hold a triplet.*: 2 images at a time"),
        (
            {"sampler": groups_of(1), "data": {"batch_size": 4}},
            "loss.terms.triplet: .*sampler.images_per_identity=1 gives no positive",
        ),
        ({"sampler": groups_of(12)}, "loss.terms.triplet: .*12 images are one identity"),
        (
            {"data": {"images_per_identity": 1, "batch_size": 6, "val_images": 0.0}, "benchmark": "none"},
            "loss.terms.triplet: .*no identity has two images",
        ),
    ],
)
def test_batches_that_teach_nothing_are_refused_in_the_plan(hard, given, told):
    nothing = {"_target_": "facenet.evaluation.NoBenchmark"}
    given = {group: nothing if values == "none" else values for group, values in given.items()}
    with pytest.raises(UserError, match=told):
        planned(changed(hard, **given))


def test_small_batches_that_teach_are_planned(hard, base):
    assert planned(changed(hard, data={"batch_size": 3})).batches.images_per_step == 3
    assert planned(changed(hard, sampler=groups_of(2), data={"batch_size": 4})).batches.images_per_step == 4
    assert planned(changed(base, data={"batch_size": 3})).batches.images_per_step == 3  # one given triplet
    synced = {"num_processes": 4, "sync_batch_norm": True}
    ce = {"weight": 1.0, "loss": {"_target_": "facenet.losses.SoftmaxHead"}}
    alone = {"_target_": "facenet.losses.LossMix", "terms": {"ce": ce}}
    recipe = parts_of(changed(base, sampler=SHUFFLE, loss=alone))
    sizes = {"images_per_step": 4, "num_processes": 4, "trainer": recipe.trainer}
    material = prepare(base)[0]
    check_parts(recipe.loss, recipe.sampler, material.train, distributed=Distributed(**synced), **sizes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[
            ("seed", -1),
            ("benchmark.seed", -1),
            ("loss.terms.ce.loss.label_smoothing", float("nan")),
            ("trainer.keep", -1),
        ],
        *[("preprocess.std", [1.0, float("inf"), 1.0]), ("loss.terms.triplet.loss.margin", float("inf"))],
    ],
)
def test_numbers_that_no_run_can_use_are_problems_of_the_config(base, key, value):
    config = copy.deepcopy(base)
    *place, last = key.split(".")
    node = config
    for part in place:
        node = node[part]
    node[last] = value
    with pytest.raises(UserError, match=key):
        planned(config)


def test_infinity_is_never_where_it_means_that(base):
    assert planned(changed(base, watch={"hang_s": float("inf")})).steps.total_steps == 40


def test_an_image_too_small_for_the_network_is_one_line(compose):
    network = configs.build({"_target_": "facenet.backbones.InceptionResNetV1"}, "backbone.trunk")
    from facenet.backbones.embedder import FaceNet

    embedder = FaceNet(trunk=network)
    with pytest.raises(UserError, match="data.image_size: the network of backbone= cannot take images of 64 x 64"):
        check_input(embedder, Preprocess(size=[64, 64]))
    check_input(embedder, Preprocess(size=[96, 96]))
    assert embedder.training  # left as it was


def pipeline(base, *transforms):
    nodes = [{"_target_": f"albumentations.{name}", **options} for name, options in transforms]
    return changed(base, augment={"pipeline": nodes})


@pytest.mark.parametrize(
    ("transforms", "told"),
    [
        ([("ToFloat", {})], r"augment.pipeline.0 \(ToFloat\) gives float32 of shape \(32, 32, 3\)"),
        ([("HorizontalFlip", {}), ("Normalize", {"p": 0.01})], r"augment.pipeline.1 \(Normalize\) gives float32"),
        ([("ToTensorV2", {}), ("GaussianBlur", {})], r"augment.pipeline.0 \(ToTensorV2\) gives torch.Tensor"),
        ([("ToGray", {"num_output_channels": 1})], r"augment.pipeline.0 \(ToGray\) gives uint8 of shape"),
        ([("RandomCrop", {"height": 100, "width": 100})], r"0 \(RandomCrop\) fails on 32 x 32 pixels"),
        (
            [("OneOf", {"transforms": [{"_target_": "albumentations.ToFloat"}], "p": 0.01})],
            r"0 \(OneOf\) gives float32",
        ),
    ],
)
def test_a_pipeline_that_gives_no_images_is_refused_in_the_plan(base, transforms, told):
    with pytest.raises(UserError, match=told):
        planned(pipeline(base, *transforms))


@pytest.mark.parametrize(
    "transforms",
    [
        [("ToFloat", {}), ("FromFloat", {"dtype": "uint8"})],
        [("ToGray", {})],
        [("RandomCrop", {"height": 28, "width": 20}), ("CoarseDropout", {})],
    ],
)
def test_pipelines_that_give_images_are_planned(base, transforms):
    assert planned(pipeline(base, *transforms)).steps.total_steps == 40


def test_an_image_that_a_pipeline_fails_on_later_is_named_too(base):
    import numpy as np

    augment = configs.build(pipeline(base, ("RandomCrop", {"height": 28, "width": 28}))["augment"], "augment")
    augment.rehearse(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UserError, match=r"augment.pipeline.0 \(RandomCrop\) fails on 20 x 32 pixels"):
        augment(np.zeros((20, 32, 3), np.uint8), key=(0,))

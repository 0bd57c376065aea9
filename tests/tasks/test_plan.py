import numpy as np
import pytest

from facenet.errors import UserError
from facenet.tasks.job import prepare


@pytest.fixture
def planned(compose):
    """planned(*overrides): the material and the plan of the tiny job."""
    return lambda *overrides: prepare(compose(*overrides))


def test_every_number_of_the_plan(planned):
    material, plan = planned()
    # 12 identities, of which round(0.34 * 12) = 4 are held out; 8 * 8 = 64 images, of which int(0.1 * 64) = 6 validate
    assert plan.as_dict() == {
        "device": "cpu",
        "device_reason": "asked for",
        "precision": "fp32",
        "num_processes": 1,
        "num_identities": 8,
        "num_images": 58,
        "num_val_images": 6,
        "num_heldout_identities": 4,
        "data_fingerprint": material.source.fingerprint,
        "benchmark": "heldout: 60 pairs in 3 folds, 32 images",
        "layout": "triplet",
        "batch_size": 12,
        "images_per_step": 12,
        "batch_size_per_process": 12,
        "accumulate": 1,
        "val_batch_size": 6,
        "num_val_batches": 1,
        "epochs": 2,
        "steps_per_epoch": 4,
        "total_steps": 8,
        "lr": 3e-4,
        "min_lr": pytest.approx(3e-6),
        "lr_clipped": True,
        "lr_note": "lr 0.001 x batch 12 / 64 = 0.0001875, clipped to 0.0003 by schedule.lr_limits [0.0003, 0.001]; "
        "schedule.batch_rule=false keeps 0.001",
        "select": "heldout/accuracy",
        "lower_is_better": False,
        "chosen": "",
    }


def test_the_plan_reads_as_text(planned):
    text = str(planned("data.batch_size=24", "trainer.accumulate=2", "trainer.max_steps=3")[1])
    assert text.splitlines()[0] == "plan"
    assert "58 images of 8 identities (triplet batches), 6 images for the validation loss" in text
    assert "24 images a step, 24 a process in 2 parts" in text
    assert "2 an epoch, 2 epochs, 3 in all, of 4 that the schedule spans (trainer.max_steps)" in text
    assert "cpu (asked for), fp32, 1 process(es)" in text
    assert "best by      heldout/accuracy" in text
    assert "no validation loss" in str(planned("data.val_images=0.0")[1])


@pytest.mark.parametrize(
    ("overrides", "unit", "nearest"),
    [
        (["data.batch_size=10"], 3, "9 or 12"),
        (["data.batch_size=2"], 3, "3"),
        (["data.batch_size=16", "sampler=identity", "distributed=ddp"], None, None),
        (["data.batch_size=12", "sampler=identity", "distributed=ddp"], 8, "8 or 16"),
        (["data.batch_size=20", "distributed.num_processes=3", "trainer.accumulate=2"], 18, "18 or 36"),
        (["data.batch_size=7", "sampler=shuffle", "trainer.accumulate=2"], 2, "6 or 8"),
    ],
)
def test_a_batch_size_that_does_not_divide_names_its_neighbours(planned, overrides, unit, nearest):
    if unit is None:
        assert planned(*overrides)[1].batches.batch_size_per_process == 8
        return
    with pytest.raises(UserError, match=rf"data\.batch_size=.*multiple of {unit} .*values are {nearest}$"):
        planned(*overrides)


@pytest.mark.parametrize(
    ("overrides", "trained", "each", "row"),
    [
        (
            ["data.batch_size=20", "distributed.num_processes=3"],
            18,
            6,
            "20 images a step asked for, 18 trained: 6 a process",
        ),
        (
            ["data.batch_size=40", "distributed.num_processes=3", "trainer.accumulate=2"],
            36,
            12,
            "40 images a step asked for, 36 trained: 12 a process in 2 parts",
        ),
        (["data.batch_size=18", "distributed.num_processes=3"], 18, 6, "18 images a step, 6 a process"),
        (["data.batch_size=20"], 18, 18, "20 images a step asked for, 18 trained: 18 a process"),
    ],
)
def test_what_does_not_divide_is_left_out_on_request(planned, overrides, trained, each, row):
    """As the reference has it: the lr rule and the steps of an epoch go by what was asked for."""
    plan = planned("sampler.drop_remainder=true", *overrides)[1]
    assert (plan.batches.images_per_step, plan.batches.batch_size_per_process) == (trained, each)
    assert (
        plan.steps.steps_per_epoch == 58 // plan.batches.batch_size
        and f"x batch {plan.batches.batch_size} / 64" in plan.lr.note
    )
    assert f"  batch        {row}\n" in str(plan)


def test_identities_that_do_not_go_round(planned):
    with pytest.raises(UserError, match="5 processes need two identities each.*there are 8, 8 of them with two"):
        planned("distributed.num_processes=5", "data.batch_size=15")


def test_a_batch_larger_than_the_data(planned):
    with pytest.raises(UserError, match="data.batch_size=60: more than the 58 training images"):
        planned("data.batch_size=60")


def test_max_steps_only_shortens(planned):
    assert planned("trainer.max_steps=3")[1].steps.total_steps == 3
    assert planned("trainer.max_steps=300")[1].steps.total_steps == 8


def test_batches_are_global_whatever_the_number_of_processes(planned):
    plan = planned("distributed.num_processes=4")[1]
    assert (
        plan.batches.batch_size,
        plan.batches.batch_size_per_process,
        plan.machine.num_processes,
        plan.steps.steps_per_epoch,
    ) == (12, 3, 4, 4)


@pytest.mark.parametrize(
    ("overrides", "lr", "min_lr", "note"),
    [
        (["data.batch_size=48"], 0.75e-3, 0.75e-5, "lr 0.001 x batch 48 / 64 = 0.00075"),
        (["schedule.batch_rule=false"], 1e-3, 1e-5, ""),
        (["schedule=constant"], 1e-3, 1e-3, ""),
        (["schedule=onecycle", "optimizer.lr=0.01"], 1e-2, None, ""),
        (["schedule=warmup_cosine"], 1e-3, 1e-5, ""),
        (["data.batch_size=48", "optimizer.lr=0.1"], 1e-3, 1e-5, "0.075, clipped to 0.001 by"),
    ],
)
def test_the_effective_learning_rate_and_why(planned, overrides, lr, min_lr, note):
    plan = planned(*overrides)[1]
    assert plan.lr.lr == pytest.approx(lr) and note in plan.lr.note and bool(note) == bool(plan.lr.note)
    assert plan.lr.min_lr == (None if min_lr is None else pytest.approx(min_lr))


@pytest.mark.parametrize(
    ("overrides", "size", "count"),
    [
        (["data.val_images=0.4"], 12, 2),  # 25 images, two whole batches
        (["data.val_images=0.1"], 6, 1),  # 6: one smaller batch
        (["data.val_images=0.1", "sampler=shuffle", "data.batch_size=8"], 6, 1),
        (["data.val_images=0.02"], 0, 0),  # one image makes no triplet
        (["data.val_images=0.0"], 0, 0),
        (["data.val_images=0.02", "sampler=shuffle"], 1, 1),
    ],
)
def test_validation_batches(planned, overrides, size, count):
    plan = planned(*overrides)[1]
    assert (plan.batches.val_batch_size, plan.batches.num_val_batches) == (size, count)


@pytest.mark.parametrize(
    ("overrides", "select"),
    [
        ([], "heldout/accuracy"),
        (["trainer.select=heldout/auc"], "heldout/auc"),
        (["benchmark=none"], "val/loss"),
        (["benchmark=none", "data.val_images=0.0"], "train/loss"),
    ],
)
def test_what_chooses_the_best_checkpoint(planned, overrides, select):
    assert planned(*overrides)[1].select == select


def names(faces):
    return {faces.name(index) for index in range(len(faces))}


def test_nothing_that_is_tested_is_trained_on(planned):
    material, _ = planned()
    trained, tested = set(material.train.identities), set(material.heldout.identities)
    assert not trained & tested and len(trained) == 8 and len(tested) == 4
    assert not names(material.train) & names(material.val)
    assert not names(material.train) & names(material.benchmarks[0].faces)
    assert names(material.benchmarks[0].faces) <= names(material.heldout)
    assert material.val.identities == material.train.identities  # one numbering for the classifier
    assert set(np.unique(material.train.labels)) == set(range(8))
    source = material.source
    assert {source.name(int(index)) for index in material.val_indices} == names(material.val)
    assert {source.name(int(index)) for index in material.heldout_indices} == names(material.heldout)


def test_the_split_does_not_depend_on_the_seed_of_the_run(planned):
    first, second = planned("seed=0")[0], planned("seed=1")[0]
    assert names(first.val) == names(second.val) and first.heldout.identities == second.heldout.identities
    assert first.source.fingerprint != planned("data.num_identities=13")[0].source.fingerprint


def test_the_share_held_out_by_default(planned):
    assert (
        planned("data.val_identities=null", "data.num_identities=40")[1].images.num_heldout_identities == 4
    )  # a tenth


def test_too_few_identities(planned):
    with pytest.raises(UserError, match="data.val_identities=0.34: holding out 2 of 3 identities leaves 1"):
        planned("data.num_identities=3")


def test_what_the_device_lacks_is_refused_in_the_plan(planned):
    with pytest.raises(UserError, match="precision=fp16: not on cpu"):
        planned("precision=fp16")
    with pytest.raises(UserError, match="distributed.sync_batch_norm"):
        planned("distributed=ddp", "distributed.sync_batch_norm=true")
    assert planned("distributed.sync_batch_norm=true")[1].machine.num_processes == 1  # nothing to synchronise


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["trainer.select=lfw/accuracy"],
            r"trainer.select=lfw/accuracy: this run measures heldout/..., val/..., train",
        ),
        (["schedule=reference_step"], "reference_step makes ten steps and trainer.epochs is 2"),
        (
            ["sampler=shuffle", "loss.terms.triplet.loss.mining=given"],
            "loss.terms.triplet: mining=given needs batches of triplets, .*sampler=triplet, or .*mining=batch_hard",
        ),
        *(
            ([f"loss=triplet_{mining}", "sampler=shuffle"], "several images of each identity .*set sampler=identity")
            for mining in ("semi_hard", "all", "distance_weighted")
        ),
        (
            ["loss=arcface_sharded", "loss.terms.arcface.loss.sample=0.5", "trainer.accumulate=2"],
            "set trainer.accumulate=1 or loss.terms.arcface.loss.sample=1.0",
        ),
        (
            ["loss=ce_sharded", "optimizer._target_=torch.optim.Adamax"],
            "optimizer=Adamax is not known to; set optimizer=adamw",
        ),
        (
            [
                "loss=ce_sharded",
                "sampler=shuffle",
                "distributed=ddp",
                "distributed.num_processes=9",
                "data.batch_size=27",
            ],
            "8 identities are fewer than 9 processes; lower distributed.num_processes",
        ),
    ],
)
def test_parts_that_do_not_go_together(planned, overrides, said):
    with pytest.raises(UserError, match=said):
        planned(*overrides)

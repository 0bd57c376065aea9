"""The plan's numbers as runs have them on record: whatever parts they are kept in, each under the name that it always had."""

from facenet.engine.schedule import EffectiveLr
from facenet.tasks.numbers import Batches, Images, Machine, Plan, Steps

PLAN = Plan(
    machine=Machine("cpu", "asked for", "bf16", 2),
    images=Images(12, 58, 6, 3, "f00d"),
    benchmark="heldout: 60 pairs; lfw: 6,000 pairs",
    batches=Batches("identity", 96, 90, 45, 3, 30, 2),
    steps=Steps(14, 7, 50),
    lr=EffectiveLr(3e-4, 3e-6, clipped=True, note="clipped"),
    select="heldout/accuracy",
    lower_is_better=False,
)


def test_a_record_names_each_number_as_it_always_did():
    names = (
        "device device_reason precision num_processes num_identities num_images num_val_images num_heldout_identities"
    )
    names += (
        " data_fingerprint benchmark layout batch_size images_per_step batch_size_per_process accumulate val_batch_size"
    )
    names += (
        " num_val_batches epochs steps_per_epoch total_steps lr min_lr lr_clipped lr_note select lower_is_better chosen"
    )
    found = PLAN.as_dict()
    assert {*found} == {*names.split()}
    some = (
        "num_processes",
        "num_val_images",
        "images_per_step",
        "total_steps",
        "lr",
        "min_lr",
        "lr_clipped",
        "lr_note",
    )
    assert [found[name] for name in some] == [2, 6, 90, 50, 3e-4, 3e-6, True, "clipped"]


def test_a_plan_says_what_is_trained_and_of_what_was_asked_for():
    assert str(PLAN).splitlines() == [
        "plan",
        "  data         58 images of 12 identities (identity batches), 6 images for the validation loss",
        "  fingerprint  f00d",
        "  benchmark    heldout: 60 pairs",
        "               lfw: 6,000 pairs",
        "  device       cpu (asked for), bf16, 2 process(es)",
        "  batch        96 images a step asked for, 90 trained: 45 a process in 3 parts",
        "  steps        7 an epoch, 14 epochs, 50 in all, of 98 that the schedule spans (trainer.max_steps)",
        "  lr           0.0003, down to 3e-06 (clipped)",
        "  best by      heldout/accuracy",
    ]

"""Params and names of runs, by value."""

import pytest

from facenet.tasks.compared import choice, params_to_compare, run_name
from facenet.tracking.facts import AXES, value_tags
from facenet.tracking.names import short_number

CONFIG = {
    "backbone": {
        "_target_": "facenet.backbones.FaceNet",
        "trunk": {"_target_": "facenet.backbones.MobileNetV1", "width": 0.5},
        "embedding_size": 128,
    },
    "loss": {
        "_target_": "facenet.losses.LossMix",
        "terms": {"ce": {"weight": 1.0, "loss": {"_target_": "facenet.losses.SoftmaxHead", "label_smoothing": 0.0}}},
    },
    "data": {"_target_": "facenet.data.FolderData", "root": "/faces/casia", "batch_size": 96, "num_workers": 4},
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.002, "betas": [0.9, 0.999]},
    "benchmark": {"seed": 3},
    "trainer": {"epochs": 14, "max_steps": None, "log_every": 20},
    "tracking": {"uri": "http://a:b@c"},
    "seed": 0,
    "weights": None,
}
PLAN = {"lr": 0.002, "images_per_step": 96, "device": "cpu", "select": "lfw/accuracy", "steps_per_epoch": 5}


def named(overrides=(), axes=None, number="7"):
    tags = {"job_num": number, **value_tags(AXES, axes)} if axes else {}
    return run_name(CONFIG, list(overrides), tags, "23:28")


def test_what_is_compared_is_there_and_what_was_given_always():
    found = params_to_compare(CONFIG, PLAN, [], {})
    assert found == {
        **{"backbone": "mobilenet_v1", "loss": "ce", "data": "folder", "optimizer": "adam", "seed": 0},
        **{"backbone.embedding_size": 128, "data.batch_size": 96, "optimizer.lr": 0.002, "trainer.epochs": 14},
        **{"benchmark.seed": 3, "plan.device": "cpu", "plan.select": "lfw/accuracy"},
    }
    given = [
        "++optimizer.betas=[0.8,0.9]",
        "trainer.log_every=20",
        "tracking.uri=x",
        "preset=single_card",
        "hydra.run.dir=y",
    ]
    more = params_to_compare(CONFIG, {**PLAN, "lr": 0.001}, given, value_tags(AXES, {"weights": "null"}))
    assert {key: value for key, value in more.items() if key not in found} == {
        **{"optimizer.betas.0": 0.9, "optimizer.betas.1": 0.999, "trainer.log_every": 20, "preset": "single_card"},
        **{"plan.lr": 0.001, "weights": "None"},
    }, "a plan's number where it is not the one asked for"


def test_a_part_is_called_as_its_file_or_as_its_classes():
    other = {
        **CONFIG,
        "backbone": {"_target_": "theirs.Net"},
        "augment": {"_target_": "facenet.data.Augment", "flip": 0.5, "pipeline": None},
    }
    assert (choice(other, "backbone"), choice(other, "augment")) == ("Net", "flip")
    assert choice(other, "backbone", {"backbone": "mine"}) == "mine"
    mixed = {**CONFIG["loss"], "terms": {**CONFIG["loss"]["terms"], "mine": {"loss": {"_target_": "theirs.Loss"}}}}
    assert choice({"loss": mixed}, "loss") == "ce+mine"


@pytest.mark.parametrize(
    ("axes", "name"),
    [
        (
            {"loss": "ce", "data.batch_size": "96", "optimizer.lr": "0.002", "backbone": "mobilenet_v1"},
            "lr 2e-3 · bs 96 · ce · mobilenet_v1",
        ),
        ({"seed": "1", "backbone.trunk.width": "0.25"}, "seed 1 · width 0.25"),
        (
            {"data.root": "/a/b/casia", "optimizer.weight_decay": "5e-4"},
            "casia · wd 5e-4".replace("casia", "root casia"),
        ),
        (
            {"loss.terms.a.loss.margin": "0.2", "loss.terms.b.loss.margin": "0.35"},
            "a.margin 0.2 · b.margin 0.35",
        ),
        ({"tracking.uri": "http://me:hunter2@host"}, "uri http://***@host"),
    ],
)
def test_a_job_of_a_sweep_is_named_by_what_differs(axes, name):
    assert named(axes=axes) == name


def test_a_name_is_short_and_its_batch_readable():
    axes = {f"group.key_number_{number}": "a_value_of_many_letters" for number in range(8)}
    name = named(axes={"data.batch_size": "1024", **axes})
    assert len(name) <= 40 and name.startswith("bs 1024") and name.endswith("#7"), name


def test_plain_runs_are_named_by_what_they_are():
    assert named() == "mobilenet_v1 · ce · casia · 23:28"
    assert named(["preset=single_card"]) == "single_card·mobilenet_v1·ce·casia·23:28"
    assert len(named(["preset=a_name_of_thirty_letters_or_so", "loss=triplet_distance_weighted"])) <= 40


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("0.002", "2e-3"),
        ("1e-05", "1e-5"),
        ("0.1", "0.1"),
        ("96", "96"),
        ("3.0e-4", "3e-4"),
        ("65536", "65536"),
        ("x", "x"),
    ],
)
def test_numbers_are_short(text, short):
    assert short_number(text) == short

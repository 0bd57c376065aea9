"""Terms in another order are the same training, and the optimizer keeps each its own state."""

from __future__ import annotations

from pathlib import Path

import torch

from facenet import config as configs
from facenet.tasks import resume

HEAD = {"weight": 1.0, "loss": {"_target_": "facenet.losses.SoftmaxHead"}}


def config(*names):
    parts = {"backbone": {}, "preprocess": {}, "data": {}, "tracking": {"uri": "sqlite:////x"}}
    terms = dict.fromkeys(names, HEAD)
    return {"resume": "auto", **parts, "loss": {"_target_": "facenet.losses.LossMix", "terms": terms}}


def heads(loss_config):
    torch.manual_seed(0)
    loss = configs.build(loss_config, "loss")
    loss.start(embedding_size=3, num_identities=2)
    return [name for name, _ in loss.named_parameters()]


def test_reordered_terms_go_on_in_the_order_of_the_run(tmp_path):
    earlier = resume.Earlier(tmp_path, config("one", "two"), Path("last.pt"), {})
    reordered = config("two", "one")
    assert heads(reordered["loss"]) != heads(earlier.config["loss"]), "of one shape, so that nothing else would tell"
    found = resume.config_of(earlier, reordered, [])
    assert found["loss"] == reordered["loss"] and heads(found["loss"]) == heads(earlier.config["loss"])


def test_what_is_new_comes_last():
    assert list(resume.in_order_of({"a": 1, "b": {"x": 1, "y": 2}}, {"c": 3, "b": {"y": 2, "z": 0, "x": 1}})) == [
        "b",
        "c",
    ]
    assert list(resume.in_order_of({"b": {"x": 1, "y": 2}}, {"b": {"y": 2, "z": 0, "x": 1}})["b"]) == ["x", "y", "z"]

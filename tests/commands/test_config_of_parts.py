"""A part of a config that names no class is a mistake of its writer: it was taken for one, and ended in an AttributeError."""

from __future__ import annotations

from typing import Any

import pytest

from facenet import config
from facenet.tasks.recipe import Recipe


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    from hydra import compose, initialize_config_module

    from facenet.commands import composed as cli
    from facenet.sweeps.settings import split

    assert cli.own_experiments  # its import registers a resolver of the config
    with initialize_config_module("facenet.conf", version_base="1.3"):
        return split(config.resolve(compose("train", overrides=["tracking=none"])))[0]


PARTS = (
    *("backbone", "loss", "data", "sampler", "augment", "preprocess", "optimizer", "schedule", "benchmark", "tracking"),
    *("accelerator", "precision", "distributed", "trainer", "watch"),
)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_without_its_class_is_told_with_the_way_to_choose_one(base, part):
    """As `~optimizer._target_`, or a preset with `optimizer: []`, leave it."""
    assert config.problems_of(base, Recipe) == []
    told = f"{part}: has no _target_, by which such a part is built; choose one with {part}=..."
    for value in ({}, [], [1], {key: each for key, each in base[part].items() if key != "_target_"}):
        assert told in config.problems_of({**base, part: value}, Recipe)
    assert any(line.startswith(f"{part}: expected ") for line in config.problems_of({**base, part: None}, Recipe))


def test_parts_within_a_part_too(base):
    benchmark = {**base["benchmark"], "protocol": {"flip": "none"}}
    assert "benchmark.protocol: has no _target_" in "".join(
        config.problems_of({**base, "benchmark": benchmark}, Recipe)
    )
    terms = {"ce": {"weight": 1.0, "loss": {}}}
    told = config.problems_of({**base, "loss": {**base["loss"], "terms": terms}}, Recipe)
    assert told == [
        "loss.terms.ce.loss: has no _target_, by which such a part is built; choose one with loss.terms.ce.loss=..."
    ]

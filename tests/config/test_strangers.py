"""Configs of strangers, drawn at random: which container, at which depth, in which slot, under which name."""

from __future__ import annotations

import collections
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from facenet.config import overlays
from facenet.engine import checkpoint as checkpoints
from facenet.errors import UserError
from facenet.tools.overlap import restore_network

pytestmark = pytest.mark.nightly
DRAWS = 200
FACENET, TRUNK = "facenet.backbones.FaceNet", "facenet.backbones.MobileNetV1"
WRAPS: list[Callable[[Any], Any]] = [
    lambda value: (value,),
    lambda value: [value],
    lambda value: {"x": value},
    lambda value: {"_target_": TRUNK, "init": value},
    lambda value: {"_target_": FACENET, "trunk": value},
    lambda value: {"_target_": "torch.nn.Sequential", "_args_": [value]},
    lambda value: {"_target_": "torch.nn.Identity", "_partial_": True, "x": value},
    lambda value: collections.OrderedDict(trunk=value),
    lambda value: collections.OrderedDict({"_target_": FACENET, "trunk": value}),
    lambda value: ({"a": (value,)},),
]
NAMES = [
    "torch.utils.collect_env.run",
    "os.system",
    "subprocess.getoutput",
    "facenet.backbones.weights.torch.utils.collect_env.run",
]


@pytest.mark.parametrize("seed", range(4))
def test_no_command_of_a_drawn_checkpoint_runs(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    for number in range(DRAWS // 4):
        node: Any = {"_target_": draw.choice(NAMES), "command": f"mkdir {tmp_path}/was_here"}
        for _ in range(draw.randint(0, 8)):
            node = draw.choice(WRAPS)(node)
        config = {
            "backbone": {"_target_": FACENET, "trunk": {"_target_": TRUNK}},
            "preprocess": {"_target_": "facenet.data.Preprocess", "size": [8, 8]},
        }
        if draw.random() < 0.5:
            config[draw.choice(["backbone", "preprocess"])] = node
        else:
            config[draw.choice(["backbone", "preprocess"])][draw.choice(["trunk", "size", "mean", "extra"])] = node
        content = {"config": config, "identities": [], "embedder": {}, "loss": {}, "epoch": 1, "step": 1, "metrics": {}}
        path = tmp_path / f"{number}.pt"
        checkpoints.save(content, path)
        with pytest.raises(UserError):
            restore_network(str(path), None, "", "", 8)
        path.unlink()
    assert not (tmp_path / "was_here").exists()
    torch.utils.collect_env.run(f"mkdir {tmp_path}/was_here")
    assert (tmp_path / "was_here").exists()


PLACES = [
    "callbacks.x",
    "job_logging",
    "hydra_logging.handlers.x",
    "launcher",
    "sweeper",
    "sweeper.sampler",
    "run",
    "job.env_set",
    "help",
]
EVIL = [
    {"_target_": "os.system"},
    {"()": "os.system"},
    {"setup": ["touch x"]},
    {"dir": "/home"},
    {"x": "${oc.env:HOME}"},
    {"template": "x\ny"},
]


@pytest.mark.parametrize("seed", range(4))
def test_no_drawn_file_reaches_hydra(seed: int) -> None:
    """The same content, wherever a package, a default or a key would put it."""
    draw = random.Random(seed)
    for _ in range(DRAWS // 4):
        place, evil = draw.choice(PLACES), draw.choice(EVIL)
        parts, package, nested = ["hydra", *place.split(".")], "_global_", evil
        cut = draw.randint(0, len(parts))
        for part in reversed(parts[cut:]):
            nested = {part: nested}
        if cut:
            package = draw.choice(["", "_global_."]) + ".".join(parts[:cut])
        content = {**nested, "seed": draw.randint(0, 9)} if draw.random() < 0.5 else nested
        read = yaml.safe_load(yaml.safe_dump(content))
        assert list(overlays.problems_of(read, "preset/x", package)), (package, content)


@pytest.mark.parametrize("seed", range(2))
def test_a_drawn_preset_of_values_is_taken(seed: int) -> None:
    draw = random.Random(seed)
    values = [
        1,
        0.5,
        True,
        None,
        "word",
        "two words",
        "a,b",
        "/a/path",
        "x-${seed}",
        [1, 2],
        {"a": 1},
        "1e-3",
        "interval(0, 1)",
    ]
    groups = ["data", "optimizer", "loss", "trainer", "augment", "schedule", "tracking"]
    for _ in range(DRAWS // 2):
        content: dict[str, Any] = {
            draw.choice(groups): {draw.choice(["lr", "x", "root", "list"]): draw.choice(values)} for _ in range(3)
        }
        content["hydra"] = {
            "mode": "MULTIRUN",
            "sweeper": {"params": {"optimizer.lr": "1e-3,1e-4", "seed": draw.randint(0, 9)}},
        }
        assert list(overlays.problems_of(content, "preset/x", "_global_")) == []

"""One tiny job: 12 identities x 8 images of 32 pixels, a few steps. Commands run as a user runs them, each a process.

Its groups are named, so that its numbers do not follow the defaults.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

BIN = Path(sys.executable).parent
TINY = (
    "backbone=mobilenet_v1",
    "backbone.trunk.width=0.25",  # a step takes 0.04 s in place of 0.17, a checkpoint 3 MB in place of 40
    "loss=triplet_ce",
    "sampler=triplet",
    "augment=flip",
    "preprocess=letterbox",
    "optimizer=adam",
    "schedule=reference_cosine",
    "precision=fp32",
    "data.num_identities=12",
    "data.images_per_identity=8",
    "data.image_size=32",
    "data.batch_size=12",
    "data.val_images=0.1",
    "data.val_identities=0.34",
    "data.num_workers=1",
    "benchmark.num_pairs=60",
    "benchmark.num_folds=3",
    "accelerator=cpu",
    "backbone.trunk.init=kaiming",  # the reference's gives one embedding for all images in the first steps
    "trainer.epochs=2",
    "trainer.log_every=2",
)


def tiny_with(overrides: tuple[str, ...]) -> list[str]:
    """Other sources and benchmarks than the drawn ones do not know their settings."""
    drawn = {"data=": ("data.num_identities=", "data.images_per_identity="), "benchmark=": ("benchmark.",)}
    given = [keys for group, keys in drawn.items() if any(item.startswith(group) for item in overrides)]
    return [*(item for item in TINY if not item.startswith(sum(given, ()))), *overrides]


@dataclass(frozen=True)
class Done:
    """A command that ended; `run_dir` is where it wrote."""

    code: int
    out: str
    err: str
    run_dir: Path


Command = Callable[..., Done]


def start(program: str, run_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    command = [str(BIN / program), *arguments, f"hydra.run.dir={run_dir}"]
    return subprocess.Popen(command, cwd=run_dir.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], run_dir: Path) -> Done:
    out, err = process.communicate(timeout=900)
    return Done(process.returncode, out, err, run_dir)


@pytest.fixture(scope="session")
def started() -> Callable[..., subprocess.Popen[str]]:
    """started(program, run_dir, *arguments): the process of a command."""
    return start


@pytest.fixture(scope="session")
def finished() -> Callable[..., Done]:
    return finish


@pytest.fixture
def facenet_train(tmp_path: Path) -> Command:
    """facenet_train(*overrides) of the tiny job without tracking; run_dir= names another directory."""

    def run(*overrides: str, run_dir: Path | None = None) -> Done:
        where = run_dir or tmp_path / "run"
        return finish(start("facenet-train", where, "tracking=none", *tiny_with(overrides)), where)

    return run


@pytest.fixture
def facenet_evaluate(tmp_path: Path) -> Command:
    def run(*overrides: str, run_dir: Path | None = None) -> Done:
        where = run_dir or tmp_path / "evaluation"
        return finish(start("facenet-evaluate", where, *overrides), where)

    return run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The tiny job, tracked in mlflow.db beside its directory."""
    where = tmp_path_factory.mktemp("tiny") / "run"
    done = finish(start("facenet-train", where, *TINY), where)
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    return TINY


@pytest.fixture(scope="session")
def compose() -> Callable[..., dict[str, Any]]:
    """compose(*overrides): the resolved config of the tiny training job."""
    return lambda *overrides: resolved("train", ["tracking=none", *tiny_with(overrides)])


@pytest.fixture(scope="session")
def compose_evaluate() -> Callable[..., dict[str, Any]]:
    return lambda *overrides: resolved("evaluate", ["tracking=none", "accelerator=cpu", *overrides])


@pytest.fixture(scope="session")
def compose_train() -> Callable[..., dict[str, Any]]:
    """compose_train(*overrides): the resolved config of a training job, nothing of the tiny one."""
    return lambda *overrides: resolved("train", [*overrides])


def resolved(name: str, overrides: list[str]) -> dict[str, Any]:
    """As Hydra resolves it. Choices of groups, which take it 0.1 s to compose, are composed once; values are set as it sets them."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import DictConfig

    from facenet import config
    from facenet.sweeps.settings import split

    # Hydra's own settings are no part of what it returns, so they are for it to set too.
    chosen = [
        item for item in overrides if item.startswith("hydra.") or "." not in item.partition("=")[0].partition("@")[0]
    ]
    values = [item for item in overrides if item not in chosen]
    composed: DictConfig = copy.deepcopy(composed_once(name, *chosen))
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), composed)
    return split(config.resolve(composed))[0]


@cache
def composed_once(name: str, *chosen: str) -> Any:
    from hydra import compose, initialize_config_module

    from facenet.commands import composed as cli

    assert cli.own_experiments  # its import registers a resolver of the config
    with initialize_config_module("facenet.conf", version_base="1.3"):
        return compose(name, overrides=[*chosen])


def unequal(first: object, second: object, path: str = "") -> list[str]:
    """Where two nested structures differ, tensors bit for bit."""
    import torch  # after conftest.py has bounded its threads

    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [path]
    if isinstance(first, dict):
        names = dict.fromkeys([*first, *second])
        return [found for key in names for found in unequal(first.get(key), second.get(key), f"{path}/{key}")]
    if isinstance(first, (list, tuple)):
        inner = [f for i, (a, b) in enumerate(zip(first, second, strict=False)) for f in unequal(a, b, f"{path}/{i}")]
        return inner or ([] if len(first) == len(second) else [path])
    return [] if first == second else [path]

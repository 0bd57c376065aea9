"""Installed packages that bring choices into the config groups, as YAML alone."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facenet import config as configs
from facenet.commands import from_python
from facenet.config.overrides import with_new_terms
from facenet.config.plugins import folders
from facenet.errors import UserError
from facenet.losses.term import Term  # noqa: F401  torch, before a test's own state is looked at
from facenet.sweeps.settings import split
from facenet.tasks.recipe import Recipe

LOSS = """
_target_: facenet.losses.LossMix
terms:
  mine: {weight: 1.0, loss: {_target_: yaml_faces.Mine, margin: 0.3}}
"""


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Before any test: the import of albumentations sets variables of the environment."""
    importlib.import_module("facenet.tasks.recipe")
    importlib.import_module("albumentations")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """install(files, value): a package as pip would leave it, whose import would be seen."""

    def put(files: dict[str, str], value: str = "yaml_faces.conf") -> Path:
        site = tmp_path / "site"
        package, info = site / "yaml_faces", site / "yaml_faces-1.2.dist-info"
        info.mkdir(parents=True)
        package.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: yaml-faces\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[facenet.plugins]\nmine = {value}\n")
        (package / "__init__.py").write_text("raise AssertionError('imported')\n")
        for name, text in files.items():
            (package / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
            (package / "conf" / name).write_text(text)
        monkeypatch.syspath_prepend(str(site))
        return site

    yield put
    sys.modules.pop("yaml_faces", None)


def composed(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    with from_python.called("train", [*overrides, f"hydra.run.dir={tmp_path / 'run'}"]) as (config, _, _):
        return config


def check(config: dict[str, Any]) -> None:
    configs.check(split(config)[0], Recipe)


def test_its_choices_stand_beside_ours_which_they_cannot_replace(install: Callable[..., Path], tmp_path: Path) -> None:
    install({"optimizer/mine.yaml": "_target_: torch.optim.SGD\nlr: 0.5\n", "schedule/constant.yaml": "x: 9.0\n"})
    config = composed(tmp_path, "optimizer=mine", "schedule=constant")
    assert config["optimizer"] == {"_target_": "torch.optim.SGD", "lr": 0.5} and "x" not in config["schedule"]
    assert "yaml_faces" not in sys.modules


def test_its_own_classes_need_trust(install: Callable[..., Path], tmp_path: Path) -> None:
    install({"loss/mine.yaml": LOSS})
    with pytest.raises(UserError, match=r"loss\.terms\.mine\.loss\._target_: .*trust=yaml_faces .*loss/mine\.yaml\)"):
        check(composed(tmp_path, "loss=mine"))
    found = composed(tmp_path, "loss=mine", "trust=yaml_faces")
    assert found["loss"]["terms"]["mine"]["loss"]["margin"] == 0.3 and "trust" not in found
    assert "yaml_faces" not in sys.modules  # not before the config is checked


def test_all_that_needs_trust_is_told_at_once(install: Callable[..., Path], tmp_path: Path) -> None:
    install({"loss/mine.yaml": LOSS, "backbone/small.yaml": "_target_: yaml_faces.Small\nedge: /etc/passwd\n"})
    other = ("loss.terms.other.weight=1", "loss.terms.other.loss._target_=other_faces.Other")
    with pytest.raises(UserError) as raised:
        check(composed(tmp_path, "loss=mine", "backbone=small", *other))
    head, *lines = str(raised.value).splitlines()
    assert head == "config: 3 problems" and "yaml_faces" not in sys.modules
    places = ("backbone._target_", "loss.terms.mine.loss._target_", "loss.terms.other.loss._target_")
    assert sorted(line.strip().partition(":")[0] for line in lines) == sorted(places)
    assert all("if you trust all code of" in line for line in lines)
    told = {line.strip().partition(":")[0]: line for line in lines}
    assert told[places[0]].endswith("backbone/small.yaml)") and told[places[2]].endswith("--trust")
    with pytest.raises(UserError, match=r"backbone\.edge: '/etc/passwd' would be opened by a class of somebody else's"):
        composed(tmp_path, "loss=mine", "backbone=small", "trust=yaml_faces", *other)


@pytest.mark.parametrize(
    "text",
    [
        "trust: yaml_faces\n",
        "hydra: {job: {env_set: {A: b}}}\n",
        "x: ${oc.env:HOME}\n",
        "loss: {_target_: os.system}\n",
    ],
)
def test_it_says_no_more_than_a_file_of_a_directory(install: Callable[..., Path], tmp_path: Path, text: str) -> None:
    install({"preset/mine.yaml": f"# @package _global_\n{text}"})
    with pytest.raises(UserError, match=r"preset/mine\.yaml: "):
        composed(tmp_path, "preset=mine")


ENDS_ALL = pytest.mark.skipif(sys.version_info < (3, 11), reason="entry_points() raises for it there, MLflow's own too")


@pytest.mark.parametrize(
    "value",
    ["yaml_faces.absent", "no_such_package.conf", pytest.param("yaml_faces/../conf", marks=ENDS_ALL), "os.path"],
)
def test_one_without_its_folder_is_said_and_costs_nothing_else(
    install: Callable[..., Path], caplog: pytest.LogCaptureFixture, value: str
) -> None:
    install({"optimizer/mine.yaml": ""}, value)
    assert folders() == {} and f"names no folder of an installed package: {value}" in caplog.text


def test_a_package_of_the_working_directory_is_none(
    install: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = install({"optimizer/mine.yaml": ""})
    assert list(folders()) == ["mine"]
    monkeypatch.setattr(sys, "path", ["", *(entry for entry in sys.path if entry != str(site))])
    monkeypatch.chdir(site)
    assert folders() == {}


HEAD = "_target_=facenet.losses.SoftmaxHead"


def test_a_new_term_of_the_loss_needs_no_sign(tmp_path: Path) -> None:
    said = ["loss.terms.mine.weight=0.5", f"loss.terms.mine.loss.{HEAD}", "loss.terms.mine.loss.label_smoothing=0.1"]
    terms = composed(tmp_path, "loss=triplet", *said)["loss"]["terms"]
    assert list(terms) == ["triplet", "mine"] and terms["mine"]["weight"] == 0.5
    assert terms["mine"]["loss"] == {"_target_": "facenet.losses.SoftmaxHead", "label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("given", "signed"),
    [
        (["loss.terms.a.weight=1", f"loss.terms.a.loss.{HEAD}"], [0, 1]),
        (["loss.terms.a.weight=1,2", "loss.terms.a.loss={_target_:x}", "loss.terms.ab.weight=1"], [0, 1]),
        (["loss.terms.a={weight:1,loss:{_target_:x}}", "loss=triplet", "seed=1"], [0]),
        (["+loss.terms.a.weight=1", f"+loss.terms.a.loss.{HEAD}"], []),
        (["loss.terms.a.weight=1", "loss.terms.a.loss.margin=2"], []),
        (["loss.terms.a.loss.loss._target_=x", "optimizer._target_=y"], []),
    ],
)
def test_which_overrides_are_those_of_a_new_term(given: list[str], signed: list[int]) -> None:
    assert with_new_terms(given) == [f"++{each}" if place in signed else each for place, each in enumerate(given)]


def test_a_term_of_which_no_class_is_said_is_a_typing_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loss\.terms\.tripelt: has no loss.*; did you mean 'triplet'\?"):
        composed(tmp_path, "loss=triplet", "loss.terms.tripelt.weight=0.5")

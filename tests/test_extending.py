"""The files of docs/extending.md, as they are written there."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jobs import BIN, TINY
from PIL import Image

from facenet import config as configs
from facenet.commands import from_python
from facenet.config.contracts import CONTRACTS
from facenet.devices import table
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.errors import UserError
from facenet.files import trusted
from facenet.tasks.recipe import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
MOST = {
    "my_faces/losses.py": 15,
    "my_faces/backbones.py": 15,
    "my_faces/nearest.py": 20,
    "my_faces/device.py": 30,
    "my_faces/metric.py": 15,
}
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="the tests lie outside a source tree")


def files() -> dict[str, str]:
    blocks = re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return dict(blocks)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of them."""
    importlib.import_module("albumentations")  # whose import sets variables of the environment
    folder = tmp_path_factory.mktemp("extending")
    for name, text in {**files(), "my_faces/__init__.py": ""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def trust(place: Path) -> Iterator[None]:
    with trusted.also([str(place / "my_faces")]):
        yield
    trusted.finder.packages.pop("my_faces", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_faces"]:
        del sys.modules[name]


def test_they_are_as_short_as_promised() -> None:
    lines = {name: len([line for line in text.splitlines() if line.strip()]) for name, text in files().items()}
    assert MOST.keys() <= lines.keys() and all(lines[name] <= most for name, most in MOST.items())


def test_the_page_names_every_place() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for contract in CONTRACTS.values():
        names = [contract.base.rpartition(".")[2], *contract.methods, *contract.attributes]
        assert all(f"`{name}" in page or f".{name}`" in page or name == "forward" for name in names), names


def node(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(files()[name])
    return found


def test_the_loss_trains(trust: None) -> None:
    described = node("my_faces/conf/loss/compact.yaml")
    mix = configs.build(described, "loss")
    mix.start(embedding_size=8, num_identities=3)
    features = torch.randn(6, 8, requires_grad=True)
    value = mix(features, torch.tensor([0, 0, 1, 1, 2, 2]))
    value.total.backward()
    unit = torch.nn.functional.normalize(features, dim=1).view(3, 2, 8)
    spread = (unit - unit.mean(dim=1, keepdim=True)).square().sum(dim=2).mean()
    assert value.scalars["compact"].item() == pytest.approx(spread.item()) == value.scalars["compact/spread"].item()
    assert features.grad is not None and features.grad.isfinite().all()


def composed(place: Path, tmp_path: Path, *overrides: str) -> dict[str, Any]:
    """As the command composes it in the directory of the page."""
    with from_python.called("train", [*overrides, f"hydra.run.dir={tmp_path / 'run'}"]) as (config, _, _):
        return {name: value for name, value in config.items() if name != "sweep"}


def test_the_backbone_is_a_choice_of_the_directory(
    trust: None, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    config = composed(place, tmp_path, "backbone=small", f"trust={place / 'my_faces'}")
    configs.check(config, Recipe)
    (told,) = configs.problems_of({**config, "backbone": {**config["backbone"], "widht": 3}}, Recipe)
    assert told.startswith("backbone.widht: my_faces.backbones.Small has no parameter 'widht'; write backbone.width=3")
    assert configs.build(config["backbone"], "backbone")(torch.zeros(2, 3, 32, 32)).shape == (2, 64)


def test_a_choice_of_the_directory_needs_trust(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    config = composed(place, tmp_path, "backbone=small")
    with pytest.raises(UserError, match=r"backbone\._target_: .*trust=\./my_faces; .*small\.yaml\)"):
        configs.check(config, Recipe)


def test_the_benchmark_judges(trust: None, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    overrides = ["benchmark=nearest", f"benchmark.root={faces(tmp_path / 'people')}", f"trust={place / 'my_faces'}"]
    config = composed(place, tmp_path, *overrides)
    configs.check(config, Recipe)
    opened = configs.build(config["benchmark"], "benchmark").open()
    rows = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    assert opened.run(rows).metrics == {"rank1": 0.5} and opened.measures == {"rank1": False}


def faces(folder: Path) -> Path:
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


@pytest.fixture
def installed(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package where Python finds it, with its entry points."""
    info = tmp_path / "my_faces-0.1.dist-info"
    info.mkdir()
    points = re.findall(r'\[project\.entry-points\."(.*?)"\]\n(\w+) = "(.*?)"', files()["pyproject.toml"])
    (info / "entry_points.txt").write_text("".join(f"[{group}]\n{name} = {value}\n" for group, name, value in points))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-faces\nVersion: 0.1\n")
    (tmp_path / "my_faces").symlink_to(place / "my_faces")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(table, "LOADED", {})
    yield
    trusted.finder.packages.pop("my_faces", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_faces"]:
        del sys.modules[name]


def test_the_device_computes_and_needs_trust(installed: None) -> None:
    with pytest.raises(UserError, match=r"one_thread: is a device of the installed package my_faces; .*trust=my_faces"):
        DeviceChoice(name="one_thread")
    assert "my_faces" not in sys.modules and table.names_in_order()[-1] == "cpu" and len(table.names_in_order()) == 3
    threads = torch.get_num_threads()
    try:
        with trusted.also(["my_faces"]):
            assert table.names_in_order() == ["sdaa", "cuda", "one_thread", "cpu"]
            with Accelerator.start(DeviceChoice(name="one_thread"), Precision(), alone=True) as device:
                layer = device.prepare(torch.nn.Linear(2, 2))
                layer(device.to_device(torch.ones(1, 2))).sum().backward()
                assert torch.get_num_threads() == 1 and device.device.type == "cpu" and device.memory().total
            with pytest.raises(UserError, match=r"precision=bf16: not on one_thread, which offers fp32"):
                table.check_precision("one_thread", Precision(dtype="bf16"))
    finally:
        torch.set_num_threads(threads)


def test_names_that_are_no_device_are_told_with_those_that_are(installed: None) -> None:
    with pytest.raises(UserError, match=r"expected one of auto, sdaa, cuda, cpu, one_thread"):
        DeviceChoice(name="one_tread")


@pytest.mark.parametrize(
    ("value", "told"),
    [("my_faces.losses:Compact", "is no row of a device"), ("my_faces.absent:ROW", "does not import here")],
)
def test_what_is_no_row_is_refused_in_one_line(
    installed: None, monkeypatch: pytest.MonkeyPatch, value: str, told: str
) -> None:
    point = importlib.metadata.EntryPoint("odd", value, table.GROUP)
    monkeypatch.setattr(table, "outside", lambda: {"odd": point})
    with trusted.also(["my_faces"]), pytest.raises(UserError, match=told) as caught:
        DeviceChoice(name="odd")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_an_installed_wheel_trains_in_a_sweep_on_two_processes(place: Path, tmp_path: Path) -> None:
    """Its YAML chooses a loss, its device computes, and a loss of pytorch-metric-learning stands beside, where that is installed."""
    offline = ["--no-build-isolation"] if importlib.util.find_spec("setuptools") else []
    pip = [sys.executable, "-m", "pip"]
    site = tmp_path / "site"
    for command in (
        [*pip, "wheel", str(place), "--no-deps", "--wheel-dir", str(tmp_path), *offline],
        [
            *pip,
            "install",
            "--no-deps",
            "--no-index",
            "--target",
            str(site),
            str(tmp_path / "my_faces-0.1-py3-none-any.whl"),
        ],
    ):
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, timeout=600)
    names, terms, job = ["my_faces"], ["ce", "compact"], ["loss=compact"]
    if importlib.util.find_spec("pytorch_metric_learning"):
        names.append("pytorch_metric_learning")
        terms.append("metric")
        job += ["loss.terms.metric.weight=1", "loss.terms.metric.loss._target_=my_faces.metric.MetricLoss"]
        job += ["loss.terms.metric.loss.loss._target_=pytorch_metric_learning.losses.MultiSimilarityLoss"]
    own = [each for each in TINY if not each.startswith(("loss=", "accelerator="))]
    command = [
        str(BIN / "facenet-train"),
        "-m",
        *own,
        *job,
        f"trust=[{','.join(names)}]",
        "accelerator.name=one_thread",
    ]
    command += [
        "distributed=ddp",
        "distributed.num_processes=2",
        "trainer.epochs=1",
        "seed=1,2",
        "hydra.sweep.dir=sweep",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for number in ("0", "1"):
        result = json.loads((tmp_path / "sweep" / number / "result.json").read_text())
        assert {f"train/{name}" for name in terms} <= result["metrics"].keys()
    assert "trust" not in (tmp_path / "sweep" / "sweep.json").read_text()
    again = subprocess.run(
        [command[0], "sweep.resume=sweep"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert again.returncode == 2 and "trust=my_faces" in again.stderr

"""What may be built at each place of a config, what it is built from, and what a checkpoint's network may not open."""

from __future__ import annotations

import collections
import enum
import functools
import importlib
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facenet import config as configs
from facenet.backbones.embedder import FaceNet
from facenet.config import build, slots
from facenet.config.slots import SLOTS, locate
from facenet.errors import UserError
from facenet.files.plain import DEEPEST, MOST, plain, yaml_text
from facenet.losses.mix import LossMix

TRUNK = {"_target_": "facenet.backbones.MobileNetV1"}
BACKBONE = {"_target_": "facenet.backbones.FaceNet", "trunk": TRUNK}
PREPROCESS = {"_target_": "facenet.data.Preprocess", "size": [8, 8]}
TERM = {"_target_": "facenet.losses.SoftmaxHead"}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Before any test: the import of albumentations sets variables of the environment."""
    importlib.import_module("facenet.data.transforms")
    importlib.import_module("albumentations")


class Text(str):
    pass


class Number(enum.IntEnum):
    ONE = 1


class Pair(typing.NamedTuple):
    a: int


EVIL = {"_target_": "torch.utils.collect_env.run", "command": "true"}
STRANGE: dict[str, Any] = {
    "tuple": (EVIL,),
    "set": {1},
    "frozenset": frozenset({1}),
    "OrderedDict": collections.OrderedDict(EVIL),
    "defaultdict": collections.defaultdict(list, EVIL),
    "Counter": collections.Counter(a=1),
    "deque": collections.deque([EVIL]),
    "namedtuple": Pair(1),
    "str subclass": Text("facenet."),
    "enum": Number.ONE,
    "torch.Size": torch.Size([1]),
    "tensor": torch.zeros(1),
    "numpy": np.float64(1.0),
    "dtype": torch.float32,
    "bytes": b"x",
    "complex": 1j,
    "a list's subclass": type("L", (list,), {})([EVIL]),
    "key of another type": {1: 2},
    "key of a subclass": {Text("a"): 1},
}


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [{"a": [value]}], lambda value: {"trunk": value}])
def test_only_the_types_of_yaml_are_values(kind: str, wrap: Any) -> None:
    with pytest.raises(UserError, match="^backbone"):
        plain(wrap(STRANGE[kind]), "backbone")
    with pytest.raises(UserError, match="^backbone"):
        build({**BACKBONE, "more": wrap(STRANGE[kind])}, "backbone")


def test_a_plain_value_is_copied_and_keeps_its_shape() -> None:
    value = {"a": [1, 2.5, True, None, "x", {"b": []}], "c": {}}
    copy = plain(value, "config")
    assert copy == value and copy is not value and copy["a"] is not value["a"] and copy["a"][5] is not value["a"][5]
    assert [type(each) for each in copy["a"]] == [int, float, bool, type(None), str, dict]


def nested(levels: int) -> list[Any]:
    return functools.reduce(lambda inner, _: [inner], range(levels), [])


def doubled(times: int) -> list[Any]:
    return functools.reduce(lambda inner, _: [inner, inner], range(times), [])


def cyclic() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "value", [nested(DEEPEST + 1), nested(100_000), doubled(39), cyclic(), [0] * (MOST + 1), "x" * 200_000]
)
def test_values_that_would_not_end_are_refused(value: Any) -> None:
    with pytest.raises(UserError, match="^config"):
        plain(value, "config")


def test_what_a_config_has_is_within_the_bounds() -> None:
    assert plain(nested(DEEPEST), "config") and plain([0] * (MOST - 1), "config")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 1]\n"
        + "".join(f"b{n}: &b{n} [{', '.join(['*a' if n == 0 else f'*b{n - 1}'] * 9)}]\n" for n in range(9)),
        "a: &a [*a]",
        "[" * 100_000,
        "a: " + "x" * 1_000_001,
        "a: [",
        "a: *nobody",
    ],
    ids=["aliases", "cycle", "depth", "size", "unfinished", "unknown alias"],
)
def test_yaml_that_would_not_end_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "resolved.yaml").write_text(text)
    with pytest.raises(UserError, match=r"resolved\.yaml"):
        configs.read(tmp_path / "resolved.yaml")


def test_yaml_with_aliases_and_dates_is_read(tmp_path: Path) -> None:
    text = "a: &a {b: 1e-4}\nc: {<<: *a, d: 2026-01-01}\n"
    (tmp_path / "x.yaml").write_text(text)
    assert yaml_text(tmp_path / "x.yaml") == text
    assert configs.read(tmp_path / "x.yaml") == {"a": {"b": 1e-4}, "c": {"b": 1e-4, "d": "2026-01-01"}}


ALSO = {  # place -> what else may stand there: networks within networks, transforms within transforms
    ("backbone.trunk", "backbone"),
    ("backbone.trunk", "backbone.trunk.norm"),
    ("backbone.trunk.norm", "backbone"),
    ("backbone.trunk.norm", "backbone.trunk"),
    ("augment.pipeline.0", "augment.pipeline.0.transforms.0"),
    ("augment.pipeline.0.transforms.0", "augment.pipeline.0"),
}
MEMBERS = {
    "backbone": "facenet.backbones.MobileFaceNet",
    "loss": "facenet.losses.LossMix",
    "data": "facenet.data.SyntheticData",
    "sampler": "facenet.data.ReferenceSampler",
    "augment": "facenet.data.Augment",
    "preprocess": "facenet.data.Preprocess",
    "optimizer": "torch.optim.RMSprop",
    "schedule": "facenet.engine.TorchSchedule",
    "benchmark": "facenet.evaluation.HeldOut",
    "tracking": "facenet.tracking.NoTracking",
    "watch": "facenet.engine.Watch",
    "accelerator": "facenet.devices.DeviceChoice",
    "precision": "facenet.devices.Precision",
    "distributed": "facenet.distributed.Distributed",
    "trainer": "facenet.engine.Settings",
    "sweep": "facenet.sweeps.Sweep",
    "backbone.trunk": "facenet.backbones.MobileNetV1",
    "backbone.trunk.norm": "torch.nn.BatchNorm2d",
    "loss.terms.ce.loss": "facenet.losses.SoftmaxHead",
    "augment.pipeline.0": "albumentations.OneOf",
    "augment.pipeline.0.transforms.0": "albumentations.ToGray",
    "schedule.scheduler": "torch.optim.lr_scheduler.StepLR",
    "benchmark.protocol": "facenet.evaluation.Protocol",
}


def test_each_place_takes_its_own_and_nothing_of_another() -> None:
    assert set(SLOTS) <= set(MEMBERS)
    for place in MEMBERS:
        for origin, target in MEMBERS.items():
            try:
                locate(target, place)
                taken = True
            except UserError as error:
                assert str(error).startswith(f"{place}._target_: ")
                taken = False
            assert taken == (origin == place or (place, origin) in ALSO), (place, target)


def test_a_trunk_is_no_backbone_and_a_loss_term_no_mix() -> None:
    with pytest.raises(UserError, match="no part for backbone; it takes facenet.backbones.Embedder"):
        build(TRUNK, "backbone")
    with pytest.raises(UserError, match="may not be built"):
        build(TERM, "loss")
    assert isinstance(build(BACKBONE, "backbone"), FaceNet)
    assert isinstance(
        build({"_target_": "facenet.losses.LossMix", "terms": {"ce": {"weight": 1.0, "loss": TERM}}}, "loss"),
        LossMix,
    )


@pytest.mark.parametrize(
    "target",
    [
        "torch.utils.collect_env.run",
        "torch.nn.modules.module.os.system",
        "torch.nn.Linear ",
        " torch.nn.Linear",
        "TORCH.nn.Linear",
        "torch.nn..Linear",
        "torch.nn.Linear\n",
        "torch.nn.Linear.__init__",
        "torch.nn.modules.module.Parameter",
        "torch.nn.functional.relu",
        "torch.nn.utils.parametrize.torch.load",
        "torch.nn.parallel.distributed.dist.nn.api.remote_module.RemoteModule",
        "facenet.backbones.weights.torch.load",
        "facenet.backbones.weights.load_weights",
        "facenet.backbones.embedder.UserError",
        "facenet.__main__.main",
        "facenet.backbones.__main__",
        "albumentations.load",
        "torchvision.datasets.MNIST",
        "torchvision.models.get_model_weights",
        "timm.create_model.__globals__",
        "timm.models.load_checkpoint",
        ["torch", "nn"],
        None,
        7,
    ],
)
@pytest.mark.parametrize("at", ["trunk", "deeper"])
def test_what_no_network_is_made_of(target: Any, at: str) -> None:
    part = {"_target_": target, "_partial_": True}
    node = {**BACKBONE, "trunk": part if at == "trunk" else {**TRUNK, "init": [{"x": part}]}}
    for of_others in (True, False):
        with pytest.raises(UserError):
            build(node, "backbone", of_others=of_others)


@pytest.mark.parametrize("key", ["_args_", "_recursive_", "_mode_", "_target", "__class__", "_"])
def test_no_other_key_means_anything(key: str) -> None:
    with pytest.raises(UserError, match=rf"backbone\.trunk\.{key}: no key of a config"):
        build({**BACKBONE, "trunk": {**TRUNK, key: []}}, "backbone")
    built = build({**BACKBONE, "_convert_": "all", "trunk": {**TRUNK, "_partial_": False}}, "backbone")
    assert isinstance(built, FaceNet)


def test_nothing_is_built_before_all_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("facenet.backbones.MobileNetV1.__init__", lambda *_, **__: made.append("trunk"))
    with pytest.raises(UserError):
        build({"backbone": BACKBONE, "loss": {"_target_": "os.system"}})
    assert made == []


@pytest.fixture
def zoos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand-ins for timm and torchvision, which note what they were asked for."""
    files = {
        "timm/__init__.py": "from timm.models import create_model\n",
        "timm/models.py": (
            "import torch\nasked = []\n"
            "def create_model(model_name, pretrained=False, pretrained_cfg=None, checkpoint_path=None, **others):\n"
            "    asked.append((model_name, pretrained, pretrained_cfg, checkpoint_path, others))\n"
            "    made = torch.nn.Conv2d(3, 4, 3)\n    made.num_features = 4\n    return made\n"
            "def load_checkpoint(path): raise AssertionError\n"
        ),
        "torchvision/__init__.py": "",
        "torchvision/models/__init__.py": (
            "from torchvision.models.nets import resnet18, get_model\ndef list_models(): return ['resnet18']\n"
        ),
        "torchvision/models/nets.py": (
            "import torch\nasked = []\n"
            "def resnet18(*, weights=None, weights_backbone='DEFAULT', progress=True, **others):\n"
            "    asked.append((weights, weights_backbone, others))\n"
            "    made = torch.nn.Conv2d(3, 4, 3)\n    made.num_features = 4\n    return made\n"
            "def get_model(name, **config): raise AssertionError\n"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    loaded = [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]:
        del sys.modules[name]


def zoo(**values: Any) -> dict[str, Any]:
    return {**BACKBONE, "trunk": {"_target_": "timm.create_model", "model_name": "resnet18.a1_in1k", **values}}


@pytest.mark.usefixtures("zoos")
def test_a_checkpoints_network_fetches_nothing_and_the_users_own_does() -> None:
    import timm.models
    import torchvision.models.nets

    build(zoo(pretrained=True, drop_path_rate=0.1), "backbone")
    build(zoo(pretrained=True, drop_path_rate=0.1, act_layer="relu"), "backbone", of_others=True)
    build(
        zoo(checkpoint_path="/etc/passwd", drop_path_rate=0.1), "backbone", of_others=True
    )  # as where a run of one's own began from a file
    assert [(asked[1], asked[3], asked[4]["drop_path_rate"]) for asked in timm.models.asked] == [
        (True, None, 0.1),
        (False, None, 0.1),
        (False, None, 0.1),
    ]
    vision = {**BACKBONE, "trunk": {"_target_": "torchvision.models.resnet18"}}
    build(vision, "backbone")
    build(vision, "backbone", of_others=True)
    build(
        {**vision, "trunk": {**vision["trunk"], "weights": "DEFAULT", "weights_backbone": "DEFAULT"}},
        "backbone",
        of_others=True,
    )
    assert [asked[:2] for asked in torchvision.models.nets.asked] == [(None, "DEFAULT"), (None, None), (None, None)]
    with pytest.raises(UserError, match="it takes"):
        build(
            {**BACKBONE, "trunk": {"_target_": "torchvision.models.get_model", "name": "resnet18"}},
            "backbone",
            of_others=True,
        )


OPENED = {
    "pretrained_cfg": {"url": "x"},
    "pretrained_cfg_overlay": {"file": "x"},
    "weights_path": "x",
    "url": "x",
    "file": "x",
    "cache_dir": "x",
    "repo_or_dir": "x",
    "model_name": "hf-hub:me/x",
    "name": "local-dir:/x",
    "act_layer": "/etc/passwd",
    "Checkpoint_Path": "x.pth",
    "inner": [{"deep": {"Checkpoint_Path": "x"}}],
}


@pytest.mark.usefixtures("zoos")
@pytest.mark.parametrize("key", OPENED)
def test_what_a_checkpoints_network_may_not_open(key: str) -> None:
    with pytest.raises(UserError, match="would open a file or an address, which a checkpoint may not"):
        build(zoo(**{key: OPENED[key]}), "backbone", of_others=True)
    build(zoo(**{key: OPENED[key]}), "backbone")  # the user's own word
    if "name" not in key and key not in ("inner", "act_layer"):
        for nothing in (None, False):
            build(zoo(**{key: nothing}), "backbone", of_others=True)


@pytest.mark.parametrize("key", ["pretrained", "checkpoint_path", "weights"])
def test_a_network_of_ours_begins_from_nothing(key: str) -> None:
    """Only a zoo's function knows these; anywhere else they could mean anything."""
    for node in (
        {**BACKBONE, key: "x"},
        {**BACKBONE, "trunk": {**TRUNK, key: "x"}},
        {**BACKBONE, "trunk": {**TRUNK, "init": [{key: "x"}]}},
    ):
        with pytest.raises(UserError, match="would open a file or an address"):
            build(node, "backbone", of_others=True)


def test_the_preprocessing_of_a_checkpoint_opens_nothing_either() -> None:
    build(PREPROCESS, "preprocess", of_others=True)
    with pytest.raises(UserError, match="would open"):
        build({**PREPROCESS, "mean": [{"url": "http://x"}]}, "preprocess", of_others=True)


@pytest.mark.parametrize(
    ("key", "value", "source"),
    [
        ("pretrained_window_sizes", [12, 12, 12, 6], False),
        ("pretrained_window_sizes", (0, 0, 0, 0), False),
        ("num_paths", 2, False),
        ("drop_path", 0.1, False),
        ("pretrained_cfg", {"url": "x"}, True),
        ("checkpoint_path", "x", True),
        ("pretrained", 1, True),
    ],
)
def test_sizes_and_counts_are_no_sources(key: str, value: object, source: bool) -> None:
    assert slots.is_source(key, value) is source

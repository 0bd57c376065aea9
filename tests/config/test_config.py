"""The config against the Python signatures: what is refused, in which words, and what is built."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from omegaconf import OmegaConf

from facenet import config as configs
from facenet.config.checking import way_to
from facenet.data.source import SyntheticData
from facenet.devices.table import Precision
from facenet.errors import UserError

SGD = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}
PRECISION = {"_target_": "facenet.devices.Precision", "dtype": "fp32"}


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Before any test: the import of albumentations sets variables of the environment."""
    importlib.import_module("facenet.data.transforms")
    importlib.import_module("albumentations")


def root(*, optimizer: functools.partial[Any], precision: Precision, epochs: int, run: Any = None) -> None:
    """Stands for a task: three keys of the config and one parameter that the command gives."""


def one_part(*, part: Any) -> None:
    """A task with a key that is no slot: all that stands anywhere in a config may be built there."""


def good(**changes: Any) -> dict[str, Any]:
    return {"optimizer": SGD, "precision": PRECISION, "epochs": 3, **changes}


def complaint(config: dict[str, Any], task: Callable[..., Any] = root) -> list[str]:
    """The lines of the refusal, without the count."""
    with pytest.raises(UserError) as refused:
        configs.check(config, task)
    first, *lines = str(refused.value).split("\n  ")
    assert first == f"config: {len(lines)} problem{'s' * (len(lines) > 1)}"
    return lines


def test_a_fitting_config_passes():
    configs.check(good(), root)
    assert configs.problems_of(good(), root) == []


def test_all_problems_come_in_one_message():
    config = {"optimizer": {**SGD, "momentom": 0.9}, "precission": PRECISION, "epochs": "abc"}
    with pytest.raises(UserError) as refused:
        configs.check(config, root)
    assert str(refused.value) == (
        "config: 4 problems\n"
        "  optimizer.momentom: torch.optim.SGD has no parameter 'momentom'; write optimizer.momentum=0.9\n"
        "  precission: this command has no parameter 'precission'; did you mean 'precision'?\n"
        "  epochs: expected int, got 'abc'\n"
        "  precision: this command needs it; set precision=..."
    )


def test_no_neighbour_is_named_where_none_is_near():
    assert complaint(good(zebra=1)) == ["zebra: this command has no parameter 'zebra'"]


def test_what_the_command_gives_is_no_key():
    assert complaint(good(run=1)) == ["run: this command has no parameter 'run'"]


def test_a_missing_value_is_named_beside_the_other_problems():
    composed = OmegaConf.create({**good(epochs="abc"), "precision": {**PRECISION, "dtype": "???"}})
    assert complaint(configs.resolve(composed)) == [
        "precision.dtype: needs a value; set precision.dtype=...",
        "epochs: expected int, got 'abc'",
    ]


def test_a_parameter_without_default_must_be_there_unless_partial():
    assert complaint({"part": {"_target_": "facenet.data.SyntheticData", "num_identities": 3}}, one_part) == [
        "part.images_per_identity: facenet.data.SyntheticData needs it; set part.images_per_identity=..."
    ]
    configs.check(good(optimizer={"_target_": "torch.optim.Adam", "_partial_": True}), root)


def scalars(
    *,
    count: int = 0,
    share: float = 0.0,
    name: str = "",
    flag: bool = False,
    choice: Literal["l2", "cosine"] = "l2",
    limit: float | None = None,
    sides: list[int] | None = None,
    table: dict[str, Any] | None = None,
) -> None:
    """Every kind of value that YAML spells."""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("count", 0),
        ("share", 1),  # YAML writes 1.0 as 1 now and then
        ("share", 0.5),
        ("name", "x"),
        ("flag", True),
        ("choice", "cosine"),
        ("limit", None),
        ("limit", 2),
        ("sides", [112, 96]),
        ("sides", []),
        ("table", {"any": [1, {"thing": None}]}),
    ],
)
def test_fitting_values(key: str, value: Any):
    assert configs.problems_of({key: value}, scalars) == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("count", 1.0, "expected int, got 1.0; write count=1"),
        ("count", True, "expected int, got True"),
        ("count", None, "expected int, got None"),
        ("share", "1e-3x", "expected float, got '1e-3x'"),
        ("share", False, "expected float, got False"),
        ("name", 3, "expected str, got 3"),
        ("flag", 1, "expected bool, got 1; write flag=true"),
        ("flag", "yes", "expected bool, got 'yes'; write flag=true"),
        ("choice", "l1", "expected one of l2, cosine, got 'l1'"),
        ("limit", "none", "expected float or null, got 'none'"),
        ("sides", 112, "expected list of int or null, got 112"),
        ("sides", [112, "96"], "expected list of int or null, got [112, '96']"),
        ("table", [1], "expected dict or null, got [1]"),
    ],
)
def test_values_of_the_wrong_type(key: str, value: Any, expected: str):
    assert complaint({key: value}, scalars) == [f"{key}: {expected}"]


def test_problems_inside_lists_dicts_and_nested_partials_carry_their_path():
    onecycle = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "_partial_": True, "pct_strt": 0.2}
    config = {
        "schedule": {"_target_": "facenet.engine.TorchSchedule", "every": "batch", "scheduler": onecycle},
        "augment": {"_target_": "facenet.data.Augment", "pipeline": [{"_target_": "albumentations.Affin"}]},
        "terms": {"ce": {"loss": {"_target_": "facenet.losses.SoftmaxHead", "label_smooth": 0.1}}},
    }

    def task(*, schedule: Any, augment: Any, terms: dict[str, Any]) -> None: ...

    assert complaint(config, task) == [
        "schedule.every: expected one of step, epoch, got 'batch'",
        "schedule.scheduler.pct_strt: torch.optim.lr_scheduler.OneCycleLR has no parameter 'pct_strt'; write schedule.scheduler.pct_start=0.2",
        "augment.pipeline.0._target_: no 'Affin' in albumentations; did you mean 'Affine'?",
        "terms.ce.loss.label_smooth: facenet.losses.SoftmaxHead has no parameter 'label_smooth'; "
        "write terms.ce.loss.label_smoothing=0.1",
    ]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("torch.optim.SGDD", "part._target_: no 'SGDD' in torch.optim; did you mean 'SGD'?"),
        (
            "facenet.data.source.Synthetic",
            "part._target_: no 'Synthetic' in facenet.data; did you mean 'SyntheticData'?",
        ),
        ("timm.nothing.here", "part._target_: "),  # whether or not timm is installed
        (
            "torch.load",
            "part._target_: 'torch.load' may not be built from a config; allowed: facenet.backbones. timm.create_model",
        ),
        ("os.system", "part._target_: 'os.system' may not be built from a config"),
        ("builtins.eval", "may not be built from a config"),
        ("functools.partial", "may not be built from a config"),
        ("subprocess.Popen", "may not be built from a config"),
        ("torchvisionary.X", "may not be built from a config"),
        (3, "part._target_: 'int' may not be built from a config"),
        (None, "may not be built from a config"),
        ("facenet.launch.local.absent.Popen", "'facenet.launch.local.absent.Popen' may not be built from a config"),
        (
            "facenet.launch.local.subprocess.Popen",
            "'facenet.launch.local.subprocess.Popen' may not be built from a config",
        ),
        (
            "facenet.tasks.origin.subprocess.Popen",
            "'facenet.tasks.origin.subprocess.Popen' may not be built from a config",
        ),
        ("facenet.launch.local.os.system", "'facenet.launch.local.os.system' may not be built from a config"),
        ("facenet.launch.local.Path", "'facenet.launch.local.Path' may not be built from a config"),
        (
            "facenet.losses.mix.weight_of",
            "facenet.losses.mix.weight_of is nothing that a config can build",
        ),  # a function
        ("torch.optim.lr_scheduler.partial", "is nothing that a config can build"),
        ("facenet.losses.mix.re.Pattern", "facenet.losses.mix.re.Pattern is nothing that a config can build"),
        ("facenet.data.source.log", "is nothing that a config can build"),
        ("torch.nn.functional.relu", "is nothing that a config can build"),
        ("torch.nn.Module.__init__", "part._target_: no '__init__' in torch.nn.Module"),
        ("torch.nn.modules", "is nothing that a config can build"),  # a module
        ("facenet.launch.local", "'facenet.launch.local' may not be built from a config"),
        ("facenet.", "part._target_: "),
    ],
)
def test_targets_that_are_refused_by_check_and_by_build(target: Any, words: str):
    node = {"_target_": target}
    (line,) = complaint({"part": node}, one_part)
    assert words in line
    with pytest.raises(UserError) as refused:  # a config inside a checkpoint is built without the command's check
        configs.build({"part": node})
    assert str(refused.value) == line


def test_a_forbidden_target_is_found_at_any_depth():
    hidden = {"_target_": "facenet.data.Augment", "pipeline": [{"_target_": "os.system", "command": "true"}]}
    with pytest.raises(UserError, match=r"^augment\.pipeline\.0\._target_: 'os\.system' may not be built"):
        configs.build({"augment": hidden})


@pytest.mark.parametrize(
    "value",
    ["${oc.create:{_target_:shutil.rmtree,path:x}}", "${oc.decode:'{_target_: shutil.rmtree}'}", "${oc.env:HOME}"],
)
def test_nothing_is_interpolated_after_the_targets_were_looked_at(value: str):
    with pytest.raises(UserError, match=r"^augment\.pipeline\.0: .* a resolved config holds no \$\{\.\.\.\}$"):
        configs.build({"augment": {"_target_": "facenet.data.Augment", "pipeline": [value]}})


def test_build_keeps_shapes_and_builds_partials():
    built = configs.build({"optimizer": SGD, "list": [PRECISION, 1], "name": "x", "none": None})
    assert type(built) is dict and type(built["list"]) is list
    assert built["list"] == [Precision(dtype="fp32"), 1] and built["name"] == "x" and built["none"] is None
    assert built["optimizer"].func is torch.optim.SGD and built["optimizer"].keywords == {"lr": 0.1}
    optimizer = built["optimizer"]([torch.nn.Parameter(torch.zeros(2))])
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_lists_and_dicts_given_to_a_constructor_are_plain():
    built = configs.build({**SGD, "_target_": "torch.optim.Adam", "betas": [0.8, 0.9]})
    assert type(built.keywords["betas"]) is list


def test_a_constructors_own_refusal_surfaces_as_it_is():
    with pytest.raises(UserError) as refused:
        configs.build({"data": {"_target_": "facenet.data.FolderData", "root": "x", "batch_size": 0}})
    assert str(refused.value) == "data.batch_size: expected 1 or more, got 0"


def test_any_other_failure_of_a_constructor_names_target_and_cause():
    with pytest.raises(UserError) as refused:
        configs.build({"part": {"_target_": "torch.nn.Dropout", "p": 2.0}})
    assert str(refused.value).startswith("config: ") and len(str(refused.value).splitlines()) == 1
    assert "torch.nn.modules.dropout.Dropout" in str(refused.value) and "between 0 and 1" in str(refused.value)


def test_resolve_follows_interpolations():
    composed = OmegaConf.create({"data": {"size": 64}, "sides": ["${data.size}", "${data.size}"]})
    assert configs.resolve(composed) == {"data": {"size": 64}, "sides": [64, 64]}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "doubled",
    [
        {f"x{n}": f"${{x{n - 1}}}${{x{n - 1}}}" for n in range(1, 40)},
        {f"x{n}": [f"${{x{n - 1}}}", f"${{x{n - 1}}}"] for n in range(1, 40)},
        {f"x{n}": {"a": f"${{x{n - 1}}}", "b": f"${{..x{n - 1}}}"} for n in range(1, 40)},
        {f"x{n}": f"${{x{n - 1}}}" for n in range(1, 3000)},
    ],
    ids=["text", "lists", "dicts", "a chain"],
)
def test_references_that_would_not_end_are_refused(doubled: dict[str, Any]):
    composed = OmegaConf.create({"x0": "x", **doubled})
    with pytest.raises(UserError, match="^config: "):
        configs.resolve(composed)


def test_references_as_configs_have_them_are_followed():
    composed = OmegaConf.create(
        {"a": {"x": 1, "y": "${.x}", "z": ["${..x}", "${b}"]}, "b": "${a.x}-${a.z[0]}", "c": "${a}"}
    )
    found = configs.resolve(composed)
    assert found["b"] == "1-1" and found["c"] == found["a"] == {"x": 1, "y": 1, "z": [1, "1-1"]}
    assert configs.resolve(OmegaConf.create({"n": 1, "many": ["${n}"] * 500}))["many"] == [1] * 500


def test_resolve_names_a_broken_interpolation():
    composed = OmegaConf.create({"data": {"size": "${nope.size}"}})
    with pytest.raises(UserError) as refused:
        configs.resolve(composed)
    assert str(refused.value) == "config: 1 problem\n  data.size: Interpolation key 'nope.size' not found"


def test_a_written_config_reads_back_equal(tmp_path: Path):
    config = {"data": {"root": "/a b/ü: #x", "share": 1e-08, "sides": [1, 2]}, "weights": None, "date": "2026-01-01"}
    configs.write(config, tmp_path / "resolved.yaml")
    assert configs.read(tmp_path / "resolved.yaml") == config


def test_the_builtin_source_is_built_by_its_node():
    node = {"_target_": "facenet.data.SyntheticData", "num_identities": 3, "images_per_identity": 2}
    assert configs.build(node) == SyntheticData(num_identities=3, images_per_identity=2)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("data.root", "; add data=folder"),
        ("data.list", "; add data=annotation"),
        ("benchmark.path", "; add benchmark=bin"),
        ("data.nothing", ""),
        ("data.root.more", ""),
        ("nothing.root", ""),
        ("data", ""),
    ],
)
def test_a_key_of_another_choice_is_told_with_that_choice(key: str, told: str):
    assert way_to(key, 1, [], {}) == told

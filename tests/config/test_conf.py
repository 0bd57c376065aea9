"""The YAML of conf against the constructors that it configures, and every choice against every other.

What is covered, and how. The full product of the groups has tens of millions of members, and composing one takes 0.1 s, so:
- a choice is checked, key by key, by its own node: `config.check` reads one node at a time, so that a combination of fitting nodes fits;
- nodes meet through interpolation only in data -> preprocess -> backbone: their full product is composed by Hydra and checked;
- each choice occurs in at least one of as many configs as the largest group has choices, which Hydra composes and `check` reads; among the slow
  tests each pair of choices of two groups does (a greedy covering array, five times as many);
- objects meet in optimizer x schedule, loss x sampler, augment x preprocess and benchmark x protocol: their full products are run or built.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from facenet import config as configs
from facenet.commands import composed as resolvers  # noqa: F401  registers them
from facenet.commands.mistakes import CHOICES as PACKAGES
from facenet.config.slots import locate
from facenet.sweeps.settings import split
from facenet.tasks.evaluate import Evaluation
from facenet.tasks.recipe import Recipe

CONF = Path(str(files(PACKAGES[0])))
# What a user must say: given in every composition, with what is only read when a source or a benchmark is opened.
NEEDED = {
    "data=folder": "data.root=PEOPLE",
    "data=annotation": "data.list=LIST",
    "data=record": "data.path=PACK",
    "data=shards": "data.shards=SHARDS",
    "benchmark=bin": "benchmark.path=lfw.bin",
    "benchmark=lfw": "benchmark.root=LFW",
}
SEVERAL = ("hydra", "sweep")  # how several jobs run; no part of one
CHOICES = {
    str(folder.relative_to(CONF)): sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in sorted(CONF.glob("**/*"))
    if folder.is_dir() and any(folder.glob("*.yaml")) and folder.relative_to(CONF).parts[0] not in SEVERAL
}
OPTIONS = [(group, choice) for group, choices in CHOICES.items() for choice in choices]


@pytest.fixture(scope="module", autouse=True)
def conf() -> Iterator[None]:
    with initialize_config_module("facenet.conf", version_base="1.3"):
        yield


def composed(name: str = "train", **choices: str) -> dict[str, Any]:
    """The resolved config; `benchmark__protocol` stands for the group benchmark/protocol."""
    return config_of(name, {group.replace("__", "/"): choice for group, choice in choices.items()})


def config_of(name: str, choices: dict[str, str]) -> dict[str, Any]:
    return split(configs.resolve(compose(name, overrides=overrides_of(choices))))[0]


def overrides_of(choices: dict[str, str]) -> list[str]:
    overrides = [f"{group}={choice}" for group, choice in choices.items()]
    if choices.get("benchmark") == "none":  # it has no protocol to choose
        overrides = [item for item in overrides if not item.startswith("benchmark/")]
    return overrides + [NEEDED[item] for item in overrides if item in NEEDED]


@cache
def covering_rows() -> list[dict[str, str]]:
    """Configs in which each pair of choices of two groups occurs; greedy: each row takes the choices with the most new pairs."""
    groups = sorted(CHOICES, key=lambda group: -len(CHOICES[group]))
    open_pairs = {frozenset(pair) for pair in itertools.combinations(OPTIONS, 2) if pair[0][0] != pair[1][0]}
    rows = []
    while open_pairs:
        row = list(sorted(map(sorted, open_pairs))[0])  # at least one new pair a row: the loop ends
        for group in groups:
            if group not in dict(row):
                new = {
                    choice: sum(frozenset([(group, choice), other]) in open_pairs for other in row)
                    for choice in CHOICES[group]
                }
                row.append((group, max(new, key=lambda choice: (new[choice], choice))))
        open_pairs -= {frozenset(pair) for pair in itertools.combinations(row, 2)}
        rows.append(dict(row))
    return rows


# Configs in which each choice occurs, with those of other groups as they come; one within another group takes turns at half the pace of that.
ROWS = [
    {group: choices[number // (1 + group.count("/")) % len(choices)] for group, choices in CHOICES.items()}
    for number in range(max(map(len, CHOICES.values())))
]


@cache
def composed_row(number: int) -> dict[str, Any]:
    return config_of("train", ROWS[number])


def node(group: str, choice: str) -> dict[str, Any]:
    """The part of a composed config that one choice fills."""
    rows = [row if row["benchmark"] != "none" or "/" not in group else {} for row in ROWS]
    found: Any = composed_row(next(number for number, row in enumerate(rows) if row.get(group) == choice))
    for key in group.split("/"):
        found = found[key]
    assert found.get("_target_") == target_of(group, choice)  # the choice that was named is the one that was taken
    return copy.deepcopy(found)


def target_of(group: str, choice: str) -> str | None:
    """As its file says, or the file that this one builds upon."""
    written: Any = OmegaConf.load(CONF / group / f"{choice}.yaml")
    bases = [name for name in written.get("defaults", []) if isinstance(name, str) and name != "_self_"]
    return written.get("_target_") or next((target_of(group, name) for name in bases), None)


def nodes_with_target(part: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((path, value) for path, value in configs.walk(part) if isinstance(value, dict) and "_target_" in value)


def test_the_groups_are_those_the_commands_name():
    assert {group for group in CHOICES if "/" not in group} <= set(inspect.signature(Recipe).parameters)
    assert "benchmark/protocol" in CHOICES


@pytest.mark.parametrize(("name", "root"), [("train", Recipe), ("evaluate", Evaluation)])
def test_root_keys_are_the_parameters_of_the_task(name: str, root: Any):
    overrides = ["benchmark.root=LFW"] if name == "evaluate" else []
    config, _ = split(configs.resolve(compose(name, overrides=overrides)))
    unnamed = {"benchmarks"}  # more of them, which a user adds by name
    assert set(config) - {"preset"} == set(inspect.signature(root).parameters) - configs.RUNTIME - unnamed
    configs.check(config, root)


@pytest.mark.parametrize(("group", "choice"), OPTIONS)
def test_a_choice_spells_exactly_the_parameters_of_ours(group: str, choice: str):
    """Of foreign constructors (torch, albumentations) it spells what it changes, and nothing that they do not have."""
    part = node(group, choice)
    configs.check({"part": part}, one_part)
    for path, value in nodes_with_target(part):
        if value["_target_"].startswith("facenet."):
            parameters = inspect.signature(locate(value["_target_"], path)).parameters.values()
            configured = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
            given = len(parameters) - len(configured)  # an optimizer takes the network's parameters, by position
            assert given == int(value.get("_partial_", False)), f"{value['_target_']} takes positional parameters"
            assert set(value) - configs.SPECIAL == configured, f"{group}={choice} {path}"


def one_part(*, part: Any) -> None:
    """A task with one key."""


@pytest.mark.parametrize(("group", "choice"), OPTIONS)
def test_a_choice_builds(group: str, choice: str):
    """Folders, lists and benchmarks are opened by the plan, so that their parts build without files."""
    built = configs.build({"part": node(group, choice)})["part"]
    target = locate(node(group, choice)["_target_"], group)
    assert (
        isinstance(built, target) if inspect.isclass(target) and not callable(getattr(built, "func", None)) else built
    )


def test_every_preset_composes_and_fits():
    """What a preset leaves to the user may be missing; nothing else may be wrong."""
    presets = sorted(Path(str(files(PACKAGES[1]))).glob("preset/*.yaml"))
    assert "real_faces" in [preset.stem for preset in presets]
    for preset in presets:
        config = composed(preset=preset.stem)
        problems = configs.problems_of(config, Recipe)
        assert all(": needs a value" in problem for problem in problems), (preset.stem, problems)


def test_size_reaches_preprocessing_and_backbone_in_every_combination():
    """Nodes are put together here as Hydra composed them, which takes a tenth of composing each combination."""
    groups = ("data", "preprocess", "backbone")
    whole = compose("train")
    nodes = {
        group: [compose("train", overrides=overrides_of({group: choice}))[group] for choice in CHOICES[group]]
        for group in groups
    }
    for combination in itertools.product(*nodes.values()):
        whole.update(zip(groups, combination, strict=True))
        config, _ = split(configs.resolve(whole))
        for group in groups:
            configs.check({"part": config[group]}, one_part)
        side = config["data"]["image_size"]
        assert config["preprocess"]["size"] == [side, side]
        assert config["backbone"].get("input_size", [side, side]) == [side, side]


def test_every_choice_composes_and_fits_with_others():
    for number, row in enumerate(ROWS):
        check_row(row, composed_row(number))


@pytest.mark.slow  # 0.1 s a config
def test_every_pair_of_choices_composes_and_fits():
    assert len(covering_rows()) < 80  # 1,100 pairs
    for row in covering_rows():
        check_row(row, config_of("train", row))


def check_row(row: dict[str, str], config: dict[str, Any]) -> None:
    configs.check(config, Recipe)
    for group, choice in row.items():
        if "/" not in group:
            assert config[group].get("_target_") == target_of(group, choice), row


def test_every_optimizer_runs_under_every_schedule():
    for optimizer, schedule in itertools.product(CHOICES["optimizer"], CHOICES["schedule"]):
        layer = torch.nn.Linear(4, 3)
        parts = configs.build({"optimizer": node("optimizer", optimizer), "schedule": node("schedule", schedule)})
        stepper = parts["optimizer"](list(layer.parameters()))
        parts["schedule"].start(stepper, batch_size=48, steps_per_epoch=2, epochs=12)
        before = layer.weight.detach().clone()
        for step in range(24):
            parts["schedule"].step(step)
            layer(torch.ones(2, 4)).square().sum().backward()
            stepper.step()
            assert all(0 < group["lr"] <= 1 for group in stepper.param_groups), (optimizer, schedule, step)
        assert torch.isfinite(layer.weight).all() and not torch.equal(layer.weight, before), (optimizer, schedule)


def test_every_loss_learns_from_the_batches_of_every_sampler():
    labels = np.repeat(np.arange(8, dtype=np.int64), 6)
    for loss, sampler in itertools.product(CHOICES["loss"], CHOICES["sampler"]):
        torch.manual_seed(0)
        parts = configs.build({"loss": node("loss", loss), "sampler": node("sampler", sampler)})
        parts["loss"].start(embedding_size=16, num_identities=8, layout=parts["sampler"].layout)
        indices = next(
            parts["sampler"].batches(labels, batch_size=24, num_batches=1, epoch=0, seed=0, rank=0, world_size=1)
        )
        features = torch.randn(24, 16, requires_grad=True)
        value = parts["loss"](features, torch.from_numpy(labels[indices]))
        value.total.backward()
        assert torch.isfinite(value.total) and float(value.total.detach()) > 0, (loss, sampler)
        assert features.grad is not None and torch.isfinite(features.grad).all(), (loss, sampler)


def test_every_augmentation_feeds_every_preprocessing():
    image = np.random.default_rng(0).integers(0, 256, (72, 60, 3), dtype=np.uint8)
    for augment, preprocess in itertools.product(CHOICES["augment"], CHOICES["preprocess"]):
        parts = configs.build({"augment": node("augment", augment), "preprocess": node("preprocess", preprocess)})
        framed = parts["preprocess"](parts["augment"](image, key=(0, 1, 2)))
        assert framed.shape == (*parts["preprocess"].size, 3) and framed.dtype == np.uint8, (augment, preprocess)


def test_every_benchmark_takes_every_protocol():
    """One as Hydra composes it with each; the nodes of the others are put together here, as above."""
    benchmarks = [choice for choice in CHOICES["benchmark"] if choice != "none"]
    for benchmark, protocol in itertools.product(benchmarks, CHOICES["benchmark/protocol"]):
        wanted = node("benchmark/protocol", protocol)
        if benchmark == benchmarks[0]:
            part = composed(benchmark=benchmark, benchmark__protocol=protocol)["benchmark"]
            assert part["protocol"] == wanted
        else:
            part = {**node("benchmark", benchmark), "protocol": wanted}
        assert configs.build(part).protocol == configs.build(wanted)

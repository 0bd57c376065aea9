"""What of a run people compare with others: some 25 params, and a name of 40 characters. All else is in the files of the run."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any

import yaml

from facenet.config.overrides import given
from facenet.evaluation.report import lower_is_better
from facenet.files.choices import built_in
from facenet.privacy.addresses import mask
from facenet.tracking.facts import ASKED, AXES, flatten, values_in
from facenet.tracking.names import axes_name, fitted

CHOSEN = ("backbone", "loss", "data", "sampler", "augment", "preprocess", "optimizer", "schedule")
KEYS = (  # of a config; those that are null say nothing
    *("seed", "weights", "optimizer.lr", "optimizer.weight_decay", "data.batch_size", "data.image_size"),
    *("backbone.embedding_size", "trainer.epochs", "trainer.max_steps", "trainer.clip_grad_norm", "trainer.accumulate"),
    *("loss.terms.*.loss.margin", "benchmark*.seed"),
)
DERIVED = (  # of a plan
    *("device", "precision", "num_processes", "num_identities", "num_images", "num_heldout_identities"),
    *("data_fingerprint", "benchmark", "select"),
)
UNCOMPARED = ("hydra", "tracking", "resume", "resume_changed", "sweep")  # say nothing of what is trained


def params_to_compare(
    config: dict[str, Any], plan: dict[str, Any], overrides: list[str], tags: dict[str, str]
) -> dict[str, Any]:
    """Param -> value: what most studies vary, and whatever this command or its sweep gave a value."""
    flat, changed = flatten(config), {**given(overrides), **values_in(tags, AXES)}
    found: dict[str, Any] = {group: choice(config, group, changed) for group in CHOSEN if group in config}
    for key, value in flat.items():
        if (value is not None and any(fnmatchcase(key, each) for each in KEYS)) or is_changed(key, changed):
            found[key] = value
    for key, value in changed.items():
        if (
            key not in found
            and key.partition(".")[0] not in UNCOMPARED
            and not any(is_below(each, key) for each in found)
        ):
            found[key] = mask(str(flat.get(key, value)))
    found.update({f"plan.{name}": plan[name] for name in DERIVED if name in plan})
    found.update(
        {f"plan.{name}": plan[name] for name, key in ASKED.items() if plan.get(name, flat.get(key)) != flat.get(key)}
    )
    if (lower := plan.get("lower_is_better")) is not None and lower != lower_is_better(plan["select"]):
        found["plan.lower_is_better"] = lower  # which its name does not say
    return found


def is_changed(key: str, changed: Iterable[str]) -> bool:
    return key.partition(".")[0] not in UNCOMPARED and any(is_below(key, each) for each in changed if "." in each)


def is_below(key: str, other: str) -> bool:
    return key == other or key.startswith(f"{other}.")


def choice(config: dict[str, Any], group: str, changed: dict[str, str] | None = None) -> str:
    """Name of the file in conf/ that a part of a config is built from: the one given, else the one of the same classes and most equal values. Of
    parts that are in no file, the classes' own names."""
    if changed and group in changed:
        return mask(changed[group])
    node = flatten(config[group])
    classes = {key: value for key, value in node.items() if key.endswith("_target_")}
    fitting = {
        name: sum(node.get(key) == value for key, value in kind.items())
        for name, kind in kinds(group).items()
        if {key: value for key, value in kind.items() if key.endswith("_target_")} == classes
    }
    if fitting:
        return max(fitting, key=lambda name: fitting[name])
    terms = config[group].get("terms") if isinstance(config[group], dict) else None
    return "+".join(terms or (str(value).rpartition(".")[2] for value in classes.values())) or "none"


@functools.cache
def kinds(group: str) -> dict[str, dict[str, Any]]:
    """Name -> what its file says, flat."""
    return {name: flatten(yaml.safe_load(text) or {}) for name, text in built_in(group).items()}


def run_name(config: dict[str, Any], overrides: list[str], tags: dict[str, str], clock: str) -> str:
    """What differs from the other runs, in the field's words: of a job of a sweep the swept values, lr and batch first; else preset, backbone, loss,
    data and the time of day."""
    axes = values_in(tags, AXES)
    if axes:
        return axes_name(axes, f"#{tags.get('job_num', '?')}")
    changed = given(overrides)
    names = [choice(config, group, changed) for group in ("backbone", "loss") if group in config]
    return fitted([*([changed["preset"]] if "preset" in changed else []), *names, *data_name(config), clock], clock)


def data_name(config: dict[str, Any]) -> list[str]:
    data = config.get("data", {})
    place = next((str(data[key]) for key in ("root", "list", "path", "shards") if data.get(key)), None)
    return [PurePath(mask(place)).name or place] if place else [choice(config, "data")] if data else []

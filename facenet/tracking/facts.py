"""What is known of a run before its first step, in the form in which MLflow takes, compares and plots it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facenet.files.run_dir import RunDir
from facenet.privacy.addresses import mask

if TYPE_CHECKING:
    from mlflow import MlflowClient

LONGEST_PARAM = 6000  # MLflow cuts longer values without a word
LONGEST_TAG = 8000
LONGEST_VALUE = 400  # of a swept one, in tables and tags
LONGEST_NAME = 250
PARAMS_PER_BATCH = 100
TRIES, PAUSE_S = 8, 0.1
# Tags, JSON: key -> value; of the swept keys, where they are known, or of all overrides.
AXES, GIVEN = "sweep.axes", "sweep.given"
# Of a plan, where it is as asked for.
ASKED = {"lr": "optimizer.lr", "batch_size": "data.batch_size", "images_per_step": "data.batch_size"}
GONE_ON = "command.resumed"  # a tag: the command by which a run goes on; `command` is the one that began it
LOWER = "lower_is_better"  # a tag of runs that are judged by a loss
JOBS = "sweep.jobs"  # a tag: how many jobs the sweep has
OF_BENCHMARKS = ("accuracy", "auc", "eer", "tar_at_far_0.001")
SHOWN = re.compile(  # of the metrics that a run measures; all of them are in its journal
    r"epoch|samples_seen|pruned_at_epoch|best/epoch|best/[^/]+/accuracy|system/.*|train/(lr|images_per_s)|(train|val)/loss"
    rf"|train/[^/]+(/(accuracy|active))?|(?!train/|val/|best/|epoch/|folds/)[^/]+/({'|'.join(map(re.escape, OF_BENCHMARKS))})"
)
UNSHOWN = ("train/embedding_variance", "train/embedding_rank")


@dataclass(frozen=True)
class RunFacts:
    """`run_dir` is where the run's journal and the files are that it logs. `compared`: the params, None for all of config and plan. `select`: the
    metric beside which MLflow gets those that people compare, None for all metrics. `unresolved`: metrics that so few images cannot tell, which it
    does not get."""

    name: str
    run_dir: Path
    config: dict[str, Any]
    config_yaml: str
    plan: dict[str, Any]
    tags: dict[str, str]
    datasets: dict[str, tuple[str, str, str]]  # context -> (name, source, fingerprint)
    compared: dict[str, Any] | None = None
    select: str | None = None
    unresolved: tuple[str, ...] = ()

    @property
    def hidden(self) -> list[str]:
        """The unresolved metrics that MLflow would get, by the names that it knows. One that chooses the best epoch is compared all the same."""
        return [safe_name(name) for name in self.unresolved if name != self.select and is_shown(name, self.select)]


def is_shown(name: str, select: str | None) -> bool:
    """Whether MLflow gets a metric of a run that is judged by `select`: the figures that people compare, some 15; all of them for None."""
    if (
        select is None
        or name in (select, f"best/{select}")
        or (select.startswith("train/") and name == f"epoch/{select}")
    ):
        return True
    return name not in UNSHOWN and SHOWN.fullmatch(name) is not None


def value_tags(name: str, values: dict[str, str]) -> dict[str, str]:
    """Values by key as one tag, or as many as they need: MLflow cuts a longer one."""
    text = json.dumps({key: shorten(mask(value), LONGEST_VALUE) for key, value in values.items()})
    parts = [text[start : start + LONGEST_TAG] for start in range(0, len(text), LONGEST_TAG)]
    return {name if number == 0 else f"{name}.{number}": part for number, part in enumerate(parts)}


def values_in(tags: Mapping[str, str], name: str) -> dict[str, str]:
    """Returns the values that `value_tags` made tags of; empty where it did not."""
    parts = itertools.takewhile(lambda part: part is not None, (tags.get(f"{name}.{n}") for n in itertools.count(1)))
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads("".join([tags.get(name, ""), *filter(None, parts)]))
        return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}
    return {}


def params(facts: RunFacts) -> dict[str, str]:
    """What is compared, by names that MLflow takes."""
    flat = everything(facts) if facts.compared is None else facts.compared
    named: dict[str, str] = {}
    for key, value in flat.items():
        name = safe_name(key)
        while name in named:  # of two that differ in a character that MLflow refuses
            name += "_"
        named[name] = shorten(value, LONGEST_PARAM)
    return named


def planned(params: Mapping[str, str], name: str) -> str:
    """A number of the plan, which is among the params where it is not what was asked for; empty where neither is."""
    return params.get(f"plan.{name}") or params.get(ASKED[name], "")


def everything(facts: RunFacts) -> dict[str, Any]:
    """Config and plan, flat."""
    return {**flatten(facts.config), **{f"plan.{key}": value for key, value in facts.plan.items()}}


def describe(client: MlflowClient, run_id: str, facts: RunFacts) -> None:
    """Params, config, plan and datasets of a run, so that it can be repeated from its page."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag, Param

    listed = [Param(name, value) for name, value in params(facts).items()]
    for start in range(0, len(listed), PARAMS_PER_BATCH):
        client.log_batch(run_id, params=listed[start : start + PARAMS_PER_BATCH])
    client.log_text(run_id, facts.config_yaml, f"config/{RunDir.resolved}")
    client.log_dict(run_id, everything(facts), "config/everything.json")
    inputs = []
    for context, (name, source, fingerprint) in facts.datasets.items():
        dataset = MetaDataset(CodeDatasetSource({"source": source}), name=name, digest=fingerprint[:36])
        inputs.append(DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", context)]))
    log_inputs(client, run_id, inputs)


def log_inputs(client: MlflowClient, run_id: str, inputs: list[Any]) -> None:
    """MLflow looks whether an experiment has a dataset before it adds it, and refuses the second of two runs that both found none. On another try
    it is there."""
    from mlflow.exceptions import MlflowException

    for left in reversed(range(TRIES)):
        try:
            client.log_inputs(run_id, datasets=inputs)
            return
        except MlflowException as error:
            if left == 0 or "constraint" not in str(error):
                raise
            time.sleep(PAUSE_S)


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """{"a": {"b": [1]}} -> {"a.b.0": 1}: MLflow compares and plots single values."""
    if isinstance(node, dict):
        items = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, list):
        items = [(str(index), value) for index, value in enumerate(node)]
    else:
        return {path: node}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat.update(flatten(value, f"{path}.{key}" if path else key))
    return flat


def shorten(value: Any, longest: int) -> str:
    text = str(value)
    if len(text) <= longest:
        return text
    return f"{text[:200]}... sha256 {hashlib.sha256(text.encode()).hexdigest()}, whole in config/resolved.yaml"


@functools.cache
def safe_name(name: str) -> str:
    """MLflow refuses other characters than these, and longer ones than 250, in the names of metrics, params and tags."""
    safe = re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)
    if len(safe) <= LONGEST_NAME:
        return safe
    return f"{safe[:200]}...{hashlib.sha256(name.encode()).hexdigest()[:16]}"

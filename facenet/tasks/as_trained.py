"""The protocol and the pairs by which a checkpoint's run was judged, so that a test of it gives the run's figures."""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import Any

from facenet import config as configs
from facenet.config.overrides import key_of, keys_said
from facenet.devices.table import check_precision
from facenet.errors import UserError, shown
from facenet.evaluation.benchmarks.choice import HeldOut, Lfw
from facenet.evaluation.contract import Benchmark
from facenet.evaluation.protocol import Protocol
from facenet.tasks.own_runs import is_own

log = logging.getLogger(__name__)
DRAWN = ("num_pairs", "num_folds", "seed")  # of held-out pairs; folds of a set that lies in a file, too
LEAST, MOST = {"num_pairs": 4, "num_folds": 2, "seed": 0}, 1_000_000  # that a checkpoint's word is enough for


def of_run(config: dict[str, Any], content: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The config of a test with the benchmarks and the precision of the checkpoint's run, as far as the command line says none and the run is this
    user's own: what a stranger's checkpoint names is not opened on its word. Told. Raises UserError where that leaves nothing to test on."""
    keys, own, stored = {key_of(each) for each in overrides}, is_own(content), content["config"].get("benchmark")
    settings = [key.split(".")[1] for key in keys if key.startswith("benchmark.")]
    unsaid = is_unsaid(config) and not set(settings) - {"protocol"}
    same = isinstance(stored, dict) and stored.get("_target_") == config["benchmark"]["_target_"]
    if own and isinstance(stored, dict) and "benchmark" not in keys and (same or unsaid):
        said = keys_said(each for each in overrides if "@" not in key_of(each))
        config = with_benchmarks(config, content["config"], said)
    elif unsaid and "benchmark" not in keys and not config.get("benchmarks"):
        raise UserError(
            "benchmark: the checkpoint is of no run of yours on this machine, of which the benchmark would be taken; say benchmark=heldout, which "
            "tests on the run's own data, or benchmark.root=LFW"
        )
    said_precision = any(key.partition(".")[0] == "precision" for key in keys)
    return with_precision(config, content["config"]) if own and not said_precision else config


def is_unsaid(config: dict[str, Any]) -> bool:
    """Whether `benchmark` is the default, which tests on nothing until its place is said."""
    return bool(config["benchmark"].get("root") == "???")


def with_benchmarks(config: dict[str, Any], stored: dict[str, Any], said: set[str]) -> dict[str, Any]:
    """Those of the run, but for keys that the command line says."""
    given, named = config["benchmark"], config.get("benchmarks") or {}
    short = {**stored["benchmark"], **{key: value for key, value in given.items() if f"benchmark.{key}" in said}}
    runs = stored.get("benchmarks") or {}
    merged = {
        name: {**(runs.get(name) or {}), **(named.get(name) or {})} for name in [*runs, *(set(named) - set(runs))]
    }
    nodes = {"benchmark": short, **{f"benchmarks.{name}": node for name, node in merged.items()}}
    for node in nodes.values():
        if any(key.startswith(("benchmark/protocol", "benchmark.protocol")) for key in said):
            node["protocol"] = {**(node.get("protocol") or {}), **said_of(given["protocol"], said)}
    told = [f"{key}={kind(node)}" + where(node) for key, node in nodes.items() if kind(node) != "nobenchmark"]
    log.info("tested as in training: %s; benchmark= says otherwise", shown(", ".join(told)))
    return {**config, "benchmark": short, **({"benchmarks": merged} if merged else {})}


def said_of(protocol: dict[str, Any], said: set[str]) -> dict[str, Any]:
    """What the command line says of it: all, or some of its keys."""
    return {
        key: each
        for key, each in protocol.items()
        if "benchmark/protocol" in said or f"benchmark.protocol.{key}" in said
    }


def kind(node: dict[str, Any]) -> str:
    """As `benchmark=` says it, of ours; of others the class."""
    target = str(node.get("_target_"))
    return target.rpartition(".")[2].lower() if target.startswith("facenet.") else target


def where(node: dict[str, Any]) -> str:
    places = [f"{key}={node[key]}" for key in ("root", "path", "pairs") if node.get(key) is not None]
    return f" ({', '.join(places)})" if places else ""


def with_precision(config: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    """That of the run, where the device has it."""
    node = stored.get("precision")
    if not isinstance(node, dict) or node.get("dtype") == config["precision"]["dtype"]:
        return config
    try:
        device = configs.build(config["accelerator"], "accelerator").resolve()[0]
        check_precision(device, configs.build(node, "precision"))
    except UserError as error:
        log.warning("not in the run's precision: %s; tested in %s", error, config["precision"]["dtype"])
        return config
    log.info("tested in the run's precision: %s; precision= says otherwise", node["dtype"])
    return {**config, "precision": node}


def as_trained(benchmark: Benchmark, content: dict[str, Any], overrides: list[str]) -> Benchmark:
    """The benchmark with the checkpoint's own values in place of defaults; what the command line says stays. Both are told. What a damaged
    checkpoint says counts for nothing. Raises UserError where the two do not go together."""
    config, name = content.get("config", {}), benchmark.key.partition(".")[2]
    runs = config.get("benchmarks")
    stored = runs.get(name) if name and isinstance(runs, dict) else None
    stored = config.get("benchmark") if stored is None else stored
    if not isinstance(stored, dict) or not hasattr(benchmark, "protocol"):
        return benchmark
    said = keys_said(overrides)
    found = copy.copy(benchmark)
    protocol = own_protocol(benchmark.protocol, stored.get("protocol"), said)
    object.__setattr__(found, "protocol", protocol)  # a stranger's may be frozen
    told = [described(protocol)]
    if str(stored.get("_target_")).rpartition(".")[2] == type(benchmark).__name__:
        for key, value in own_numbers(stored).items():
            if hasattr(found, key) and f"{benchmark.key}.{key}" not in said:
                object.__setattr__(found, key, value)
                told.append(f"{key} {value:,}")
    if isinstance(found, HeldOut):
        found.check()
    if isinstance(found, Lfw) and found.pairs is None and stored.get("pairs") is not None:
        told.append(
            f"but not on its pairs, those of {shown(str(stored['pairs']))}; {benchmark.key}.pairs=... says where they are"
        )
    log.info(
        "%s: judged as the checkpoint's run was, but for what the command says: %s", benchmark.name, ", ".join(told)
    )
    return found


def own_numbers(stored: dict[str, Any]) -> dict[str, int]:
    """None where one of them is no number of a run."""
    numbers = {key: stored[key] for key in DRAWN if key in stored}
    sound = all(type(value) is int and LEAST[key] <= value <= MOST for key, value in numbers.items())
    return numbers if sound and numbers.get("num_pairs", MOST) >= 2 * numbers.get("num_folds", 2) else {}


def own_protocol(given: Protocol, stored: Any, said: set[str]) -> Protocol:
    if "benchmark/protocol" in said or not isinstance(stored, dict):
        return given
    names = [field.name for field in dataclasses.fields(Protocol)]
    own = {name: stored[name] for name in names if name in stored and f"benchmark.protocol.{name}" not in said}
    node = {"_target_": f"{Protocol.__module__}.{Protocol.__name__}", **own}
    if list(configs.unfit_value(node, Any, "benchmark.protocol", {})):
        return given
    return dataclasses.replace(given, **own)


def described(protocol: Protocol) -> str:
    return ", ".join(f"{name} {str(value).lower()}" for name, value in dataclasses.asdict(protocol).items())

"""The protocol and the pairs by which a checkpoint's run was judged, so that a test of it gives the run's figures."""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import Any

from facenet import config as configs
from facenet.config.overrides import keys_said
from facenet.evaluation.benchmarks.choice import Benchmark, HeldOut
from facenet.evaluation.protocol import Protocol

log = logging.getLogger(__name__)
DRAWN = ("num_pairs", "num_folds", "seed")  # of held-out pairs; folds of a set that lies in a file, too
LEAST, MOST = {"num_pairs": 4, "num_folds": 2, "seed": 0}, 1_000_000  # that a checkpoint's word is enough for


def as_trained(benchmark: Benchmark, content: dict[str, Any], overrides: list[str]) -> Benchmark:
    """The benchmark with the checkpoint's own values in place of defaults; what the command line says stays. Both are told. What a damaged
    checkpoint says counts for nothing. Raises UserError where the two do not go together."""
    stored = content.get("config", {}).get("benchmark")
    if not isinstance(stored, dict) or not hasattr(benchmark, "protocol"):
        return benchmark
    said = keys_said(overrides)
    found = copy.copy(benchmark)
    found.protocol = own_protocol(benchmark.protocol, stored.get("protocol"), said)
    told = [described(found.protocol)]
    if str(stored.get("_target_")).rpartition(".")[2] == type(benchmark).__name__:
        for key, value in own_numbers(stored).items():
            if hasattr(found, key) and f"benchmark.{key}" not in said:
                setattr(found, key, value)
                told.append(f"{key} {value:,}")
    if isinstance(found, HeldOut):
        found.check()
    log.info("judged as the checkpoint's run was, but for what the command says: %s", ", ".join(told))
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

"""The protocol and the pairs by which a checkpoint's run was judged, so that a test of it gives the run's figures."""

from __future__ import annotations

import copy
import dataclasses
import logging
from typing import Any

from facenet import config as configs
from facenet.evaluation.protocol import Protocol
from facenet.tasks.plan import Benchmark

log = logging.getLogger(__name__)
DRAWN = ("num_pairs", "num_folds", "seed")  # of held-out pairs; folds of a set that lies in a file, too
MOST = 1_000_000  # pairs and folds that a checkpoint's word is enough for


def as_trained(benchmark: Benchmark, content: dict[str, Any], overrides: list[str]) -> Benchmark:
    """The benchmark with the checkpoint's own values in place of defaults; what the command line says stays. Both are told. What a damaged
    checkpoint says counts for nothing."""
    stored = content.get("config", {}).get("benchmark")
    if not isinstance(stored, dict) or not hasattr(benchmark, "protocol"):
        return benchmark
    said = {override.split("=")[0].lstrip("+") for override in overrides}
    found = copy.copy(benchmark)
    found.protocol = own_protocol(benchmark.protocol, stored.get("protocol"), said)
    told = [described(found.protocol)]
    if stored.get("_target_") == f"{type(benchmark).__module__}.{type(benchmark).__name__}":
        for key in DRAWN:
            value = stored.get(key)
            if hasattr(found, key) and f"benchmark.{key}" not in said and type(value) is int and 0 <= value <= MOST:
                setattr(found, key, value)
                told.append(f"{key} {value:,}")
    log.info("judged as the checkpoint's run was, but for what the command says: %s", ", ".join(told))
    return found


def own_protocol(given: Protocol, stored: Any, said: set[str]) -> Protocol:
    if "benchmark/protocol" in said or not isinstance(stored, dict):
        return given
    names = [field.name for field in dataclasses.fields(Protocol)]
    own = {name: stored[name] for name in names if name in stored and f"benchmark.protocol.{name}" not in said}
    node = {"_target_": f"{Protocol.__module__}.{Protocol.__name__}", **own}
    if list(configs.unfit_value(node, Any, "benchmark.protocol")):
        return given
    return dataclasses.replace(given, **own)


def described(protocol: Protocol) -> str:
    return ", ".join(f"{name} {str(value).lower()}" for name, value in dataclasses.asdict(protocol).items())

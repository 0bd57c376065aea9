"""Names of classes as configs before 0.2 have them: the file in which a class stood was part of its name. Now it is named by its room."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger(__name__)
# Room -> files that have stood in it under these names.
FILES = {
    "backbones": "embedder inception_resnet_v1 mobilefacenet mobilenet_v1",
    "data": "reference_sampler sampler source transforms",
    "engine": "muon schedule trainer watch.choice",
    "evaluation": "benchmark protocol",
    "losses": "heads mix sharded triplet",
    "sweeps": "elsewhere settings",
    "tracking": "choice",
}
ROOMS = {f"facenet.{room}.{file}": f"facenet.{room}" for room, files in FILES.items() for file in files.split()}
ROOMS["facenet.accelerator"] = "facenet.devices"
told: set[str] = set()


def current(name: str) -> str:
    """The name that a class has now; any other text as it is."""
    module, _, own = name.rpartition(".")
    return f"{ROOMS[module]}.{own}" if module in ROOMS and own[:1].isupper() else name


def renamed(node: Any, *, tell: bool = False) -> Any:
    """A copy of a plain config with current names. tell: warns once of each earlier name, for configs that their reader can mend."""
    if isinstance(node, dict):
        return {
            key: renamed(value, tell=tell) if key != "_target_" else of_target(value, tell)
            for key, value in node.items()
        }
    return [renamed(value, tell=tell) for value in node] if isinstance(node, list) else node


def of_target(value: Any, tell: bool) -> Any:
    now = current(value) if isinstance(value, str) else value
    if tell and now != value and value not in told:
        told.add(value)
        log.warning("%s is called %s now; the earlier name goes on working", value, now)
    return now

"""How long a run takes on this machine, by the newest one of its kind that ran from its start to its end."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from facenet.files.atomic import replacing
from facenet.files.cache_dir import cache_dir
from facenet.tasks.numbers import Plan


def remember(config: dict[str, Any], plan: Plan, *, whole_s: float, epochs_s: float) -> None:
    """Notes how long the whole run took, and its epochs of that. A disk that takes no note costs only the next estimate."""
    place = note(config, plan)
    if place is None:
        return
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as partial:
            known = {"around_s": whole_s - epochs_s, "image_s": epochs_s / num_images(plan)}
            partial.write_text(json.dumps(known), encoding="utf-8")


def estimate(config: dict[str, Any], plan: Plan) -> float | None:
    """Seconds, start and end included; None where no such run has ended here."""
    place = note(config, plan)
    if place is None:
        return None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(place.read_text(encoding="utf-8"))
        return float(known["around_s"] + known["image_s"] * num_images(plan))
    return None


def note(config: dict[str, Any], plan: Plan) -> Path | None:
    """The file of its kind: same network, image size, devices and precision; None where nothing can be kept."""
    on = plan.machine
    kind = [config["backbone"], config["data"]["image_size"], on.device, on.num_processes, on.precision]
    digest = hashlib.sha256(json.dumps(kind, sort_keys=True).encode()).hexdigest()[:16]
    place = cache_dir()
    return place and place / "paces" / f"{digest}.json"


def num_images(plan: Plan) -> int:
    return plan.steps.total_steps * plan.batches.images_per_step

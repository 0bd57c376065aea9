"""What `auto` becomes: the fastest that is sound on the device that trains, by the probe of this machine. A run records what it became, goes on with
that, and the jobs of a sweep have one choice."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facenet import config as configs
from facenet.data.split import replace_text
from facenet.devices.cores import threads_of
from facenet.devices.table import is_host, offered_precisions, sound_halves
from facenet.errors import UserError, shown
from facenet.files.reading import text_of
from facenet.tasks import probe
from facenet.tasks.probe import Probe

log = logging.getLogger(__name__)
AUTO = "auto"
PRECISION, UPDATE = ("precision", "dtype"), ("optimizer", "bf16")
KEYS = (PRECISION, UPDATE)
HALVES = ("fp16", "bf16")
# A half type must be so much faster at convolutions to be so at all: batch norms, depthwise convolutions and casts gain less. On Zen 5, with 1.9 for
# the convolution, MobileNetV1 gained 1.2 to 2.2.
WORTH = 1.3
ALIKE = 1.25  # between half types: the one without a loss scale is taken though it is so much slower
SLOWER = 1.5  # times float32, beyond what two readings on a shared core differ by
LONGEST = 300  # characters of a reason


@dataclass(frozen=True)
class Choice:
    """What `auto` is on a device, each with its reason."""

    precision: str
    precision_why: str
    update: bool
    update_why: str

    def of(self, key: tuple[str, str]) -> tuple[Any, str]:
        return (self.precision, self.precision_why) if key == PRECISION else (self.update, self.update_why)


def choice_of(found: Probe, halves: Sequence[str]) -> Choice:
    """`halves`: the sound half types, the one to prefer first."""
    base = found.convolution["fp32"]
    times = {dtype: found.convolution[dtype] for dtype in halves if dtype in found.convolution}
    least = min(times.values(), default=base)
    best = next((dtype for dtype, taken in times.items() if taken <= ALIKE * least), None)
    said = f"a convolution takes {spelled(times, base)}" if times else "it computes in no half type"
    precision = best if best is not None and base >= WORTH * times[best] else "fp32"
    update = "bf16" in found.update and found.update["fp32"] > WORTH * found.update["bf16"]
    return Choice(precision, said, update, f"an update takes {spelled(found.update, found.update['fp32'])}")


def spelled(times: Mapping[str, float], base: float) -> str:
    found = [f"{ratio(taken / base)} times as long in {dtype}" for dtype, taken in times.items() if dtype != "fp32"]
    return f"{' and '.join(found)} as in fp32"


def ratio(times: float) -> str:
    return f"{times:.2g}" if times < 10 else f"{times:.0f}"


def settle(config: dict[str, Any], *, sweep_dir: Path | None = None) -> tuple[dict[str, Any], str]:
    """The config without `auto`, and what became of it and why, empty where there was none. `sweep_dir`: of a job's sweep, which has one choice for
    each kind of device."""
    wanted = [key for key in KEYS if at(config, key) == AUTO]
    if not wanted:
        return config, ""
    device = device_of(config)
    choice = None if sweep_dir is None else read_note(sweep_dir, device)
    if choice is None:
        choice = choice_of(probe.probe_or_recall(device, threads(config)), sound_halves(device))
        if sweep_dir is not None:
            note(sweep_dir, device, choice)
    result, told = copy.deepcopy(config), []
    for key in wanted:
        value, why = choice.of(key)
        result[key[0]][key[1]] = value
        told.append(f"{key[0] if key == PRECISION else '.'.join(key)}={str(value).lower()}: {why}")
    return result, "; ".join(told)


def warn_of_slow(config: Mapping[str, Any]) -> None:
    """Warns of what was asked for though it is slow here. A device is not started to find out."""
    half, update = at(config, PRECISION), at(config, UPDATE) is True
    if not (half in HALVES or update) or not is_host(device := device_of(config)):
        return
    for what in slow(probe.probe_or_recall(device, threads(config)), [half] if half in HALVES else [], update=update):
        log.warning("%s; precision=auto and optimizer.bf16=auto take the fastest", what)


def slow(found: Probe, halves: Sequence[str], *, update: bool = True) -> Iterator[str]:
    """Returns what of these is slower here than float32, a line each."""
    for half in halves:
        if (times := found.convolution.get(half, 0.0) / found.convolution["fp32"]) > SLOWER:
            yield f"precision={half}: a convolution takes {ratio(times)} times as long on this machine as in fp32"
    if update and (times := found.update.get("bf16", 0.0) / found.update["fp32"]) > SLOWER:
        yield f"optimizer.bf16=true: an update of Muon takes {ratio(times)} times as long on this machine as in fp32"


def device_of(config: Mapping[str, Any]) -> str:
    return str(configs.build(config["accelerator"], "accelerator").resolve()[0])


def threads(config: Mapping[str, Any]) -> int:
    """Number of threads of each process of a run; a test of a network has one process."""
    return threads_of(config["distributed"]["num_processes"] if "distributed" in config else 1)


def as_recorded(config: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run that goes on: what `auto` became when it began."""
    result = copy.deepcopy(config)
    for key in KEYS:
        if at(config, key) == AUTO and at(before, key) is not None:
            result[key[0]][key[1]] = at(before, key)
    return result


def at(config: Mapping[str, Any], key: tuple[str, str]) -> Any:
    node = config.get(key[0])
    return node.get(key[1]) if isinstance(node, dict) else None


def note(sweep_dir: Path, device: str, choice: Choice) -> None:
    told = {"precision": choice.precision, "update": choice.update, "why": [choice.precision_why, choice.update_why]}
    with contextlib.suppress(UserError):
        replace_text(sweep_dir / f"auto-{device}.json", json.dumps(told) + "\n")


def read_note(sweep_dir: Path, device: str) -> Choice | None:
    """Reads what the sweep's first job on such a device chose. The directory may be anybody's: words of a short list, or nothing."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        told = json.loads(text_of(sweep_dir / f"auto-{device}.json"))
        precision, update = told["precision"], told["update"]
        reasons = [shown(str(why))[:LONGEST] for why in told["why"]]
        if precision in offered_precisions(device) and isinstance(update, bool) and len(reasons) == 2:
            return Choice(precision, reasons[0], update, reasons[1])
    return None

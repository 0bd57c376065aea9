"""How long this machine takes for a convolution and for an update of Muon in each type: measured once, and remembered for the next run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from facenet import config as configs
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DTYPES, Precision, is_host, model_of, offered_precisions
from facenet.distributed.choice import Distributed
from facenet.engine.muon import orthogonalise
from facenet.errors import UserError
from facenet.files.atomic import replacing
from facenet.files.cache_dir import cache_dir
from facenet.files.reading import text_of
from facenet.files.run_dir import RunDir
from facenet.launch.local import launch
from facenet.launch.order import Order
from facenet.tasks.run import Run

log = logging.getLogger(__name__)
LONG_ENOUGH_S = 1e-3  # of one call: below, a device's time is that of its launches
ROUNDS = 4
HOPELESS = 20  # times as long as in fp32
REFUSED = (UserError, RuntimeError)  # of a type that the device, or its plugin, does not compute in
CPU_KEYS = ("vendor_id", "model name", "cpu family", "model", "stepping", "flags")
ARM_KEYS = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features")


@dataclass(frozen=True)
class Probe:
    """Seconds by precision, of those that the device really computes in; fp32 is among them. `update`: of orthogonalising a matrix."""

    convolution: dict[str, float]
    update: dict[str, float]


def probe_or_recall(name: str, num_threads: int, *, keep: bool = True) -> Probe:
    """The probe of a present device, remembered or made, and remembered where `keep` says so. A note that cannot be read, or is another machine's,
    costs only the probe."""
    machine = describe(name, num_threads)
    place = note(machine)
    if place is not None and (remembered := read(place, machine)) is not None:
        return remembered
    found = measure(name, num_threads)
    if place is not None and keep:
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            with replacing(place) as partial:
                partial.write_text(json.dumps({"machine": machine, **asdict(found)}), encoding="utf-8")
    return found


def describe(name: str, num_threads: int) -> dict[str, Any]:
    """Returns what a probe depends on. Of two machines whose CPUs have one name, a guest may see fewer instructions. A device that does not say what
    it is is known by its host."""
    return {
        "device": name,
        "model": model_of(name) or ("" if is_host(name) else f"in {platform.node()}"),
        "processor": hashlib.sha256(processor_text().encode()).hexdigest()[:16],
        "isa": [torch.backends.cpu.get_cpu_capability(), os.environ.get("ONEDNN_MAX_CPU_ISA", "")],
        "torch": str(torch.__version__),
        "threads": num_threads,
    }


def processor_text(path: Path = Path("/proc/cpuinfo")) -> str:
    """Returns what the kernel says of the first core's kind, without its clock and the like."""
    with contextlib.suppress(OSError):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0].splitlines()
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        return json.dumps({key: fields[key] for key in (*CPU_KEYS, *ARM_KEYS) if key in fields})
    return ""


def note(machine: dict[str, Any]) -> Path | None:
    """None where nothing can be kept."""
    place = cache_dir()
    return place and place / "machines" / f"{hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]}.json"


def read(place: Path, machine: dict[str, Any]) -> Probe | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        told = json.loads(text_of(place))
        if told["machine"] == machine:
            return probe_of(told)
    return None


def probe_of(told: dict[str, Any]) -> Probe:
    """Raises ValueError, KeyError, TypeError or AttributeError for what is none."""
    found = Probe(
        *({str(key): float(value) for key, value in told[name].items()} for name in ("convolution", "update"))
    )
    for times in (found.convolution, found.update):
        if "fp32" not in times or not times.keys() <= DTYPES.keys():
            raise ValueError("not the precisions of a probe")
        if not all(math.isfinite(value) and value > 0 for value in times.values()):
            raise ValueError("not the times of a probe")
    return found


def measure(name: str, num_threads: int) -> Probe:
    """The host is asked in this process. A device is in one that ends, so that this one holds no memory of it."""
    if is_host(name):
        before = torch.get_num_threads()
        torch.set_num_threads(num_threads)
        try:
            return on_device(name)
        finally:
            torch.set_num_threads(before)
    log.info("%s is asked what it computes fastest, once for this machine", name)
    config = {"accelerator": {"_target_": "facenet.devices.DeviceChoice", "name": name}}
    with tempfile.TemporaryDirectory(prefix="facenet-probe-") as folder:
        configs.write(config, RunDir(Path(folder)).resolved)
        return probe_of(launch(Path(folder), Distributed(), Order(), task="probe"))


def run(run: Run) -> dict[str, Any]:
    """Runs in a process of its own and returns the probe of the config's device as a dict."""
    name, _ = configs.build(run.config["accelerator"], "accelerator").resolve()  # which imports its plugin
    return asdict(on_device(name))


def on_device(name: str) -> Probe:
    with torch.inference_mode():
        return Probe(convolutions(name), updates(computing(name, "fp32")))


def computing(name: str, dtype: str) -> Accelerator:
    """Raises UserError where the device does not compute in it."""
    accelerator = Accelerator(name, Precision(dtype=dtype), rank=0, local_rank=0, world_size=1)  # type: ignore[arg-type]
    accelerator.start_precision()
    return accelerator


def convolutions(name: str) -> dict[str, float]:
    """Forward passes of a 3 x 3 one, at the first size that takes long enough in fp32; without the precisions that the device refuses."""
    base, num_images = computing(name, "fp32"), 2
    while shortest(convolution(base, num_images), base) < LONG_ENOUGH_S and num_images < 512:
        num_images *= 2
    works = {"fp32": convolution(base, num_images)}
    for dtype in offered_precisions(name)[1:]:
        with contextlib.suppress(*REFUSED):
            works[dtype] = convolution(computing(name, dtype), num_images)
    return time_in_turn(works, base)


def convolution(at: Accelerator, num_images: int) -> Callable[[], Any]:
    kernel = torch.ones(64, 64, 3, 3, device=at.device)
    maps = torch.ones(num_images, 64, 28, 28, device=at.device).to(memory_format=torch.channels_last)

    def work() -> None:
        with at.autocast():
            functional.conv2d(maps, kernel, padding=1)

    return work


def updates(at: Accelerator) -> dict[str, float]:
    """Times updates of a square matrix, at the first size that takes long enough in fp32."""
    side = 128
    while shortest(update(at, side, "fp32"), at) < LONG_ENOUGH_S and side < 1024:
        side *= 2
    return time_in_turn({dtype: update(at, side, dtype) for dtype in ("fp32", "bf16")}, at)


def update(at: Accelerator, side: int, dtype: str) -> Callable[[], Any]:
    matrix = torch.eye(side, device=at.device)
    return lambda: orthogonalise(matrix, DTYPES[dtype])


def shortest(work: Callable[[], Any], at: Accelerator) -> float:
    return time_in_turn({"fp32": work}, at)["fp32"]


def time_in_turn(works: dict[str, Callable[[], Any]], at: Accelerator) -> dict[str, float]:
    """The shortest call of each, fp32 first, in turn, so that other work on the machine meets all alike; the first calls pick their kernels. What
    takes hopelessly long is called once, and what the device refuses is left out."""
    found: dict[str, list[float]] = {}
    left = dict(works)
    for _ in range(1 + ROUNDS):
        for name, work in list(left.items()):
            try:
                found.setdefault(name, []).append(time_calls(work, at))
            except REFUSED:
                if name == "fp32":
                    raise
                del left[name], found[name]
                continue
            if found[name][0] > HOPELESS * found["fp32"][0]:
                del left[name]
    return {name: min(times[1:] or times) for name, times in found.items()}


def time_calls(work: Callable[[], Any], at: Accelerator, repeats: int = 1) -> float:
    """Seconds, the device's own work included."""
    at.synchronize()
    begun = time.perf_counter()
    for _ in range(repeats):
        work()
    at.synchronize()
    return time.perf_counter() - begun

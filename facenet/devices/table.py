"""The devices: one row each, and what differs between them. The only file that says sdaa, cuda, cpu, tccl, nccl, gloo or GradScaler.

Everything above asks the `Accelerator` that a process started, or these functions, and never a device's name.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from facenet.distributed.choice import Distributed
from facenet.errors import UserError

HOST = "cpu"
Scaler = torch.amp.GradScaler


@dataclass(frozen=True)
class Device:
    """What differs from device to device."""

    plugin: str | None  # module that registers the device with torch
    collective: str
    precisions: tuple[str, ...]
    fix: str  # what to do when it was asked for and is absent
    visible: str  # environment variable that chooses among several
    monitor: str  # the vendor's program that prints the state of all, and the driver's version
    halves: tuple[str, ...] = ("bf16",)  # the sound ones that `auto` may take, the one without a loss scale first
    fused: bool = False  # whether torch's fused optimizers are known to have kernels
    compiler: str = "inductor"  # torch.compile's backend


DEVICES = {
    "sdaa": Device(
        "torch_sdaa",
        "tccl",
        ("fp32", "fp16", "bf16"),
        "install the vendor's torch_sdaa and check teco-smi",
        "SDAA_VISIBLE_DEVICES",
        "teco-smi",
        halves=("fp16",),  # its bf16 is computed in fp16, and clipped to the range of that
        compiler="teco_inductor",
    ),
    "cuda": Device(
        None,
        "nccl",
        ("fp32", "fp16", "bf16"),
        "install a CUDA build of torch and check nvidia-smi",
        "CUDA_VISIBLE_DEVICES",
        "nvidia-smi",
        halves=("bf16", "fp16"),
        fused=True,
    ),
    # No fused updates on a CPU: they take gradients by position in memory whatever their strides (torch 2.13), and the updates are a small
    # part of a step there. fp16 on a CPU runs without fast kernels and would need a loss scale: slower and less exact than bf16 or fp32.
    "cpu": Device(None, "gloo", ("fp32", "bf16"), "", "", ""),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class DeviceChoice:
    """`name: auto` takes the first present of sdaa, cuda, cpu; a named device that is absent is an error."""

    name: Literal["auto", "sdaa", "cuda", "cpu"] = "auto"

    def resolve(self) -> tuple[str, str]:
        """The device's name and the reason it was chosen, without touching it. Raises UserError when a named device is absent."""
        if self.name != "auto":
            if problem := absent(self.name):
                raise UserError(
                    f"accelerator={self.name}: {problem}; {DEVICES[self.name].fix}, or run with accelerator=auto"
                )
            return self.name, "asked for"
        problems: list[str] = []
        for name in DEVICES:
            problem = absent(name)
            if problem is None:
                return name, "; ".join(problems) or "first choice"
            problems.append(f"{name}: {problem}")
        raise AssertionError("the cpu is always present")


@dataclass(frozen=True, kw_only=True)
class Precision:
    """`dtype` of the forward pass; parameters, gradients, losses and evaluation metrics stay in float32. fp16 scales the loss. A config's `auto`
    is settled before a run begins."""

    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "fp32"
    init_scale: float = 65536.0
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        for key in ("init_scale", "growth_interval"):
            if getattr(self, key) <= 0:
                raise UserError(f"precision.{key}: expected a number above 0, got {getattr(self, key):g}")


def absent(name: str) -> str | None:
    """Why the device cannot be used, or None if it can. Imports the plugin; creates no context on the device."""
    plugin = DEVICES[name].plugin
    if plugin is not None:
        try:
            importlib.import_module(plugin)
        except ModuleNotFoundError as error:
            return f"no module {error.name}"
        except (ImportError, OSError, RuntimeError) as error:
            return f"{plugin} does not import ({error})"
    module = getattr(torch, name, None)
    if name != "cpu" and (module is None or not module.is_available() or module.device_count() == 0):
        return "torch sees no such device"
    return None


def loopback_only() -> dict[str, str]:
    """Variables by which backends listen on this machine's own interface alone, for processes that are all on it. tccl's is named as the others'
    are: the vendor documents none."""
    interface = "lo0" if sys.platform == "darwin" else "lo"
    return {f"{device.collective.upper()}_SOCKET_IFNAME": interface for device in DEVICES.values()}


def devices_present() -> dict[str, str | None]:
    """Why each device of the table is absent, in the order of preference; None for those that can be used."""
    return {name: absent(name) for name in DEVICES}


def device_count(name: str) -> int:
    """Devices of a present kind on this machine; processes of a CPU share it, so it counts as one."""
    return 1 if name == "cpu" else int(getattr(torch, name).device_count())


def offered_precisions(name: str) -> tuple[str, ...]:
    return DEVICES[name].precisions


def sound_halves(name: str) -> tuple[str, ...]:
    return DEVICES[name].halves


def is_host(name: str) -> bool:
    """Whether it is what this process runs on, so that asking it anything starts no device."""
    return not DEVICES[name].visible


def model_of(name: str) -> str:
    """Returns the model name of the first device of a present kind, as its vendor calls it; empty for the host, and where it does not tell."""
    with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, TypeError):
        return "" if is_host(name) else str(getattr(torch, name).get_device_name(0))
    return ""


def plugin_of(name: str) -> str | None:
    """The module that brings the device to torch; None where torch has it itself."""
    return DEVICES[name].plugin


def version_of(module_name: str) -> str:
    module = importlib.import_module(module_name)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(module_name)
    return str(getattr(module, "__version__", "of unknown version"))


def spellings(name: str, what: str) -> Iterator[Callable[..., Any]]:
    """Ways to say autocast or GradScaler for a device: torch's own for any device, then those that plugins had before it, under
    torch.<device>.amp and <plugin>.amp."""
    if hasattr(torch.amp, what):
        yield lambda **options: getattr(torch.amp, what)(name, **options)
    plugin = DEVICES[name].plugin
    for module in (getattr(torch, name), importlib.import_module(plugin) if plugin else None):
        amp = getattr(module, "amp", None)
        if hasattr(amp, what):
            yield getattr(amp, what)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device refused memory. torch has a type for it, which plugins do not all raise; their words are alike."""
    kinds = tuple(kind for kind in (getattr(torch, "OutOfMemoryError", None), torch.cuda.OutOfMemoryError) if kind)
    words = str(error).lower()
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and ("out of memory" in words or "can't allocate memory" in words)
    )


def check_precision(name: str, precision: Precision) -> None:
    """Raises UserError when the device lacks the precision."""
    offered = offered_precisions(name)
    if precision.dtype not in offered:
        raise UserError(
            f"precision={precision.dtype}: not on {name}, which offers {', '.join(offered)}; set precision=auto"
        )


def check_device_count(name: str, num_processes: int) -> None:
    """Raises UserError for more processes on this machine than it has devices; processes of a CPU share it."""
    found = device_count(name)
    if name != "cpu" and num_processes > found:
        raise UserError(
            f"distributed.num_processes: {num_processes} processes need as many {name} devices and {found} are visible; lower it, "
            f"or see {DEVICES[name].visible}"
        )


def check_exchange(name: str, distributed: Distributed) -> None:
    """Raises UserError for what torch does not have on the device."""
    if distributed.sync_batch_norm and name == "cpu":
        raise UserError("distributed.sync_batch_norm: torch has no such layer on cpu; set it to false")
    if distributed.compression == "bf16" and name != "cuda":
        raise UserError(f"distributed.compression=bf16: torch refuses it on {name}; set it to fp16")


def visible_devices(name: str) -> list[str]:
    """The devices of a present kind that this process may use, as its variable of visibility spells them; none for the cpu, which all share."""
    variable = DEVICES[name].visible
    if not variable:
        return []
    count = device_count(name)
    chosen = [part.strip() for part in os.environ.get(variable, "").split(",") if part.strip()]
    return chosen[:count] or [str(index) for index in range(count)]


def only_devices(name: str, devices: Sequence[str]) -> dict[str, str]:
    """What a process needs in its environment to see these of `visible_devices` alone."""
    return {DEVICES[name].visible: ",".join(devices)} if devices else {}


def scaler_of(name: str, **options: Any) -> Scaler:
    """The loss scale of fp16 on a device."""
    made: Scaler = next(spellings(name, "GradScaler"))(**options)
    return made


def emulates(name: str, dtype: str) -> bool:
    """Whether the current device of a kind offers a type and has no units for it."""
    return name == "cuda" and dtype == "bf16" and torch.cuda.get_device_capability() < (8, 0)


def runtime_of(name: str) -> str | None:
    """The version of the vendor's runtime, where torch knows it."""
    return f"CUDA {torch.version.cuda}" if name == "cuda" else None

"""The devices: one row each, and what differs between them. The only file that says sdaa, cuda, cpu, tccl, nccl, gloo or GradScaler.

Everything above asks the `Accelerator` that a process started, or these functions, and never a device's name. Installed packages add rows by the
entry-point group `facenet.devices`; docs/extending.md has one.
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

from facenet.devices.row import Device, Host
from facenet.distributed.choice import Distributed
from facenet.errors import UserError, shown
from facenet.files import trusted

HOST, GROUP = "cpu", "facenet.devices"
Scaler = torch.amp.GradScaler


class Cuda(Device):
    """NVIDIA's."""

    def emulates(self, dtype: str) -> bool:
        return dtype == "bf16" and torch.cuda.get_device_capability() < (8, 0)

    def runtime(self) -> str | None:
        return f"CUDA {torch.version.cuda}"


DEVICES: dict[str, Device] = {
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
    "cuda": Cuda(
        None,
        "nccl",
        ("fp32", "fp16", "bf16"),
        "install a CUDA build of torch and check nvidia-smi",
        "CUDA_VISIBLE_DEVICES",
        "nvidia-smi",
        halves=("bf16", "fp16"),
        fused=True,
        compressions=("fp16", "bf16"),
    ),
    # No fused updates on a CPU: they take gradients by position in memory whatever their strides (torch 2.13), and the updates are a small
    # part of a step there. fp16 on a CPU runs without fast kernels and would need a loss scale: slower and less exact than bf16 or fp32.
    "cpu": Host(None, "gloo", ("fp32", "bf16"), "", "", ""),
}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def outside() -> dict[str, importlib.metadata.EntryPoint]:
    """The devices of installed packages, by name; ours are ours. Imports none."""
    found = importlib.metadata.entry_points(group=GROUP)
    return {point.name: point for point in sorted(found, key=lambda each: each.value) if point.name not in DEVICES}


LOADED: dict[str, tuple[str, Device]] = {}  # of installed packages: the row and where it is from


def row(name: str) -> Device:
    """The row of a device. One of an installed package is imported for it. Raises UserError for a name that is none, a package that is not
    trusted, and what is no row."""
    if name in DEVICES:
        return DEVICES[name]
    if name in LOADED and trusted.package_holding(LOADED[name][0]):
        return LOADED[name][1]
    return load_row(name, outside())


def load_row(name: str, others: dict[str, importlib.metadata.EntryPoint]) -> Device:
    if name not in others:
        raise UserError(f"accelerator.name={shown(name)}: expected one of {', '.join(['auto', *DEVICES, *others])}")
    point, at = others[name], f"accelerator.name={shown(name)}"
    if (package := trusted.package_holding(point.value)) is None:
        root = point.module.partition(".")[0]
        raise UserError(
            f"{at}: is a device of the installed package {root}; if you trust all code of it, say on the command line: {trusted.KEY}={root}"
        )
    trusted.make_ready(package)
    try:
        found = getattr(importlib.import_module(point.module), point.attr)
    except Exception as error:
        raise UserError(f"{at}: {point.value} does not import here: {type(error).__name__}: {error}") from error
    if not isinstance(found, Device):
        raise UserError(f"{at}: {point.value} is no row of a device: it has to be a facenet.devices.Device")
    LOADED[name] = (point.value, found)
    return found


def names_in_order() -> list[str]:
    """In which `auto` looks: ours, those of trusted packages, and the host, which is always there."""
    others = (
        [name for name, point in outside().items() if trusted.package_holding(point.value)]
        if trusted.packages()
        else []
    )
    return [*(name for name in DEVICES if name != HOST), *others, HOST]


@dataclass(frozen=True, kw_only=True)
class DeviceChoice:
    """`name: auto` takes the first present of sdaa, cuda, those of trusted packages, cpu; a named device that is absent is an error."""

    name: str = "auto"

    def __post_init__(self) -> None:
        if self.name != "auto":
            row(self.name)

    def resolve(self) -> tuple[str, str]:
        """The device's name and the reason it was chosen, without touching it. Raises UserError when a named device is absent."""
        if self.name != "auto":
            if problem := absent(self.name):
                raise UserError(
                    f"accelerator={self.name}: {problem}; {row(self.name).fix}, or run with accelerator=auto"
                )
            return self.name, "asked for"
        problems: list[str] = []
        for name in names_in_order():
            problem = absent(name)
            if problem is None:
                return name, "; ".join(problems) or "first choice"
            problems.append(f"{name}: {problem}")
        raise AssertionError("the cpu is always present")


@dataclass(frozen=True, kw_only=True)
class Precision:
    """`dtype` of the forward pass; parameters, gradients, losses and evaluation metrics stay in float32. A config's `auto`
    is settled before a run begins. fp16 scales the loss, by `init_scale` at first, twice as much after `growth_interval` steps without inf or NaN in
    the gradients, half as much after one with. Raises UserError where one of these is not above 0."""

    dtype: Literal["auto", "fp32", "fp16", "bf16"] = "fp32"
    init_scale: float = 65536.0
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        for key in ("init_scale", "growth_interval"):
            if getattr(self, key) <= 0:
                raise UserError(f"precision.{key}: expected a number above 0, got {getattr(self, key):g}")


def absent(name: str) -> str | None:
    """Why the device cannot be used, or None if it can. Imports the plugin; creates no context on the device."""
    plugin = row(name).plugin
    if plugin is not None:
        try:
            importlib.import_module(plugin)
        except ModuleNotFoundError as error:
            return f"no module {error.name}"
        except (ImportError, OSError, RuntimeError) as error:
            return f"{plugin} does not import ({error})"
    return row(name).absent(torch_name(name))


def torch_name(name: str) -> str:
    """What torch calls the device."""
    return row(name).torch_name or name


def loopback_only() -> dict[str, str]:
    """Variables by which backends listen on this machine's own interface alone, for processes that are all on it. tccl's is named as the others'
    are: the vendor documents none."""
    interface = "lo0" if sys.platform == "darwin" else "lo"
    return {f"{device.collective.upper()}_SOCKET_IFNAME": interface for device in DEVICES.values()}


def devices_present() -> dict[str, str | None]:
    """Why each device of the table is absent, in the order of preference; None for those that can be used."""
    return {name: absent(name) for name in names_in_order()}


def device_count(name: str) -> int:
    """Devices of a present kind on this machine; processes of a CPU share it, so it counts as one."""
    return row(name).count(torch_name(name))


def offered_precisions(name: str) -> tuple[str, ...]:
    return row(name).precisions


def sound_halves(name: str) -> tuple[str, ...]:
    return row(name).halves


def is_host(name: str) -> bool:
    """Whether it is what this process runs on, so that asking it anything starts no device."""
    return isinstance(row(name), Host)


def model_of(name: str) -> str:
    """Returns the model name of the first device of a present kind, as its vendor calls it; empty for the host, and where it does not tell."""
    with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, TypeError):
        return "" if is_host(name) else str(getattr(torch, torch_name(name)).get_device_name(0))
    return ""


def version_of(module_name: str) -> str:
    module = importlib.import_module(module_name)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(module_name)
    return str(getattr(module, "__version__", "of unknown version"))


def spellings(name: str, what: str) -> Iterator[Callable[..., Any]]:
    """Ways to say autocast or GradScaler for a device: torch's own for any device, then those that plugins had before it, under
    torch.<device>.amp and <plugin>.amp."""
    if hasattr(torch.amp, what):
        yield lambda **options: getattr(torch.amp, what)(torch_name(name), **options)
    plugin = row(name).plugin
    for module in (getattr(torch, torch_name(name)), importlib.import_module(plugin) if plugin else None):
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
    if not is_host(name) and num_processes > found:
        raise UserError(
            f"distributed.num_processes: {num_processes} processes need as many {name} devices and {found} are visible; lower it, "
            f"or see {row(name).visible}"
        )


def check_exchange(name: str, distributed: Distributed) -> None:
    """Raises UserError for what torch does not have on the device."""
    if distributed.sync_batch_norm and is_host(name):
        raise UserError(f"distributed.sync_batch_norm: torch has no such layer on {name}; set it to false")
    if distributed.compression == "bf16" and "bf16" not in row(name).compressions:
        raise UserError(f"distributed.compression=bf16: torch refuses it on {name}; set it to fp16")


def visible_devices(name: str) -> list[str]:
    """The devices of a present kind that this process may use, as its variable of visibility spells them; none for the cpu, which all share."""
    variable = row(name).visible
    if not variable:
        return []
    count = device_count(name)
    chosen = [part.strip() for part in os.environ.get(variable, "").split(",") if part.strip()]
    return chosen[:count] or [str(index) for index in range(count)]


def only_devices(name: str, devices: Sequence[str]) -> dict[str, str]:
    """What a process needs in its environment to see these of `visible_devices` alone."""
    return {row(name).visible: ",".join(devices)} if devices else {}


def scaler_of(name: str, **options: Any) -> Scaler:
    """The loss scale of fp16 on a device."""
    made: Scaler = next(spellings(name, "GradScaler"))(**options)
    return made

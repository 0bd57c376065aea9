"""A row of the table of devices: what differs from device to device. One of somebody else's derives from `Device`, or from `Host`."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """What differs from device to device. The methods are for a device that torch has under the name `of`, as it has most."""

    plugin: str | None  # module that registers the device with torch
    collective: str
    precisions: tuple[str, ...]
    fix: str  # what to do when it was asked for and is absent
    visible: str  # environment variable that chooses among several
    monitor: str  # the vendor's program that prints the state of all, and the driver's version
    halves: tuple[str, ...] = ("bf16",)  # the sound ones that `auto` may take, the one without a loss scale first
    fused: bool = False  # whether torch's fused optimizers are known to have kernels
    compiler: str = "inductor"  # torch.compile's backend
    compressions: tuple[str, ...] = ("fp16",)  # types in which torch exchanges gradients there
    torch_name: str = ""  # what torch calls it, where that is not the row's name

    def absent(self, of: str) -> str | None:
        """Why torch cannot use it, once the plugin is imported; None if it can. Creates no context on it."""
        module = getattr(torch, of, None)
        if module is None or not module.is_available() or module.device_count() == 0:
            return "torch sees no such device"
        return None

    def count(self, of: str) -> int:
        """Those of this machine that are present."""
        return int(getattr(torch, of).device_count())

    def place(self, of: str, index: int) -> torch.device:
        """The device of a process, made the current one; before the process group, since collectives bind to the current device."""
        device = torch.device(of, index)
        getattr(torch, of).set_device(device)
        return device

    def emulates(self, dtype: str) -> bool:
        """Whether the current one offers a type and has no units for it."""
        return False

    def runtime(self) -> str | None:
        """The version of the vendor's runtime, where torch knows it."""
        return None


class Host(Device):
    """What every process runs on, and all share."""

    def absent(self, of: str) -> str | None:
        return None

    def count(self, of: str) -> int:
        return 1  # however many processes share it

    def place(self, of: str, index: int) -> torch.device:
        return torch.device(of)

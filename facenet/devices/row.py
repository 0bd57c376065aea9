"""A row of the table of devices: what differs from device to device. One of somebody else's derives from `Device`, or from `Host`."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """What differs from device to device. The methods are for a device that torch has under the name `of`, as it has most.

    plugin: module that registers the device with torch, or None. collective: torch's name for what exchanges tensors between processes.
    precisions: the types that `precision=` offers there. fix: what to do when the device was asked for and is absent. visible: environment
    variable that chooses among several. monitor: the vendor's program that prints the state of all, and the driver's version. halves: the
    sound 16-bit types that `precision=auto` may take, the one without a loss scale first. fused: whether torch's fused optimizers are known to
    have kernels. compiler: torch.compile's backend. compressions: types in which gradients can be exchanged. torch_name: what torch calls the
    device, where that is not the row's name."""

    plugin: str | None
    collective: str
    precisions: tuple[str, ...]
    fix: str
    visible: str
    monitor: str
    halves: tuple[str, ...] = ("bf16",)
    fused: bool = False
    compiler: str = "inductor"
    compressions: tuple[str, ...] = ("fp16",)
    torch_name: str = ""

    def absent(self, of: str) -> str | None:
        """Why torch cannot use it, once the plugin is imported; None if it can. Creates no context on it."""
        module = getattr(torch, of, None)
        if module is None or not module.is_available() or module.device_count() == 0:
            return "torch sees no such device"
        return None

    def count(self, of: str) -> int:
        """How many of them this machine has."""
        return int(getattr(torch, of).device_count())

    def place(self, of: str, index: int) -> torch.device:
        """The device of a process, made the current one; before the process group, since collectives bind to the current device."""
        device = torch.device(of, index)
        getattr(torch, of).set_device(device)
        return device

    def emulates(self, dtype: str) -> bool:
        """Whether `dtype` is offered and computed without units of its own, and so slowly, on the device that `place` made the current one."""
        return False

    def runtime(self) -> str | None:
        """The version of the vendor's runtime; None where torch does not know it."""
        return None


class Host(Device):
    """The row of a cpu: always present, once, however many processes share it. A device of somebody else's that is the host derives from it."""

    def absent(self, of: str) -> str | None:
        return None

    def count(self, of: str) -> int:
        return 1  # however many processes share it

    def place(self, of: str, index: int) -> torch.device:
        return torch.device(of)

"""Devices, precision and collectives: the only file that says sdaa, cuda, cpu, tccl, nccl, gloo, autocast or GradScaler.

A device is one row of `DEVICES`. Everything above asks the `Accelerator` that a process started, and never the device's name.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from facenet.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """What differs from device to device."""

    plugin: str | None  # module that registers the device with torch
    collective: str
    precisions: tuple[str, ...]
    fix: str  # what to do when it was asked for and is absent


DEVICES = {
    "sdaa": Device(
        "torch_sdaa", "tccl", ("fp32", "fp16", "bf16"), "install the vendor's torch_sdaa and check teco-smi"
    ),
    "cuda": Device(None, "nccl", ("fp32", "fp16", "bf16"), "install a CUDA build of torch and check nvidia-smi"),
    # fp16 on a CPU runs without fast kernels and would need a loss scale: slower and less exact than bf16 or fp32.
    "cpu": Device(None, "gloo", ("fp32", "bf16"), ""),
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
    """`dtype` of the forward pass; parameters, gradients, losses and evaluation metrics stay in float32. fp16 scales the loss."""

    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    init_scale: float = 65536.0
    growth_interval: int = 2000


def absent(name: str) -> str | None:
    """Why the device cannot be used, or None if it can. Imports the plugin; creates no context on the device."""
    row = DEVICES[name]
    if row.plugin is not None:
        try:
            importlib.import_module(row.plugin)
        except ModuleNotFoundError as error:
            return f"no module {error.name}"
        except (ImportError, OSError, RuntimeError) as error:
            return f"{row.plugin} does not import ({error})"
    module = getattr(torch, name, None)
    if name != "cpu" and (module is None or not module.is_available() or module.device_count() == 0):
        return "torch sees no such device"
    return None


class Accelerator:
    """One process's device: placement, precision, seeds and collectives. Make it with `Accelerator.start`."""

    def __init__(self, name: str, precision: Precision, *, rank: int, local_rank: int, world_size: int) -> None:
        self.name, self.precision = name, precision
        self.rank, self.world_size = rank, world_size
        self.module: Any = getattr(torch, name)
        self.device = (
            torch.device(name) if name == "cpu" else torch.device(name, local_rank % self.module.device_count())
        )
        self.scaler = None
        if precision.dtype == "fp16":
            self.scaler = torch.amp.GradScaler(
                name, init_scale=precision.init_scale, growth_interval=precision.growth_interval
            )

    @classmethod
    @contextlib.contextmanager
    def start(cls, choice: DeviceChoice, precision: Precision, *, timeout_s: float = 1800.0) -> Iterator[Accelerator]:
        """The accelerator of this process; joins the process group that RANK and WORLD_SIZE describe, and leaves it at the end.

        Raises UserError for an absent device or a precision that it lacks.
        """
        name, why = choice.resolve()
        check_precision(name, precision)
        rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        accelerator = cls(
            name, precision, rank=rank, local_rank=int(os.environ.get("LOCAL_RANK", 0)), world_size=world_size
        )
        if name != "cpu":
            accelerator.module.set_device(
                accelerator.device
            )  # before the process group: tccl and nccl bind to the current device
        log.info(
            "device %s (%s), precision %s, process %d of %d", accelerator.device, why, precision.dtype, rank, world_size
        )
        if world_size > 1:
            dist.init_process_group(DEVICES[name].collective, timeout=timedelta(seconds=timeout_s))
        try:
            accelerator.verify_precision()
            yield accelerator
        finally:
            if world_size > 1:
                dist.destroy_process_group()

    def verify_precision(self) -> None:
        """A wrong device string makes torch train in float32 with only a warning, so the type of a product is looked at."""
        with self.autocast():
            product = torch.ones(2, 2, device=self.device) @ torch.ones(2, 2, device=self.device)
        if product.dtype != DTYPES[self.precision.dtype]:
            raise UserError(
                f"precision={self.precision.dtype}: {self.name} computes in {product.dtype}; set precision=fp32"
            )

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Forward passes inside run in `precision.dtype`."""
        if self.precision.dtype == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.name, dtype=DTYPES[self.precision.dtype])

    def full_precision(self) -> contextlib.AbstractContextManager[Any]:
        """Arithmetic inside stays in float32, also within `autocast`."""
        if self.precision.dtype == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.name, enabled=False)

    def to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def prepare(self, module: nn.Module, *, sync_batch_norm: bool = False) -> nn.Module:
        """The module on the device, its convolutions in channels-last, and wrapped for gradient averaging over processes."""
        if sync_batch_norm and self.world_size > 1:
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        module = module.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.world_size == 1:
            return module
        device_ids = None if self.name == "cpu" else [self.device.index]
        return nn.parallel.DistributedDataParallel(module, device_ids=device_ids)

    def backward(self, loss: Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: torch.optim.Optimizer, *, clip_grad_norm: float | None = None) -> None:
        """One optimizer step on the gradients so far, then clears them; under fp16 a step with inf or NaN gradients is left out."""
        if clip_grad_norm is not None:
            if self.scaler is not None:
                self.scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip_grad_norm)
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def mean(self, values: Tensor) -> Tensor:
        """Averaged over processes as sum and division: tccl has no average."""
        if self.world_size == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total / self.world_size

    def any(self, flag: bool) -> bool:
        """True in every process if it is true in one."""
        if self.world_size == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(value)
        return bool(value.item() > 0)

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def seed(self, seed: int) -> None:
        """Device and host streams of torch, keyed by (seed, rank); numpy and python streams are keyed where they are drawn."""
        torch.manual_seed(seed * 1_000_003 + self.rank)


def check_precision(name: str, precision: Precision) -> None:
    """Raises UserError when the device lacks the precision."""
    offered = DEVICES[name].precisions
    if precision.dtype == "bf16" and name == "cuda" and not torch.cuda.is_bf16_supported():
        offered = ("fp32", "fp16")
    if precision.dtype not in offered:
        raise UserError(
            f"precision={precision.dtype}: not on {name}, which offers {', '.join(offered)}; set precision={offered[-1]}"
        )


def check_sync_batch_norm(name: str) -> None:
    """Raises UserError on the device where torch has no such layer."""
    if name == "cpu":
        raise UserError("distributed.sync_batch_norm: torch has no such layer on cpu; set it to false")


def host_copy(state: Any) -> Any:
    """Nested dicts, lists and tuples with every tensor copied to host memory, so that a checkpoint loads where the device is absent."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: host_copy(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(host_copy(value) for value in state)
    return state

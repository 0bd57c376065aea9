"""One process's device: placement, precision, memory and random streams. What differs between devices is in `table`."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from facenet.devices import updates
from facenet.devices.ahead import sent_ahead
from facenet.devices.host_memory import keep_freed_memory
from facenet.devices.table import (
    DTYPES,
    HOST,
    DeviceChoice,
    Precision,
    Scaler,
    check_device_count,
    check_precision,
    is_host,
    row,
    scaler_of,
    spellings,
    torch_name,
    version_of,
)
from facenet.distributed import collectives
from facenet.distributed.choice import Distributed
from facenet.errors import UserError

log = logging.getLogger(__name__)
Item = TypeVar("Item")
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)  # those that take `fused`
# Process groups that were left. torch 2.4's gloo waits for its peers when the last reference goes, and a peer may have ended.
KEPT: list[Any] = []


class Memory(NamedTuple):
    """Bytes on one device; None where the device does not tell. On a CPU those of the process."""

    allocated: int | None
    peak: int | None
    total: int | None


class Accelerator:
    """One process's device: placement, precision, seeds and memory. `Accelerator.start` makes it, which knows the device's `name`, and `rank`,
    `local_rank` (its number on this machine) and `world_size` of the process."""

    def __init__(self, name: str, precision: Precision, *, rank: int, local_rank: int, world_size: int) -> None:
        self.name, self.precision = name, precision
        self.rank, self.local_rank, self.world_size = rank, local_rank, world_size
        self.row, in_torch = row(name), torch_name(name)
        self.module: Any = getattr(torch, in_torch)
        self.device = torch.device(in_torch) if is_host(name) else torch.device(in_torch, local_rank)
        self.amp: Callable[..., contextlib.AbstractContextManager[Any]] | None = None
        self.scaler: Scaler | None = None

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, choice: DeviceChoice, precision: Precision, *, timeout_s: float = 1800.0, alone: bool = False
    ) -> Iterator[Accelerator]:
        """The accelerator of this process; joins the process group that RANK and WORLD_SIZE describe, unless `alone`, and leaves it at
        a good end. After an error the process has to end.

        Raises UserError for an absent device, fewer devices than processes, or a precision that the device lacks."""
        name, why = choice.resolve()
        check_precision(name, precision)
        place: Mapping[str, str] = {} if alone else os.environ
        rank, local_rank = int(place.get("RANK", 0)), int(place.get("LOCAL_RANK", 0))
        world_size = int(place.get("WORLD_SIZE", 1))
        check_device_count(name, local_rank + 1)
        accelerator = cls(name, precision, rank=rank, local_rank=local_rank, world_size=world_size)
        if is_host(name):
            keep_freed_memory()
        accelerator.device = accelerator.row.place(torch_name(name), local_rank)
        log.info(
            "device %s (%s), precision %s, process %d of %d", accelerator.device, why, precision.dtype, rank, world_size
        )
        if world_size > 1:
            dist.init_process_group(accelerator.row.collective, timeout=timedelta(seconds=timeout_s))
        accelerator.start_precision()
        yield accelerator
        if world_size > 1:  # not after an error: taking the group down may wait for processes that wait for this one
            accelerator.any(False)  # all arrive here: a process that leaves first breaks the others' last messages
            KEPT.append(dist.group.WORLD)
            dist.destroy_process_group()

    def start_precision(self) -> None:
        """Finds the spelling of autocast that computes in the asked type: a wrong device string makes torch train in float32
        with only a warning, so the type of a product is looked at. Raises UserError when none does."""
        if self.precision.dtype == "fp32":
            return
        if self.row.emulates(self.precision.dtype):
            raise UserError("precision=bf16: this GPU has no units for it and emulates it; set precision=fp16")
        wanted, seen = DTYPES[self.precision.dtype], []
        for spelling in spellings(self.name, "autocast"):
            self.amp = spelling
            try:
                seen.append(self.product_dtype())
            except (RuntimeError, TypeError, ValueError):  # this spelling knows neither the device nor the type
                continue
            if seen[-1] == wanted:
                break
        else:
            told = f"computes in {seen[-1]}" if seen else "has no autocast"
            raise UserError(f"precision={self.precision.dtype}: {self.name} {told}; set precision=fp32")
        if self.precision.dtype == "fp16":
            options = {"init_scale": self.precision.init_scale, "growth_interval": self.precision.growth_interval}
            self.scaler = scaler_of(self.name, **options)

    def load_scale(self, state: dict[str, Any]) -> None:
        """Takes up a loss scale where the `state` of another left it; how it grows stays as it was asked for here."""
        if self.scaler is not None:
            now = {name: state[name] for name in ("scale", "_growth_tracker")}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **now})

    def product_dtype(self) -> torch.dtype:
        """The type in which a product inside `autocast` really comes out."""
        with self.autocast():
            return (torch.ones(2, 2, device=self.device) @ torch.ones(2, 2, device=self.device)).dtype

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """A context: forward passes inside run in `precision.dtype`."""
        if self.amp is None:
            return contextlib.nullcontext()
        return self.amp(dtype=DTYPES[self.precision.dtype])

    def full_precision(self) -> contextlib.AbstractContextManager[Any]:
        """A context: arithmetic inside stays in float32, also within `autocast`."""
        return contextlib.nullcontext() if self.amp is None else self.amp(enabled=False)

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor on this process's device, of the same shape and type; a copy out of page-locked memory is not waited for."""
        return tensor.to(self.device, non_blocking=True)

    def pinned_memory(self) -> Callable[..., Tensor] | None:
        """Gives page-locked uint8 memory of a shape, from which copies to the device go on beside the host's work; torch uses it again when
        copies out of it are done. None where the device does not offer it."""
        if is_host(self.name):
            return None

        def new(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)

        try:
            return new if new(1).is_pinned() else None
        except (RuntimeError, NotImplementedError, AssertionError):
            return None

    def free_memory(self) -> int | None:
        """Bytes free on the device; None where it does not tell, and for the host."""
        return self.ask("mem_get_info", lambda two: two[0])

    def prepare(self, module: nn.Module, distributed: Distributed | None = None) -> nn.Module:
        """The module on the device, its convolutions in channels-last, and wrapped for gradient averaging over processes."""
        options = distributed or Distributed()
        if options.sync_batch_norm and self.world_size > 1:
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        module = module.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module if self.world_size == 1 else collectives.averaging(module, options)

    def optimizer(
        self, make: Callable[..., torch.optim.Optimizer], parameters: list[nn.Parameter], **options: Any
    ) -> torch.optim.Optimizer:
        """`make(parameters, **options)`, its update in one kernel where its row says that torch has one to be trusted."""
        chosen, given = getattr(make, "func", make), {**getattr(make, "keywords", {}), **options}
        if chosen in FUSED and self.row.fused and not given.keys() & {"fused", "foreach"}:
            try:
                return make(parameters, fused=True, **options)
            except RuntimeError as error:  # an older torch, or a parameter that is not floating point
                log.info("the optimizer is not fused: %s", str(error).splitlines()[0])
        return make(parameters, **options)

    def compile(self, module: nn.Module, *, mode: str) -> None:
        """Compiles the module's call in place; its state keeps its names. Where the compiler fails at the first call, the module goes on
        as it was, with a line in the log. `reduce-overhead` records graphs where the device has them."""
        module.compile(backend=self.row.compiler, **({} if mode == "default" else {"mode": mode}))
        from torch._dynamo.exc import TorchDynamoException

        compiled: Callable[..., Any] = module._compiled_call_impl  # type: ignore[assignment]

        def call(*args: Any, **options: Any) -> Any:
            try:
                return compiled(*args, **options)
            except (TorchDynamoException, ImportError) as error:
                log.warning(
                    "trainer.compile: not on this machine (%s); training goes on without", str(error).splitlines()[0]
                )
                module._compiled_call_impl = None
                return module(*args, **options)

        module._compiled_call_impl = call  # what __call__ runs; torch leaves it out of copies and files

    def ahead(self, items: Iterator[Item], moved: Callable[[Item, Callable[[Tensor], Tensor]], Item]) -> Iterator[Item]:
        """The items on the device, the next one copied while one is in use: `moved(item, move)` gives an item with `move` of its tensors. On a cpu,
        and where the device's module has no streams, the items as they are."""
        if is_host(self.name) or not hasattr(self.module, "Stream"):
            return items
        return sent_ahead(items, moved, self.device, self.module)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss (0-d), multiplied by the loss scale where there is one."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]

    def step(
        self, optimizer: torch.optim.Optimizer, *, clip_grad_norm: float | None = None, guard: bool = False
    ) -> Tensor | None:
        """One optimizer step on the gradients so far, then clears them; under fp16, and under `guard`, a step with inf or NaN gradients is
        left out. Returns under `guard` whether all were finite, 0-d, on the device."""
        return updates.step(optimizer, self.scaler, clip_grad_norm=clip_grad_norm, guard=guard)

    def any(self, flag: bool) -> bool:
        """True in every process if it is true in one."""
        if self.world_size == 1:
            return flag
        return bool(collectives.mean(torch.tensor(float(flag), device=self.device)).item() > 0)

    def seed(self, seed: int) -> None:
        """Device and host streams of torch, keyed by (seed, rank); numpy and python streams are keyed where they are drawn."""
        torch.manual_seed(seed * 1_000_003 + self.rank)  # the device's too

    def rng_states(self) -> list[dict[str, Tensor]]:
        """Returns the states of torch's random streams, host's and device's, of every process by rank, in host memory. All processes call it
        together."""
        own = {"host": torch.get_rng_state()}
        if hasattr(self.module, "get_rng_state"):
            own[self.name] = self.module.get_rng_state(self.device)
        found: list[dict[str, Tensor]] = [{} for _ in range(self.world_size)]
        for key, state in own.items():
            parts = collectives.gather(state.to(self.device), [len(state)] * self.world_size)
            for rank, part in enumerate(parts):
                found[rank][key] = part.to(HOST)
        return found

    def set_rng_state(self, state: dict[str, Tensor]) -> None:
        """Takes up the streams where one entry of `rng_states` left them; another kind of device keeps its own."""
        torch.set_rng_state(state["host"])
        if self.name in state:
            self.module.set_rng_state(state[self.name], self.device)

    def synchronize(self) -> None:
        """Waits until the device has done what it was given; before and after whatever is timed."""
        self.module.synchronize()

    def memory(self) -> Memory:
        """Bytes in use and their peak since `reset_peak_memory`; None where the device does not tell."""
        if is_host(self.name):
            return Memory(
                int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
                resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            )
        return Memory(
            self.ask("memory_allocated"), self.ask("max_memory_allocated"), self.ask("mem_get_info", lambda two: two[1])
        )

    def ask(self, name: str, part: Callable[[Any], int] = int) -> int | None:
        """A number of the device's module, or None: plugins do not offer all that torch does for its own devices."""
        try:
            return part(getattr(self.module, name)(self.device))
        except (AttributeError, NotImplementedError, RuntimeError, TypeError):
            return None

    def reset_peak_memory(self) -> None:
        """The peak of `memory` starts anew where the device can."""
        with contextlib.suppress(AttributeError, NotImplementedError):
            self.module.reset_peak_memory_stats(self.device)

    def free_cache(self) -> None:
        """Gives memory that is kept for reuse back to the device."""
        with contextlib.suppress(AttributeError):
            self.module.empty_cache()

    def describe(self) -> dict[str, str]:
        """What is said of the device -> its value: name, plugin and runtime, as far as torch knows them."""
        found = {}
        with contextlib.suppress(AttributeError, RuntimeError):
            found["device"] = str(self.module.get_device_name(self.device))
        plugin = self.row.plugin
        if plugin is not None:
            found["plugin"] = f"{plugin} {version_of(plugin)}"
        if (runtime := self.row.runtime()) is not None:
            found["runtime"] = runtime
        return found


def host_copy(state: Any) -> Any:
    """Nested dicts, lists and tuples with every tensor copied to host memory, so that a checkpoint loads where the device is absent."""
    if isinstance(state, Tensor):
        return state.detach().to(HOST, copy=True)
    if isinstance(state, dict):
        return {key: host_copy(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(host_copy(value) for value in state)
    return state

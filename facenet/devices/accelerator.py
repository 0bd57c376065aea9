"""Devices, precision and memory: the only file that says sdaa, cuda, cpu, tccl, nccl, gloo, autocast or GradScaler.

A device is one row of `DEVICES`. Everything above asks the `Accelerator` that a process started, and never the device's name.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from facenet.devices import updates
from facenet.devices.host_memory import keep_freed_memory
from facenet.distributed import collectives
from facenet.distributed.choice import Distributed
from facenet.errors import UserError

log = logging.getLogger(__name__)
Item = TypeVar("Item")


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
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)  # those that take `fused`
# Process groups that were left. torch 2.4's gloo waits for its peers when the last reference goes, and a peer may have ended.
KEPT: list[Any] = []
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


class Memory(NamedTuple):
    """Bytes on one device; None where the device does not tell. On a CPU those of the process."""

    allocated: int | None
    peak: int | None
    total: int | None


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
    """Of the first device of a present kind, as its vendor calls it; empty for the host, and where it does not tell."""
    with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, TypeError):
        return "" if is_host(name) else str(getattr(torch, name).get_device_name(0))
    return ""


def plugin_of(name: str) -> str | None:
    """The module that brings the device to torch; None where torch has it itself."""
    return DEVICES[name].plugin


class Accelerator:
    """One process's device: placement, precision, seeds and memory. Make it with `Accelerator.start`."""

    def __init__(self, name: str, precision: Precision, *, rank: int, local_rank: int, world_size: int) -> None:
        self.name, self.precision = name, precision
        self.rank, self.local_rank, self.world_size = rank, local_rank, world_size
        self.module: Any = getattr(torch, name)
        self.device = torch.device(name) if name == "cpu" else torch.device(name, local_rank)
        self.amp: Callable[..., contextlib.AbstractContextManager[Any]] | None = None
        self.scaler: torch.amp.GradScaler | None = None

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, choice: DeviceChoice, precision: Precision, *, timeout_s: float = 1800.0, alone: bool = False
    ) -> Iterator[Accelerator]:
        """The accelerator of this process; joins the process group that RANK and WORLD_SIZE describe, unless `alone`, and leaves it at
        a good end. After an error the process has to end.

        Raises UserError for an absent device, fewer devices than processes, or a precision that the device lacks.
        """
        name, why = choice.resolve()
        check_precision(name, precision)
        place: Mapping[str, str] = {} if alone else os.environ
        rank, local_rank = int(place.get("RANK", 0)), int(place.get("LOCAL_RANK", 0))
        world_size = int(place.get("WORLD_SIZE", 1))
        check_device_count(name, local_rank + 1)
        accelerator = cls(name, precision, rank=rank, local_rank=local_rank, world_size=world_size)
        if name == "cpu":
            keep_freed_memory()
        else:  # before the process group: tccl and nccl bind to the current device
            accelerator.module.set_device(accelerator.device)
        log.info(
            "device %s (%s), precision %s, process %d of %d", accelerator.device, why, precision.dtype, rank, world_size
        )
        if world_size > 1:
            dist.init_process_group(DEVICES[name].collective, timeout=timedelta(seconds=timeout_s))
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
        if self.name == "cuda" and self.precision.dtype == "bf16" and torch.cuda.get_device_capability() < (8, 0):
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
            self.scaler = next(spellings(self.name, "GradScaler"))(**options)

    def load_scale(self, state: dict[str, Any]) -> None:
        """Takes up a loss scale where the `state` of another left it; how it grows stays as it was asked for here."""
        if self.scaler is not None:
            now = {name: state[name] for name in ("scale", "_growth_tracker")}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **now})

    def product_dtype(self) -> torch.dtype:
        with self.autocast():
            return (torch.ones(2, 2, device=self.device) @ torch.ones(2, 2, device=self.device)).dtype

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Forward passes inside run in `precision.dtype`."""
        if self.amp is None:
            return contextlib.nullcontext()
        return self.amp(dtype=DTYPES[self.precision.dtype])

    def full_precision(self) -> contextlib.AbstractContextManager[Any]:
        """Arithmetic inside stays in float32, also within `autocast`."""
        return contextlib.nullcontext() if self.amp is None else self.amp(enabled=False)

    def to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def pinned_memory(self) -> Callable[..., Tensor] | None:
        """Gives page-locked uint8 memory of a shape, from which copies to the device go on beside the host's work; torch uses it again when
        copies out of it are done. None where the device does not offer it."""
        if self.name == "cpu":
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
        """`make(parameters, **options)`, its update in one kernel where `DEVICES` says that torch has one to be trusted."""
        chosen, given = getattr(make, "func", make), {**getattr(make, "keywords", {}), **options}
        if chosen in FUSED and DEVICES[self.name].fused and not given.keys() & {"fused", "foreach"}:
            try:
                return make(parameters, fused=True, **options)
            except RuntimeError as error:  # an older torch, or a parameter that is not floating point
                log.info("the optimizer is not fused: %s", str(error).splitlines()[0])
        return make(parameters, **options)

    def compile(self, module: nn.Module, *, mode: str) -> None:
        """Compiles the module's call in place; its state keeps its names. Where the compiler fails at the first call, the module goes on
        as it was, with a line in the log. `reduce-overhead` records graphs where the device has them."""
        module.compile(backend=DEVICES[self.name].compiler, **({} if mode == "default" else {"mode": mode}))
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
        """The items on the device: each is copied on a stream of its own while the one before it is in use. `moved(item, to)` applies
        `to` to each tensor. On a cpu, and where the device's module has no streams, the items as they are."""
        if self.name == "cpu" or not hasattr(self.module, "Stream"):
            yield from items
            return
        side, tensors = self.module.Stream(self.device), list[Tensor]()

        def to(tensor: Tensor) -> Tensor:
            if tensor.device == self.device:
                return tensor
            on_device = (tensor if tensor.is_pinned() else tensor.pin_memory()).to(self.device, non_blocking=True)
            tensors.append(on_device)
            return on_device

        def send(item: Item) -> tuple[Item, list[Tensor]]:
            tensors.clear()
            with self.module.stream(side):
                return moved(item, to), list(tensors)

        waiting: tuple[Item, list[Tensor]] | None = None
        for item in items:
            ready, waiting = waiting, send(item)
            if ready is not None:
                yield self.handed_over(ready, side)
        if waiting is not None:
            yield self.handed_over(waiting, side)

    def handed_over(self, sent: tuple[Item, list[Tensor]], side: Any) -> Item:
        """The item, for the stream that computes: it waits for the copy, and the memory for its use."""
        current = self.module.current_stream(self.device)
        current.wait_stream(side)
        for tensor in sent[1]:
            tensor.record_stream(current)
        return sent[0]

    def backward(self, loss: Tensor) -> None:
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
        """Of every process by rank: torch's host stream and the device's, in host memory. All processes call it together."""
        own = {"host": torch.get_rng_state()}
        if hasattr(self.module, "get_rng_state"):
            own[self.name] = self.module.get_rng_state(self.device)
        found: list[dict[str, Tensor]] = [{} for _ in range(self.world_size)]
        for key, state in own.items():
            parts = collectives.gather(state.to(self.device), [len(state)] * self.world_size)
            for rank, part in enumerate(parts):
                found[rank][key] = part.to("cpu")
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
        if self.name == "cpu":
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
        """Name, plugin and runtime of the device, as far as torch knows them."""
        found = {}
        with contextlib.suppress(AttributeError, RuntimeError):
            found["device"] = str(self.module.get_device_name(self.device))
        plugin = DEVICES[self.name].plugin
        if plugin is not None:
            found["plugin"] = f"{plugin} {version_of(plugin)}"
        if self.name == "cuda":
            found["runtime"] = f"CUDA {torch.version.cuda}"
        return found


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


def host_copy(state: Any) -> Any:
    """Nested dicts, lists and tuples with every tensor copied to host memory, so that a checkpoint loads where the device is absent."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: host_copy(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(host_copy(value) for value in state)
    return state


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

"""What processes of a run tell each other: functions over the default process group, and no-ops where there is none; and the
wrapper that averages gradients.

Letters: W processes, n rows of this one. All work on tensors of the run's device, since a vendor's backend takes no others, and sum
rather than average, since not every backend averages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from facenet.distributed import spread_rows
from facenet.distributed.choice import Distributed

CHUNK = 65536  # rows at once on the device where whole tensors go to the host: 32 MiB of 128 numbers each


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def total(values: Tensor) -> Tensor:
    """Summed over processes, the same shape."""
    if world_size() == 1:
        return values
    summed = values.detach().clone()
    dist.all_reduce(summed)
    return summed


def mean(values: Tensor) -> Tensor:
    """Averaged over processes, the same shape."""
    return values if world_size() == 1 else total(values) / world_size()


def gather(rows: Tensor, counts: Sequence[int]) -> list[Tensor]:
    """The rows (n, ...) of every process by rank, without gradient; counts: n of each process, known to all."""
    if len(counts) == 1:
        return [rows]
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return [part[:count] for part, count in zip(parts, counts, strict=True)]


def gather_texts(text: str, device: torch.device) -> list[str]:
    """Returns each process's text, by rank; sent as int32, which every backend can send."""
    code = torch.tensor(list(text.encode()), dtype=torch.int32, device=device)
    counts = gather(torch.tensor([len(code)], device=device), [1] * world_size())
    return [bytes(part.tolist()).decode() for part in gather(code, [int(count) for count in counts])]


def share(num_rows: int) -> slice:
    """This process's of rows that are spread over all."""
    return spread_rows.share(num_rows, rank(), world_size())


def whole(rows: Tensor, num_rows: int, *, everywhere: bool = False) -> Tensor:
    """Fresh host memory with all `num_rows` of rows that are spread, in rank 0 alone unless `everywhere`, (0,) in the others. A device
    never holds more than a chunk of each process's. All processes call it together."""
    shares = [spread_rows.share(num_rows, other, world_size()) for other in range(world_size())]
    counts = [each.stop - each.start for each in shares]
    wanted = everywhere or rank() == 0
    result = torch.empty((num_rows, *rows.shape[1:]) if wanted else (0,), dtype=rows.dtype)
    for first in range(0, max(counts), CHUNK):
        sizes = [min(max(count - first, 0), CHUNK) for count in counts]
        for each, part in zip(shares, gather(rows[first : first + CHUNK], sizes), strict=True):
            if wanted:
                result[each.start + first :][: len(part)] = part
    return result


def gather_batch(rows: Tensor, *, in_parts: bool = False) -> Tensor:
    """The rows (n, ...) of all processes as (W n, ...) by rank, with gradient to this one's; n is the same in all.

    For a loss that every process computes alike on the whole: the gradient of its own rows is then known here, and is multiplied by W
    because the processes' gradients are averaged afterwards. Nothing is sent on the way back, unless the loss is computed `in_parts`: each
    process then knows a part of every row's gradient, and the parts are added up."""
    gathered: Tensor = GatherBatch.apply(rows, in_parts)  # type: ignore[no-untyped-call]
    return gathered


class GatherBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, in_parts: bool) -> Tensor:
        ctx.num_rows, ctx.in_parts = len(rows), in_parts
        return torch.cat(gather(rows.contiguous(), [len(rows)] * world_size()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.in_parts:
            gradient = total(gradient.contiguous())
        return gradient[rank() * ctx.num_rows :][: ctx.num_rows] * world_size(), None


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrites them with those of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def averaging(module: nn.Module, distributed: Distributed) -> DistributedDataParallel:
    """The module, whose backward pass leaves in every process the mean of the gradients of all; not of rows that are spread."""
    apart = [name for name, parameter in module.named_parameters() if spread_rows.rows_of_whole(parameter) is not None]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, apart)  # type: ignore[no-untyped-call]
    # No device_ids: the module is where it belongs, and not every plugin takes them.
    wrapped = DistributedDataParallel(
        module,
        bucket_cap_mb=distributed.bucket_cap_mb,
        gradient_as_bucket_view=distributed.gradient_as_bucket_view,
        static_graph=distributed.static_graph,
        find_unused_parameters=distributed.find_unused_parameters,
    )
    compress(wrapped, distributed.compression)
    return wrapped


def compress(wrapped: DistributedDataParallel, compression: str) -> None:
    """Has gradients sent in another form; each process gets the same mean back."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    if compression == "powersgd":
        state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=10)
        wrapped.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif compression != "none":
        wrapped.register_comm_hook(None, getattr(default_hooks, f"{compression}_compress_hook"))


def local_gradients(module: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Backward passes inside add to this process's gradients and send nothing: for all parts of a batch but the last."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()


def unwrapped(module: nn.Module) -> nn.Module:
    """What `averaging` was given; another module as it is."""
    return module.module if isinstance(module, DistributedDataParallel) else module

"""One optimizer step on the gradients there are: scaled or not, clipped, left out where they are not finite, alike in all processes."""

from __future__ import annotations

import torch
from torch import Tensor

from facenet.devices.table import Scaler
from facenet.distributed import collectives
from facenet.distributed.spread_rows import only_drawn, parameters_of, rows_of_whole


def leave_compiler_out() -> None:
    """For a process that compiles nothing. Before torch calls what it keeps out of its compiler it imports that compiler, 1.6 s and 800 modules, to
    learn that it is kept out; these say so themselves. Updates of torch's own optimizers ask again."""
    for method in (torch.optim.Optimizer.add_param_group, torch.optim.Optimizer.zero_grad):
        if (function := getattr(method, "__wrapped__", None)) is not None:
            function.__dynamo_disable = function


def step(
    optimizer: torch.optim.Optimizer, scaler: Scaler | None, *, clip_grad_norm: float | None, guard: bool
) -> Tensor | None:
    """See `Accelerator.step`."""
    with only_drawn(optimizer):
        norm = None
        if scaler is not None:
            poison_together(optimizer)
            if clip_grad_norm is not None:
                scaler.unscale_(optimizer)
        if clip_grad_norm is not None or guard:
            norm = gradient_norm(optimizer)
        if norm is not None and clip_grad_norm is not None:
            everywhere, own = gradients(optimizer)
            torch._foreach_mul_(everywhere + own, (clip_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        finite = norm.isfinite() if norm is not None and guard else None
        if scaler is not None:
            scaler.step(optimizer)
            scaler.update()
        elif finite is None:
            optimizer.step()
        else:
            step_where(optimizer, finite)
        optimizer.zero_grad(set_to_none=True)
    return finite


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """L2 norm of all gradients (0-d), which is not finite where one of them is not; of rows that are spread over processes, those of all. 0.7 ms
    for 3.2 M numbers on one core."""
    everywhere, own = gradients(optimizer)
    squares = [squared_norm(everywhere)] if everywhere else []
    if own:
        squares.append(collectives.total(squared_norm(own)))
    return torch.stack(squares).sum().sqrt()


def gradients(optimizer: torch.optim.Optimizer) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the gradients that all processes have alike, and those of rows that are spread."""
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in parameters_of(optimizer):
        if parameter.grad is not None:
            found[rows_of_whole(parameter) is not None].append(parameter.grad)
    return found


def squared_norm(tensors: list[Tensor]) -> Tensor:
    norms = torch.stack(torch._foreach_norm(tensors, 2))  # as torch's own clipping, in torch 2.4 too
    return norms.square().sum()


def poison_together(optimizer: torch.optim.Optimizer) -> None:
    """An inf or NaN in the rows of one process becomes a NaN in those of all, so that all leave the step out: a loss scale asks nobody."""
    own = gradients(optimizer)[1]
    if own and collectives.world_size() > 1:
        square = collectives.total(squared_norm(own))
        own[0].view(-1)[:1].add_(square - square)  # 0 unless one is not finite


def step_where(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """A step if `finite` is true, else parameters and state stay as they are. Fused optimizers decide on the device, as they do for a
    loss scale; the others make the host wait for it. A first step is theirs too: fused SGD makes its buffers in it and would leave them blank."""
    if getattr(optimizer, "_step_supports_amp_scaling", False) and optimizer.state:
        optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
    elif finite:
        optimizer.step()

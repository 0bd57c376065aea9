"""Muon for the weight matrices, AdamW for everything else.

Muon (Jordan 2024, "Muon: an optimizer for hidden layers in neural networks"; scale of updates as in its reference) replaces the momentum of
a matrix by the nearest matrix with equal singular values, so that rare directions of the gradient move as far as frequent ones. What it
gains over AdamW when epochs are few is measured in experiments/results.
torch.optim.Muon takes 2-d parameters only and came with torch 2.9; here a convolution counts as the matrix (out, in * height * width).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from facenet.distributed.spread_rows import rows_of_whole
from facenet.errors import UserError

# Quintic iteration of the reference implementation: steep at 0, so that five rounds bring singular values from 1e-3 into 0.7..1.2.
A, B, C = 3.4445, -4.7750, 2.0315
ROUNDS = 5


class Muon(torch.optim.Optimizer):
    """Muon for the matrices among `params`, AdamW for the rest. `lr`: how far a step moves a square matrix along each of its singular directions;
    `adamw_lr`: the lr of biases, norms, depthwise convolutions and the first layer, which are no matrices worth turning, and which AdamW moves
    with `betas` and `eps`. `weight_decay` is decoupled, times each one's lr. `momentum`, in [0, 1), is Nesterov's, of the matrices. `bf16`: the
    matrices are orthogonalised in bfloat16; "auto", as False on a host, unless a run has settled it by a probe. Raises UserError for numbers out
    of their range."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float = 0.03,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
        adamw_lr: float = 0.002,
        betas: list[float] | tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        bf16: bool | Literal["auto"] = True,
    ) -> None:
        """bf16: orthogonalise in bfloat16, whose error is far below the noise of a batch; float32 where the hardware has no fast bfloat16. A
        run settles a config's `auto` by a probe before it begins; without one it is float32 on a host."""
        if not (0 < lr < math.inf and 0 < adamw_lr < math.inf) or not 0 <= momentum < 1:
            raise UserError(
                f"optimizer: lr {lr} and adamw_lr {adamw_lr} must be above 0, momentum {momentum} in [0, 1)"
            )
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas) or eps < 0 or weight_decay < 0:
            raise UserError(
                f"optimizer: betas {list(betas)} must be two numbers in [0, 1), eps {eps} and weight_decay {weight_decay} 0 or more"
            )
        every = list(params)
        matrices = [parameter for parameter in every if is_matrix(parameter)]
        others = [parameter for parameter in every if not is_matrix(parameter)]
        groups = [
            {"params": matrices, "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "muon": True},
            {
                "params": others,
                "lr": adamw_lr,
                "weight_decay": weight_decay,
                "betas": tuple(betas),
                "eps": eps,
                "muon": False,
            },
        ]
        super().__init__([group for group in groups if group["params"]], {})
        self.bf16 = bf16

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient. `closure` is not supported."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    (self.muon_update if group["muon"] else self.adamw_update)(parameter, group)

    def muon_update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        """Moves one matrix in place: momentum, orthogonalised, times the group's lr."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        gradient, momentum = parameter.grad, state["momentum"]
        assert gradient is not None
        momentum.lerp_(gradient, 1 - group["momentum"])
        looking_ahead = gradient.lerp(momentum, group["momentum"]).flatten(1)  # Nesterov
        half = not parameter.is_cpu if self.bf16 == "auto" else self.bf16
        direction = orthogonalise(looking_ahead, torch.bfloat16 if half else torch.float32).view_as(parameter)
        rows, columns = len(parameter), looking_ahead.shape[1]
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def adamw_update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        """Moves any other parameter in place, as AdamW with the group's `adamw_lr`."""
        state = self.state[parameter]
        if not state:
            state.update(step=0, mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        gradient, (beta1, beta2) = parameter.grad, group["betas"]
        assert gradient is not None
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size = (state["square"] / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
        if parameter.ndim > 1:  # scales and biases have their own right size
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(state["mean"], size, value=-group["lr"] / (1 - beta1 ** state["step"]))


def is_matrix(parameter: nn.Parameter) -> bool:
    """Linear layers, and convolutions with more than the three channels of an image on their input side; not a part of one, which is all that
    a process has of rows that are spread."""
    if rows_of_whole(parameter) is not None:
        return False
    return parameter.ndim == 2 or (parameter.ndim == 4 and parameter.shape[1] > 3)


def orthogonalise(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """The matrix (R, C) with its singular values moved near 1, in its own type, by Newton-Schulz rounds in `dtype`."""
    x: Tensor = matrix.to(dtype)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.mT
    x = x / (x.norm() * 1.01 + 1e-7)  # spectral norm below 1
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return (x.mT if tall else x).to(matrix.dtype)

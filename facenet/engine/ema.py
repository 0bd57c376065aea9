"""An exponential moving average of a model, for evaluation (Polyak and Juditsky 1992)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from facenet.errors import UserError


class Ema:
    """`model` holds the averaged copy, in eval mode and without gradients, on the device of the model it was made from.

    Update number n = 0, 1, … keeps a share of min(decay, (1 + n) / (10 + n)) of the average: the first steps, whose
    weights are far from any good, are forgotten fast. Floating buffers (batch-norm statistics) are averaged alike,
    since they describe the averaged weights; counters are copied. Pass the bare model, not its distributed wrapper."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"ema: decay is a share from 0 to below 1, got {decay}")
        self.decay = decay
        self.num_updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Moves the average towards `model`; call it after each optimizer step."""
        keep = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        averages, values = floating(self.model), floating(model)
        average_all = get_ema_multi_avg_fn(keep)  # type: ignore[no-untyped-call]  # one launch per type, not one per tensor
        average_all(averages, values, self.num_updates)
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            if not average.is_floating_point():
                average.copy_(value)
        self.num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Tensors of the averaged model and the number of updates, for a checkpoint."""
        return {"model": self.model.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.num_updates = state["num_updates"]


def floating(model: nn.Module) -> list[torch.Tensor]:
    """Parameters, then floating buffers, each tensor once."""
    return [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]

"""Where a run stands, and means of figures that stay on the device until they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from facenet.distributed import collectives


class Average:
    """Means of 0-d device tensors by name, read from the device only when asked."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, scalars: dict[str, Tensor], count: int = 1) -> None:
        """Figures, or sums of `count` of them."""
        for name, value in scalars.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.count += count

    def merge(self, other: Average) -> None:
        self.add(other.sums, other.count)

    def read(self) -> dict[str, float]:
        """Over all processes; one transfer from the device."""
        if not self.count:
            return {}
        means = torch.stack(list(self.sums.values())) / self.count
        return dict(zip(self.sums, collectives.mean(means).tolist(), strict=True))

    def own(self, name: str) -> float:
        """Of this process alone."""
        return float(self.sums[name] / self.count)

    def states(self) -> list[dict[str, Any]]:
        """Of every process by rank, in host memory. All processes call it together."""
        if not self.count:
            return [{"count": 0, "sums": {}} for _ in range(collectives.world_size())]
        own = torch.stack(list(self.sums.values()))
        parts = collectives.gather(own, [len(own)] * collectives.world_size())
        return [{"count": self.count, "sums": dict(zip(self.sums, part.tolist(), strict=True))} for part in parts]

    @classmethod
    def of(cls, state: dict[str, Any], device: torch.device) -> Average:
        average = cls()
        average.count = state["count"]
        average.sums = {name: torch.tensor(value, device=device) for name, value in state["sums"].items()}
        return average


@dataclass
class Progress:
    """Where a run stands: finished epochs, optimizer steps, batches of the epoch under way and the means of its figures; `history` holds
    one row of metrics per finished epoch."""

    epoch: int = 0
    step: int = 0
    batches: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    whole: Average = field(default_factory=Average)  # up to the last log point
    recent: Average = field(default_factory=Average)  # since then

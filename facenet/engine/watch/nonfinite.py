"""Steps whose gradients are not finite: counted on the device, and the last one kept as a file that replays it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from facenet.data.feed.loader import Batch
from facenet.devices.accelerator import host_copy
from facenet.files.atomic import replacing

NAMED = 6  # of the files of a batch, in a message


class Counts(NamedTuple):
    """Of optimizer steps that were left out: in all, and in a row up to now. `loss`: whether this process's last loss was finite."""

    skipped: int
    in_row: int
    loss: bool


class Skipped:
    """Counts on the device, so that no step waits for it. `read` waits."""

    def __init__(self, device: torch.device) -> None:
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)  # in all, in a row
        self.loss = torch.zeros((), device=device)

    def add(self, finite: Tensor, loss: Tensor) -> None:
        """finite: 0-d bool of the step; loss: of its last part."""
        self.counts = torch.stack([self.counts[0] + ~finite, torch.where(finite, 0, self.counts[1] + 1)])
        self.loss = loss

    def read(self) -> Counts:
        numbers = torch.cat([self.counts, self.loss.isfinite().long()[None]]).tolist()
        return Counts(numbers[0], numbers[1], bool(numbers[2]))

    def state(self) -> list[int]:
        return [int(number) for number in self.counts.tolist()]

    def load_state(self, state: Sequence[int]) -> None:
        self.counts = torch.tensor(state, dtype=torch.int64, device=self.counts.device)


def shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def dump(path: Path, batches: Sequence[Batch], names: Sequence[str], state: dict[str, Any]) -> None:
    """Pixels, labels, indices and names of the parts of one step, beside what `state` adds; `torch.load(path, weights_only=True)` reads
    it. Weights that were left alone since the step are those that it met."""
    parts = [
        {"images": batch.images, "labels": batch.labels, "indices": torch.from_numpy(batch.indices)}
        for batch in batches
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        torch.save(host_copy({"batches": parts, "names": list(names), **state}), partial)

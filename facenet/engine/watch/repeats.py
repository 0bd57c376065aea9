"""Batches that were seen before: a sampler that repeats itself, or a list that holds its images twice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Repeats:
    """Of the batches of this epoch those whose images, in order, made a batch of this or the last epoch."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.start()

    def start(self) -> None:
        """A new epoch."""
        self.last, self.seen = self.seen, set()
        self.count = self.repeated = 0

    def add(self, indices: NDArray[np.int64]) -> None:
        key = hash(indices.tobytes())
        self.count += 1
        self.repeated += key in self.seen or key in self.last
        self.seen.add(key)

    @property
    def share(self) -> float:
        return self.repeated / max(self.count, 1)

"""A random order of 0 to N - 1 that is computed where it is asked for, in no memory: a permutation of a hundred million images is 800 MB and
many seconds for every process and epoch.

A Feistel network permutes the smallest even-width binary numbers that hold N; a value beyond N - 1 goes through it again until it is below
(Black and Rogaway 2002, cycle walking: 4 rounds of it at most on average).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Words = NDArray[np.uint64]
ROUNDS = 8
MIX = np.uint64(0xBF58476D1CE4E5B9)  # of splitmix64
FOLD = np.uint64(32)


class KeyedOrder:
    """`order[a:b]`: what stands at places a to b - 1. Equal keys give equal orders."""

    def __init__(self, num_items: int, key: Sequence[int]) -> None:
        self.num_items = num_items
        self.half = np.uint64(max(1, (max(1, num_items - 1).bit_length() + 1) // 2))
        self.mask = (np.uint64(1) << self.half) - np.uint64(1)
        self.keys = np.random.default_rng(key).integers(2**64, size=ROUNDS, dtype=np.uint64)

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, places: slice) -> Indices:
        start, stop, _ = places.indices(self.num_items)
        values = self._permute(np.arange(start, stop, dtype=np.uint64))
        beyond = np.flatnonzero(values >= self.num_items)
        while len(beyond):
            values[beyond] = self._permute(values[beyond])
            beyond = beyond[values[beyond] >= self.num_items]
        return values.astype(np.int64)

    def _permute(self, values: Words) -> Words:
        left, right = values >> self.half, values & self.mask
        for key in self.keys:
            mixed = (right + key) * MIX
            mixed = (mixed ^ (mixed >> FOLD)) * MIX
            left, right = right, left ^ ((mixed >> FOLD) & self.mask)
        return (left << self.half) | right

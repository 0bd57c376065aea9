"""Triplets as bubbliiiing/facenet-pytorch draws them, its repeating batches behind a switch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from facenet.data.identities import identity_index
from facenet.data.layout import Layout
from facenet.data.sampling.sampler import OWN, Indices, Sampler, need_triplets
from facenet.errors import check_least


class ReferenceSampler(Sampler):
    """Class-uniform triplets: [anchors | positives | negatives]. The positive is any image of the anchor's identity, the
    anchor's own file too; every process draws from all identities; images that do not divide are left out.

    repeat_batches: all data workers of the reference get one seed per process, whatever the worker or the epoch. Batches
    are handed out to the workers in turn, so each comes `num_workers` times in a row, and every epoch is the first."""

    layout = Layout("triplet")
    drop_remainder = True

    def __init__(self, *, repeat_batches: bool, num_workers: int) -> None:
        check_least("sampler.num_workers", num_workers)
        self.repeat_batches, self.num_workers = repeat_batches, num_workers

    def batches(
        self, labels: Indices, *, batch_size: int, num_batches: int, epoch: int, seed: int, rank: int, world_size: int
    ) -> Iterator[Indices]:
        num_triplets = self.images_per_step(batch_size, world_size) // world_size // 3
        drawn_epoch, _ = self.origin(epoch, 0)
        draws = self._draws(labels, num_triplets, np.random.default_rng([OWN, seed, drawn_epoch, rank]))
        if self.repeat_batches:
            draws = (batch for batch in draws for _ in range(self.num_workers))
        return islice(draws, num_batches)

    def origin(self, epoch: int, number: int) -> tuple[int, int]:
        return (0, number // self.num_workers) if self.repeat_batches else (epoch, number)

    def _draws(self, labels: Indices, num_triplets: int, rng: np.random.Generator) -> Iterator[Indices]:
        order, start, count = identity_index(labels)
        need_triplets(count)
        with_pair, present = np.flatnonzero(count >= 2), np.flatnonzero(count)
        while True:
            identity = with_pair[rng.integers(len(with_pair), size=num_triplets)]
            anchor, positive = rng.integers(count[identity]), rng.integers(count[identity])
            other = rng.integers(len(present) - 1, size=num_triplets)
            other = present[other + (other >= np.searchsorted(present, identity))]
            negative = rng.integers(count[other])
            yield order[np.concatenate([start[identity] + anchor, start[identity] + positive, start[other] + negative])]

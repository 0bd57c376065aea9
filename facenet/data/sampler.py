"""Which images make a batch. A sampler yields index arrays; it never touches an image.

Common to all: `layout` says how the batch is laid out, `multiple` divides the images per process, and
batches(labels, batch_size=, num_batches=, epoch=, seed=, rank=, world_size=) yields `num_batches` arrays of batch_size
// world_size indices into `labels`. batch_size counts images over all processes. Random streams are keyed by (seed,
epoch, rank): no worker and no epoch repeats another, and an epoch can be drawn again alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from facenet.data.identities import identity_index
from facenet.errors import UserError

Indices = NDArray[np.int64]
# First number of every stream's key: numpy pads keys with zeros, so without it (seed, epoch) and (seed, epoch, rank 0)
# are one stream.
SHARED, OWN = 1, 2


class Sampler(Protocol):
    layout: str
    multiple: int

    def batches(
        self, labels: Indices, *, batch_size: int, num_batches: int, epoch: int, seed: int, rank: int, world_size: int
    ) -> Iterator[Indices]: ...


class TripletSampler:
    """Class-uniform triplets: [anchors | positives | negatives], a third of the batch each.

    The anchor's identity is uniform over those with two or more images, the positive is another image of it, the
    negative's identity is uniform over all others. Rare identities are thus seen as often as common ones. Constant work
    per image.
    """

    layout = "triplet"
    multiple = 3

    def batches(
        self, labels: Indices, *, batch_size: int, num_batches: int, epoch: int, seed: int, rank: int, world_size: int
    ) -> Iterator[Indices]:
        order, start, count = identity_index(labels)
        with_pair, present = np.flatnonzero(count >= 2), np.flatnonzero(count)
        _need_two(len(present))
        if not len(with_pair):
            raise UserError(
                "sampler=triplet: no identity has two images, so there is no positive; "
                "add images or use sampler=shuffle"
            )
        num_triplets = _local_size(batch_size, world_size, self.multiple, "triplet") // 3
        rng = np.random.default_rng([OWN, seed, epoch, rank])
        rank_of = np.cumsum(count > 0) - 1  # position of a label among those present
        for _ in range(num_batches):
            identity = with_pair[rng.integers(len(with_pair), size=num_triplets)]
            anchor = rng.integers(count[identity])
            positive = (anchor + rng.integers(1, count[identity])) % count[identity]
            other = rng.integers(len(present) - 1, size=num_triplets)
            other = present[other + (other >= rank_of[identity])]
            negative = rng.integers(count[other])
            yield order[np.concatenate([start[identity] + anchor, start[identity] + positive, start[other] + negative])]


class IdentitySampler:
    """P x K: K images of each of P identities, those of one identity side by side; P follows from the batch size.

    One random order of the identities is shared by all processes and each takes its own slice of it, so no identity is
    in two processes' share of the same batch. Images of an identity are drawn without replacement while it has K.
    Identities with one image are left out where K > 1: repeats of one image are no positives.
    """

    layout = "pk"

    def __init__(self, *, images_per_identity: int = 4) -> None:
        if images_per_identity < 1:
            raise UserError(f"sampler.images_per_identity: expected 1 or more, got {images_per_identity}")
        self.images_per_identity = images_per_identity
        self.multiple = images_per_identity

    def batches(
        self, labels: Indices, *, batch_size: int, num_batches: int, epoch: int, seed: int, rank: int, world_size: int
    ) -> Iterator[Indices]:
        each = self.images_per_identity
        order, start, count = identity_index(labels)
        usable = np.flatnonzero(count >= min(each, 2))
        num_local = _local_size(batch_size, world_size, each, "identity") // each
        self._check(len(usable), len(np.flatnonzero(count)), num_local * world_size)
        shared, own = np.random.default_rng([SHARED, seed, epoch]), np.random.default_rng([OWN, seed, epoch, rank])
        queue = np.empty(0, np.int64)
        for _ in range(num_batches):
            if (
                len(queue) < num_local * world_size
            ):  # what is left over is dropped: a batch never holds an identity twice
                queue = shared.permutation(usable)
            mine, queue = queue[rank * num_local : (rank + 1) * num_local], queue[num_local * world_size :]
            yield order[np.concatenate([start[identity] + _draw(own, int(count[identity]), each) for identity in mine])]

    def _check(self, num_usable: int, num_identities: int, num_needed: int) -> None:
        _need_two(num_identities)
        if num_usable < num_needed:
            raise UserError(
                f"sampler=identity: a batch holds {num_needed} identities of {self.images_per_identity} images, "
                f"but only {num_usable} of {num_identities} identities can be used; "
                "lower data.batch_size or raise sampler.images_per_identity"
            )


def _draw(rng: np.random.Generator, count: int, wanted: int) -> Indices:
    """`wanted` numbers below `count`, all different if there are enough, else each about equally often."""
    if count >= wanted:
        return rng.choice(count, wanted, replace=False)
    return np.resize(rng.permutation(count), wanted)


class ShuffleSampler:
    """One random order of all images per epoch; each process takes its own slice of every batch. Goes round again when
    the order is used up.
    """

    layout = "shuffle"
    multiple = 1

    def batches(
        self, labels: Indices, *, batch_size: int, num_batches: int, epoch: int, seed: int, rank: int, world_size: int
    ) -> Iterator[Indices]:
        if not len(labels):
            raise UserError("sampler=shuffle: there are no images to draw from")
        local = _local_size(batch_size, world_size, 1, "shuffle")
        rng = np.random.default_rng([SHARED, seed, epoch])
        queue = np.empty(0, np.int64)
        for _ in range(num_batches):
            while len(queue) < batch_size:
                queue = np.concatenate([queue, rng.permutation(len(labels))])
            yield queue[rank * local : (rank + 1) * local]
            queue = queue[batch_size:]


def _need_two(num_identities: int) -> None:
    if num_identities < 2:
        raise UserError(f"sampler: {num_identities} identities among the training images, at least two are needed")


def _local_size(batch_size: int, world_size: int, multiple: int, name: str) -> int:
    """Images per process; UserError naming the nearest valid batch sizes."""
    step = multiple * world_size
    if batch_size < step or batch_size % step:
        below = batch_size // step * step
        nearest = f"{below} or {below + step}" if below else f"{step}"
        raise UserError(
            f"data.batch_size={batch_size}: sampler={name} on {world_size} process(es) needs a multiple of {step}; "
            f"use {nearest}"
        )
    return batch_size // world_size

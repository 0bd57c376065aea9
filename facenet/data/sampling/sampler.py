"""Which images make a batch. A sampler yields index arrays; it never touches an image.

batch_size counts images over all processes. Random streams are keyed by (seed, epoch, rank): no worker and no epoch
repeats another, and an epoch can be drawn again alone. What processes have to agree on is drawn from a stream keyed by
(seed, epoch), which each of them follows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from facenet.data.identities import identity_index
from facenet.data.layout import Layout
from facenet.data.sampling.keyed_order import KeyedOrder
from facenet.errors import UserError, check_least

Indices = NDArray[np.int64]
# First number of every stream's key: numpy pads keys with zeros, so without it (seed, epoch) and (seed, epoch, rank 0)
# are one stream.
SHARED, OWN = 1, 2
HELD = 1 << 22  # images whose order is drawn at once: 34 MB, and as it was before larger sets had another way


class Sampler:
    """Which images make a batch, in what order; subclasses write `batches`.

    `layout`: how a batch is laid out, whose `multiple` divides the images of a process. `drop_remainder`: a batch size that
    does not divide is lessened and not refused."""

    layout: Layout
    drop_remainder: bool = False

    def batches(
        self, labels: Indices, *, batch_size: int, num_batches: int, epoch: int, seed: int, rank: int, world_size: int
    ) -> Iterator[Indices]:
        """`num_batches` arrays (B,) of indices into `labels` (N,), B = images_per_step(batch_size, world_size) // world_size: this process's
        share."""
        raise NotImplementedError

    def origin(self, epoch: int, number: int) -> tuple[int, int]:
        """(epoch, number) of the batch that batch `number` of an epoch repeats: itself, as no batch repeats another."""
        return epoch, number

    def images_per_step(self, batch_size: int, world_size: int, accumulate: int = 1) -> int:
        """Images over all processes of a step in `accumulate` parts. UserError naming the nearest valid sizes where
        batch_size does not divide and nothing may be left out."""
        unit = world_size * accumulate * self.layout.multiple
        below = batch_size // unit * unit
        if below == batch_size > 0 or (self.drop_remainder and below > 0):
            return below
        nearest = f"{below} or {below + unit}" if below else f"{unit}"
        raise UserError(
            f"data.batch_size={batch_size}: must be a multiple of {unit} ({world_size} process(es) x "
            f"trainer.accumulate={accumulate} x {self.layout.multiple} for {self.layout.kind} batches); "
            f"the nearest valid values are {nearest}"
        )


class TripletSampler(Sampler):
    """Class-uniform triplets: [anchors | positives | negatives], a third of the batch each.

    The anchor's identity is uniform over those with two or more images, the positive is another image of it, the
    negative's identity is uniform over all others. Rare identities are thus seen as often as common ones. Constant work
    per image. Of several processes each draws from its own share of the identities, dealt anew in every epoch."""

    layout = Layout("triplet")

    def __init__(self, *, drop_remainder: bool = False) -> None:
        self.drop_remainder = drop_remainder

    def batches(
        self, labels: Indices, *, batch_size: int, num_batches: int, epoch: int, seed: int, rank: int, world_size: int
    ) -> Iterator[Indices]:
        order, start, count = identity_index(labels)
        need_triplets(count)
        num_triplets = self.images_per_step(batch_size, world_size) // world_size // 3
        present = _share(count, np.random.default_rng([SHARED, seed, epoch]), rank, world_size)
        with_pair = present[count[present] >= 2]
        rng = np.random.default_rng([OWN, seed, epoch, rank])
        for _ in range(num_batches):
            identity = with_pair[rng.integers(len(with_pair), size=num_triplets)]
            anchor = rng.integers(count[identity])
            positive = (anchor + rng.integers(1, count[identity])) % count[identity]
            other = rng.integers(len(present) - 1, size=num_triplets)
            other = present[other + (other >= np.searchsorted(present, identity))]
            negative = rng.integers(count[other])
            yield order[np.concatenate([start[identity] + anchor, start[identity] + positive, start[other] + negative])]


def need_triplets(count: Indices) -> None:
    """UserError where no triplet can be made of identities with `count` images."""
    _need_two(len(np.flatnonzero(count)))
    if not (count >= 2).any():
        raise UserError(
            "sampler=triplet: no identity has two images, so there is no positive; add images or use sampler=shuffle"
        )


def _share(count: Indices, shared: np.random.Generator, rank: int, world_size: int) -> Indices:
    """The labels of one process in order. Every label is in one share; the numbers of those with two images or more, of
    the others, and of all differ by one at most between shares."""
    several, single = np.flatnonzero(count >= 2), np.flatnonzero(count == 1)
    if len(several) < world_size or len(several) + len(single) < 2 * world_size:
        raise UserError(
            f"sampler=triplet: {world_size} processes need two identities each, one of them with two images; there are "
            f"{len(several) + len(single)}, {len(several)} of them with two images or more; "
            "lower distributed.num_processes, add identities, or use sampler=shuffle"
        )
    dealt = np.concatenate([shared.permutation(several), shared.permutation(single)])
    return np.sort(dealt[rank::world_size])


class IdentitySampler(Sampler):
    """P x K: K = `images_per_identity` images of each of P identities, those of one identity side by side; P follows from the batch size.

    One random order of the identities is shared by all processes and each takes its own slice of it, so no identity is
    in two processes' share of the same batch. When fewer identities are left of it than a batch takes, they are dropped
    and a new order begins. Images of an identity are drawn without replacement within a batch while it has K, anew in
    each batch. Identities with one image are left out where K > 1: repeats of one image are no positives."""

    def __init__(self, *, images_per_identity: int = 4) -> None:
        check_least("sampler.images_per_identity", images_per_identity)
        self.images_per_identity = images_per_identity
        self.layout = Layout("pk", images_per_identity)

    def batches(
        self, labels: Indices, *, batch_size: int, num_batches: int, epoch: int, seed: int, rank: int, world_size: int
    ) -> Iterator[Indices]:
        each = self.images_per_identity
        order, start, count = identity_index(labels)
        usable = np.flatnonzero(count >= min(each, 2))
        num_local = self.images_per_step(batch_size, world_size) // world_size // each
        self._check(len(usable), len(np.flatnonzero(count)), num_local * world_size)
        shared, own = np.random.default_rng([SHARED, seed, epoch]), np.random.default_rng([OWN, seed, epoch, rank])
        queue = np.empty(0, np.int64)
        for _ in range(num_batches):
            if len(queue) < num_local * world_size:  # or a batch could hold an identity twice
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


class ShuffleSampler(Sampler):
    """One random order of all images per epoch; each process takes its own slice of every batch. Goes round again when
    the order is used up, and only the batch in which two orders meet can hold an image twice; an epoch of the plan ends
    before."""

    layout = Layout("shuffle")

    def batches(
        self, labels: Indices, *, batch_size: int, num_batches: int, epoch: int, seed: int, rank: int, world_size: int
    ) -> Iterator[Indices]:
        if not len(labels):
            raise UserError("sampler=shuffle: there are no images to draw from")
        local = self.images_per_step(batch_size, world_size) // world_size
        orders, at = _orders(len(labels), (SHARED, seed, epoch)), 0
        order = next(orders)
        for _ in range(num_batches):
            batch, at = order[at : at + batch_size], at + batch_size
            while len(batch) < batch_size:
                order, at = next(orders), batch_size - len(batch)
                batch = np.concatenate([batch, order[:at]])
            yield batch[rank * local : (rank + 1) * local]


def _orders(num_images: int, key: tuple[int, ...]) -> Iterator[Indices | KeyedOrder]:
    """Yields one random order after the other, held in memory while they are small."""
    if num_images <= HELD:
        rng = np.random.default_rng(key)
        while True:
            yield rng.permutation(num_images)
    for number in itertools.count():
        yield KeyedOrder(num_images, (*key, number))


def _need_two(num_identities: int) -> None:
    if num_identities < 2:
        raise UserError(f"sampler: {num_identities} identities among the training images, at least two are needed")

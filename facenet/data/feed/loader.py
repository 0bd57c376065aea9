"""Batches of pixels, decoded by threads.

Threads, not processes: decoders, numpy and torch's resize release the interpreter lock, so two threads reach 1.9-2.0
times one, and nothing is pickled, copied between processes or forked. One thread makes one whole batch, so the order
and the content do not depend on their number.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facenet.data.feed.buffers import Buffers
from facenet.data.identities import Faces, UnreadableImage, identity_index
from facenet.data.sampling.sampler import Sampler
from facenet.data.transforms import Augment, Preprocess, mirror
from facenet.errors import UserError

log = logging.getLogger(__name__)
NAMED_UNREADABLE = 5  # more would bury the rest of the log; all of them are in Loader.unreadable


@dataclass(frozen=True)
class Batch:
    """images (B, H, W, 3) uint8, labels (B,) int64, in host memory unless the images live on the device; indices (B,): the images shown, after
    replacements."""

    images: Tensor
    labels: Tensor
    indices: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Share:
    """The batches of one process in one epoch, from number `first` on. batch_size counts images over all processes."""

    batch_size: int
    num_batches: int
    epoch: int = 0
    rank: int = 0
    world_size: int = 1
    first: int = 0


class NewImages(Protocol):
    """Gives a uint8 tensor of a shape, in host memory, with anything in it."""

    def __call__(self, *shape: int) -> Tensor: ...


def mirror_rows(images: NDArray[np.uint8], chosen: NDArray[np.bool_]) -> None:
    """Exchanges left and right of the chosen images (B, H, W, 3), in place: 4 us for one of 160 px, against 12 for torch's flip."""
    if not chosen.any():
        return
    try:
        import cv2
    except ImportError:  # its shared libraries are missing on some machines
        for slot in np.flatnonzero(chosen):
            images[slot] = mirror(images[slot])
        return
    for slot in np.flatnonzero(chosen):
        cv2.flip(images[slot], 1, dst=images[slot])


@dataclass(eq=False)
class Loader:
    """Turns index arrays into batches. prefetch: batches made ahead of the one in use, beyond the one that each thread is working on. new: gives the
    memory of a batch, None takes pages of the host that are used again. out_of: images of the whole that these are a small part of.

    An unreadable image is replaced by the next readable one of its identity, recorded in `unreadable` (name -> reason)
    and named in a warning while few. UserError once more than `max_unreadable` (a share of all images, or of `out_of`) are found."""

    faces: Faces
    preprocess: Preprocess
    augment: Augment | None = None
    _: KW_ONLY
    num_workers: int = 2
    seed: int = 0
    max_unreadable: float = 0.0
    prefetch: int = 2
    new: NewImages | None = None
    out_of: int | None = None

    def __post_init__(self) -> None:
        self.new_images: NewImages = self.new or Buffers()
        self.unreadable: dict[str, str] = {}
        self._bad_indices: set[int] = set()
        self._lock = threading.Lock()
        self._order, self._start, self._count = identity_index(self.faces.labels)

    def draw(self, sampler: Sampler, share: Share) -> Iterator[Batch]:
        """The batches that the sampler makes of these faces."""
        indices = sampler.batches(
            self.faces.labels,
            batch_size=share.batch_size,
            num_batches=share.num_batches,
            epoch=share.epoch,
            seed=self.seed,
            rank=share.rank,
            world_size=share.world_size,
        )
        rest = islice(indices, share.first, None)
        return self.epoch(rest, epoch=share.epoch, rank=share.rank, first=share.first, origin=sampler.origin)

    def epoch(
        self,
        batches: Iterable[NDArray[np.int64]],
        *,
        epoch: int = 0,
        rank: int = 0,
        first: int = 0,
        origin: Callable[[int, int], tuple[int, int]] = lambda epoch, number: (epoch, number),
    ) -> Iterator[Batch]:
        """One batch for each index array, in order. Closing the iterator, or an error inside it, ends its threads
        before it returns. first: number of the first batch in its epoch. origin(epoch, number): (epoch, number) of the
        batch whose augmentation this one repeats."""

        def keyed() -> Iterator[tuple[tuple[int, ...], NDArray[np.int64]]]:
            for number, indices in enumerate(batches, first):
                first_epoch, first_number = origin(epoch, number)
                yield (self.seed, first_epoch, rank, first_number), indices

        waiting = keyed()
        if self.num_workers == 0:
            for key, indices in waiting:
                yield self._make(key, indices, threading.Event())
            return
        stop = threading.Event()
        pending: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="facenet-decode")
        try:
            for key, indices in islice(waiting, self.num_workers + self.prefetch):
                pending.append(pool.submit(self._make, key, indices, stop))
            while pending:
                batch = pending.popleft().result()
                for key, indices in islice(waiting, 1):
                    pending.append(pool.submit(self._make, key, indices, stop))
                yield batch
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _make(self, key: tuple[int, ...], indices: NDArray[np.int64], stop: threading.Event) -> Batch:
        height, width = self.preprocess.size
        images = self.new_images(len(indices), height, width, 3)
        pixels, after = images.numpy(), self.augment is not None and self.augment.after_preprocess
        flips = np.zeros(len(indices), bool)
        shown = np.array(indices, dtype=np.int64)
        for slot, index in enumerate(shown.tolist()):
            if stop.is_set():
                break  # nobody will look at this batch
            image, shown[slot] = self._load(index)
            if self.augment is not None and after:
                flips[slot] = self.augment.flips((*key, slot, index))
            elif self.augment is not None:
                image = self.augment(image, key=(*key, slot, index))
            pixels[slot] = self.preprocess(image)
        mirror_rows(pixels, flips)
        return Batch(images, torch.from_numpy(self.faces.labels[shown]), shown)

    def _load(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """The pixels and the index of the image, or of the one that stands in for it."""
        for candidate in self._stand_ins(index):
            if candidate in self._bad_indices:
                continue
            try:
                return self.faces.load(candidate), candidate
            except UnreadableImage as error:
                self._record(candidate, error)
        raise UserError("data: none of the images can be read")

    def _stand_ins(self, index: int) -> Iterator[int]:
        """The image itself, the others of its identity in order, then those of the next identities; so a triplet's
        anchor and positive move together when an identity has nothing readable."""
        yield index
        label = int(self.faces.labels[index])
        num_identities = len(self._count)
        own = self._order[self._start[label] : self._start[label] + self._count[label]]
        yield from np.roll(own, -int(np.searchsorted(own, index)))[1:].tolist()
        for step in range(1, num_identities):
            other = (label + step) % num_identities
            yield from self._order[self._start[other] : self._start[other] + self._count[other]].tolist()

    def _record(self, index: int, error: UnreadableImage) -> None:
        with self._lock:
            if index in self._bad_indices:
                return
            self._bad_indices.add(index)
            self.unreadable[error.name] = error.reason
            found, whole = len(self._bad_indices), self.out_of or len(self.faces)
            if found > self.max_unreadable * whole:
                raise UserError(
                    f"data: {found} of {whole} images cannot be read, "
                    f"more than data.max_unreadable={self.max_unreadable:g} allows; "
                    f"the last is {error.name} ({error.reason}); facenet-data audit names all; mend or remove them, or raise data.max_unreadable"
                ) from error
            if found <= NAMED_UNREADABLE:
                log.warning(
                    "unreadable image replaced by another of the same identity: %s (%s); data.max_unreadable limits how many",
                    error.name,
                    error.reason,
                )
            elif found == NAMED_UNREADABLE + 1:
                log.warning(
                    "more unreadable images follow; they are counted without being named, up to data.max_unreadable"
                )

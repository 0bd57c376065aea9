"""Batches out of shards that are read from front to back.

Where an image is in the order of an epoch follows from the index alone. In each epoch the shards are put in a new order and laid end to end; each
process reads its own stretch of that line, equal to one image, and at most two of its shards are also another's. An image then moves back by a random
distance below `window`, so that only as many are held while later ones are read.

B is the number of images of a batch of this process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facenet.data.feed.cached_loader import rows_in
from facenet.data.feed.loader import Batch, Loader, Share
from facenet.data.identities import Faces, Indices, Subset, UnreadableImage
from facenet.data.sampling.sampler import OWN, SHARED, Sampler
from facenet.data.shards.faces import ShardFaces


def stretch(bounds: Indices, order: Indices, rank: int, world_size: int) -> Indices:
    """The images that a process reads, in that order: its part of the shards laid end to end. bounds (S + 1,): first image of each shard, and N."""
    counts = np.diff(bounds)[order]
    ends = np.cumsum(counts)
    low, high = (int(ends[-1]) * part // world_size for part in (rank, rank + 1))
    parts = [np.empty(0, np.int64)]
    for shard, end, count in zip(order.tolist(), ends.tolist(), counts.tolist(), strict=True):
        start = end - count
        parts.append(bounds[shard] + np.arange(max(low, start), min(high, end), dtype=np.int64) - start)
    return np.concatenate(parts)


def draw_moved_order(num_images: int, window: int, rng: np.random.Generator) -> Indices:
    """A random order of 0 to num_images - 1 in which place p holds none beyond p + window, as a shuffle buffer of that size gives it; but the first
    places need no full buffer."""
    return np.argsort(np.arange(num_images) + window * rng.random(num_images), kind="stable")


class Stream:
    """The bytes of images, read by a thread in the order of `rows`, of which `limit` are held at a time; `take` waits for one."""

    def __init__(self, faces: ShardFaces, rows: Indices, limit: int) -> None:
        self.faces, self.rows, self.limit = faces, rows, limit
        self.held: dict[int, bytes] = {}
        self.error: Exception | None = None
        self.closed = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, name="facenet-shards", daemon=True)

    def take(self, row: int) -> bytes:
        """Returns the bytes of an image that nobody took before. Raises what ended the reading."""
        with self.changed:
            self.changed.wait_for(lambda: row in self.held or self.error is not None)
            if row not in self.held and self.error is not None:
                raise self.error
            self.changed.notify_all()
            return self.held.pop(row)

    def __enter__(self) -> Stream:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self.thread.join()

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:
            with self.changed:
                self.error = error
                self.changed.notify_all()

    def _read(self) -> None:
        shards = np.searchsorted(self.faces.first, self.rows, side="right") - 1
        starts = np.flatnonzero(np.diff(shards, prepend=-1))
        for rows in np.split(self.rows, starts[1:]):
            if not len(rows):
                return
            with self.faces.open(self.faces.shard_of(int(rows[0]))) as shard:
                for row in rows.tolist():
                    data = self.faces.read(shard, row)
                    with self.changed:
                        self.changed.wait_for(lambda: len(self.held) < self.limit or self.closed)
                        if self.closed:
                            return
                        self.held[row] = data
                        self.changed.notify_all()


@dataclass(eq=False, kw_only=True)
class ShardLoader(Loader):
    """The batches of a Loader in the order of the shards. faces: a part of what the shards hold. window: images that are held to mix them;
    0 leaves images and shards in their order.

    An unreadable image's stand-in is read from its place, like any image alone."""

    window: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.source = shards_of(self.faces)
        self.rows = rows_in(self.faces, self.source)
        self.bounds: Indices = np.searchsorted(self.rows, self.source.first).astype(np.int64)

    def draw(self, sampler: Sampler, share: Share) -> Iterator[Batch]:
        """In the shards' order, whatever the sampler. No image comes twice while num_batches x batch_size are at most all images. What was in earlier
        batches is not read."""
        order = np.arange(len(self.bounds) - 1)
        if self.window:
            order = np.random.default_rng([SHARED, self.seed, share.epoch]).permutation(len(order))
        reading = stretch(self.bounds, order, share.rank, share.world_size)
        own = np.random.default_rng([OWN, self.seed, share.epoch, share.rank])
        places = draw_moved_order(len(reading), self.window, own)
        local = share.batch_size // share.world_size
        wanted = places[share.first * local : share.num_batches * local]
        read = np.zeros(len(reading), bool)
        read[wanted] = True
        batches = reading[wanted].reshape(-1, local)
        # Each batch that may be in the making can lack all its images; with less the reader would wait for them, and they for it.
        limit = self.window + (self.num_workers + self.prefetch + 2) * local
        with Stream(self.source, self.rows[reading[read]], limit) as self.stream:
            yield from self.epoch(batches, epoch=share.epoch, rank=share.rank, first=share.first)

    def _load(self, index: int) -> tuple[NDArray[np.uint8], int]:
        row = int(self.rows[index])
        data = self.stream.take(row)
        if index not in self._bad_indices:
            try:
                return self.source.pixels(data, row), index
            except UnreadableImage as error:
                self._record(index, error)
        return super()._load(index)


def shards_of(faces: Faces) -> ShardFaces:
    """What a source of shards opened, of which `data.min_images` may leave a part."""
    while isinstance(faces, Subset):
        faces = faces.parent
    assert isinstance(faces, ShardFaces)
    return faces

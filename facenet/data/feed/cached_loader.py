"""Batches out of a raw cache: gathered, mirrored, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facenet.data.feed.loader import Batch, Loader, NewImages, mirror_rows
from facenet.data.feed.raw_cache import RawCache
from facenet.data.identities import Faces, Indices, Subset, UnreadableImage


class Images(Protocol):
    """Preprocessed images by row. `unreadable`: the reasons of those that there are none of."""

    unreadable: Mapping[int, str]

    def batch(self, rows: Indices, mirrored: NDArray[np.bool_]) -> Tensor:
        """(B, H, W, 3) uint8."""
        ...


class MappedImages:
    """Images in the file of the cache, or in the memory that holds its pages."""

    def __init__(self, cache: RawCache, new: NewImages) -> None:
        self.cache, self.new = cache, new
        self.unreadable: Mapping[int, str] = cache.unreadable

    def batch(self, rows: Indices, mirrored: NDArray[np.bool_]) -> Tensor:
        images = self.new(len(rows), *self.cache.images.shape[1:])
        pixels: NDArray[np.uint8] = images.numpy()
        self.cache.take(rows, pixels)
        mirror_rows(pixels, mirrored)
        return images


class ResidentImages:
    """All of them on a device; a batch never leaves it."""

    def __init__(self, cache: RawCache, device: torch.device, *, num_threads: int) -> None:
        self.images = torch.empty(cache.images.shape, dtype=torch.uint8, device=device)
        self.unreadable: Mapping[int, str] = cache.unreadable

        def put(start: int, block: NDArray[np.uint8]) -> None:
            self.images[start : start + len(block)].copy_(torch.from_numpy(block.copy()))

        cache.read_all(put, num_threads=num_threads)

    def batch(self, rows: Indices, mirrored: NDArray[np.bool_]) -> Tensor:
        images = self.images.index_select(0, torch.from_numpy(rows).to(self.images.device))
        if not mirrored.any():
            return images
        chosen = torch.from_numpy(mirrored).to(self.images.device)
        return torch.where(chosen[:, None, None, None], images.flip(2), images)


@dataclass(eq=False, kw_only=True)
class CachedLoader(Loader):
    """The batches of a Loader, to the last bit, for an augmentation that acts after the preprocessing.

    `source`: the faces that `images` are of, of which `faces` are a part."""

    source: Faces
    images: Images

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rows, unreadable = rows_in(self.faces, self.source), self.images.unreadable
        for index in np.flatnonzero(np.isin(self.rows, list(unreadable))).tolist():
            self._record(index, UnreadableImage(self.faces.name(index), unreadable[int(self.rows[index])]))

    def _make(self, key: tuple[int, ...], indices: Indices, stop: threading.Event) -> Batch:
        asked = np.array(indices, dtype=np.int64)
        shown = asked
        if self._bad_indices:
            readable = (self._stand_ins(index) for index in asked.tolist())
            shown = np.array([next(one for one in each if one not in self._bad_indices) for each in readable], np.int64)
        mirrored = np.zeros(len(asked), bool)
        if self.augment is not None:
            mirrored[:] = [self.augment.flips((*key, slot, index)) for slot, index in enumerate(asked.tolist())]
        labels = torch.from_numpy(self.faces.labels[shown])
        return Batch(self.images.batch(self.rows[shown], mirrored), labels, shown)


def rows_in(faces: Faces, source: Faces) -> Indices:
    """(N,): which image of the source each of these is."""
    if faces is source:
        return np.arange(len(source), dtype=np.int64)
    if not isinstance(faces, Subset):
        raise ValueError(f"{type(faces).__name__} is no part of the source")
    rows: Indices = rows_in(faces.parent, source)[faces.indices]
    return rows

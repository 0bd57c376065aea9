"""A picture of the first batch that a run trains on, as the network sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from facenet.data.feed.loader import Batch
from facenet.engine.observer import Observer
from facenet.files.picture import save_pixels, tile
from facenet.files.run_dir import RunDir

MOST = 24  # images
COLUMNS = 6
SIDE = 512  # pixels of an image; of 4096 a picture would take minutes and gigabytes


class BatchPicture(Observer):
    """Draws up to MOST images after augmentation, before they become numbers about 0. Of a batch of triplets a row holds two of them, each as
    anchor, positive and negative. 24 images of 160 pixels take some 40 ms, once in a run."""

    def __init__(self, run_dir: Path, *, triplets: bool) -> None:
        self.path, self.triplets, self.done = RunDir(run_dir).first_batch, triplets, False

    @contextmanager
    def watching(self, batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
        yield self.seen(batches)

    def seen(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if not self.done:
                self.done = True
                thin = -(-max(batch.images.shape[1:3]) // SIDE)
                rows = rows_to_draw(len(batch.images), triplets=self.triplets)
                images = batch.images[:, ::thin, ::thin][rows].cpu().numpy()
                save_pixels(self.path, tile(list(images), COLUMNS))
            yield batch


def rows_to_draw(size: int, *, triplets: bool) -> torch.Tensor:
    """The rows of a batch in the order in which they are drawn: the thirds of triplets side by side."""
    rows = torch.arange(size)
    return (rows.view(3, -1).T.reshape(-1) if triplets else rows)[:MOST]

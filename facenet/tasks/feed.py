"""The batches that one rank trains and validates on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from facenet.data.identities import Faces
from facenet.data.loader import Batch, Loader
from facenet.data.sampler import Sampler
from facenet.data.source import Data
from facenet.data.transforms import Augment, Preprocess
from facenet.tasks.plan import Material, Plan


class Feed:
    """The batches of this rank, by epoch."""

    def __init__(
        self,
        material: Material,
        plan: Plan,
        data: Data,
        sampler: Sampler,
        preprocess: Preprocess,
        augment: Augment,
        *,
        seed: int,
        rank: int,
    ) -> None:
        self.material, self.plan, self.sampler, self.seed, self.rank = material, plan, sampler, seed, rank
        options: dict[str, Any] = {"num_workers": data.num_workers, "seed": seed, "max_unreadable": data.max_unreadable}
        self.loader = Loader(material.train, preprocess, augment, **options)
        self.val_loader = Loader(material.val, preprocess, **options)

    def train(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """From batch number `first` of the epoch on."""
        count = self.plan.steps_per_epoch * self.plan.accumulate
        indices = self.indices(self.material.train, self.plan.images_per_step // self.plan.accumulate, count, epoch)
        rest = islice(indices, first, None)
        return self.loader.epoch(rest, epoch=epoch, rank=self.rank, first=first, origin=self.sampler.origin)

    def val(self) -> Iterator[Batch]:
        """The same batches after every epoch."""
        return self.val_loader.epoch(
            self.indices(self.material.val, self.plan.val_batch_size, self.plan.num_val_batches, 0), rank=self.rank
        )

    def indices(self, faces: Faces, batch_size: int, num_batches: int, epoch: int) -> Iterator[Any]:
        return self.sampler.batches(
            faces.labels,
            batch_size=batch_size,
            num_batches=num_batches,
            epoch=epoch,
            seed=self.seed,
            rank=self.rank,
            world_size=self.plan.num_processes,
        )

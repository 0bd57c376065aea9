"""The batches that one rank trains and validates on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from facenet.data.feed.buffers import Buffers
from facenet.data.feed.cached_loader import CachedLoader, Images, MappedImages, ResidentImages
from facenet.data.feed.choice import Need, Room, choose, free_disk, free_memory
from facenet.data.feed.loader import Batch, Loader, NewImages
from facenet.data.feed.raw_cache import RawCache, Stopped, cache_bytes, cache_place, exists_or_comes, open_cache
from facenet.data.identities import Faces, Subset
from facenet.data.shards.faces import ShardFaces
from facenet.data.shards.loader import ShardLoader
from facenet.data.source import ShardData
from facenet.devices.accelerator import Accelerator
from facenet.errors import UserError
from facenet.files.cache_dir import cache_dir
from facenet.files.home import expand_home
from facenet.tasks.plan import Material, Plan
from facenet.tasks.progress import image_bar
from facenet.tasks.recipe import Recipe

log = logging.getLogger(__name__)


class Feed:
    """The batches of this rank, by epoch. accelerator: offers memory for batches and may hold the images; None takes the host's. stop: asked
    while a cache is made."""

    def __init__(
        self,
        material: Material,
        plan: Plan,
        recipe: Recipe,
        *,
        rank: int,
        accelerator: Accelerator | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.material, self.plan, self.rank, self.accelerator, self.stop = material, plan, rank, accelerator, stop
        self.sampler, self.seed = recipe.sampler, recipe.seed
        self.data, self.preprocess, self.augment = recipe.data, recipe.preprocess, recipe.augment
        data, preprocess, augment = self.data, self.preprocess, self.augment
        self.new: NewImages = (accelerator and accelerator.pinned_memory()) or Buffers()
        self.kind, cached = self.chosen()
        self.loader: Loader
        self.val_loader: Loader
        options: dict[str, Any] = {
            "num_workers": data.num_workers,
            "seed": recipe.seed,
            "max_unreadable": data.max_unreadable,
        }
        out_of = len(material.source)  # of a hundred images that validate, none might be unreadable
        if isinstance(data, ShardData):
            options |= {"source": shards_of(material.source), "new": self.new}
            self.loader = ShardLoader(material.train, preprocess, augment, **options, window=data.shuffle_buffer)
            self.val_loader = ShardLoader(material.val, preprocess, **options, window=0, out_of=out_of)
        elif cached is None:
            self.loader = Loader(material.train, preprocess, augment, **options, new=self.new)
            self.val_loader = Loader(material.val, preprocess, **options, new=self.new, out_of=out_of)
        else:
            cache, images = cached
            options |= {"source": material.source, "cache": cache, "images": images}
            self.loader = CachedLoader(material.train, preprocess, augment, **options)
            self.val_loader = CachedLoader(material.val, preprocess, **options, out_of=out_of)

    def chosen(self) -> tuple[str, tuple[RawCache, Images] | None]:
        """files, shards, disk, ram or device, and for the last three the cache and its images. What was not asked for by name ends no run."""
        if isinstance(self.data, ShardData):
            log.info("feed shards (read in order, %d images held to mix them)", self.data.shuffle_buffer)
            return "shards", None
        if self.data.feed == "files":
            return "files", None
        try:
            kind, why = choose(self.data.feed, *self.sizes())
            log.info("feed %s (%s)", kind, why)
            return kind, None if kind == "files" else self.open_raw_cache(kind)
        except Stopped:
            return "files", None
        except UserError as error:
            if self.data.feed != "auto":
                raise
            log.warning("feed files: %s", error)
            return "files", None

    @cached_property
    def place(self) -> Path | None:
        """Place of the cache; None where nothing can be kept."""
        folder = expand_home(self.data.cache_dir) if self.data.cache_dir else cache_dir()
        if folder is None:
            return None
        folder = folder if self.data.cache_dir else folder / "raw"
        return cache_place(self.material.source, self.preprocess, folder)

    def sizes(self) -> tuple[Need, Room]:
        obstacle = None if self.augment.after_preprocess else "augment.pipeline changes images before they are resized"
        shown, source = self.plan.total_steps * self.plan.images_per_step, self.material.source
        place = self.place if obstacle is None else None
        kept = place is not None and exists_or_comes(place)
        device = self.accelerator.free_memory() if self.accelerator else None
        need = Need(cache_bytes(source, self.preprocess), shown / len(source), kept, obstacle)
        return need, Room(free_disk(place.parent) if place is not None else 0, free_memory(), device)

    def open_raw_cache(self, kind: str) -> tuple[RawCache, Images]:
        source, threads = self.material.source, max(1, self.data.num_workers)
        if self.place is None:
            raise UserError("data.cache_dir: there is no home directory that can be written; set it or FACENET_CACHE")
        with image_bar(len(source), shown=self.rank == 0) as progress:
            cache = open_cache(
                source, self.preprocess, self.place, num_threads=threads, progress=progress, stop=self.stop
            )
        if kind == "device":
            device = self.accelerator.device if self.accelerator else torch.empty(0).device
            return cache, ResidentImages(cache, device, num_threads=threads)
        if kind == "ram":
            cache.read_all(lambda start, images: None, num_threads=threads)
        return cache, MappedImages(cache, self.new)

    def train(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """Yields training batches, from batch number `first` of the epoch on."""
        count = self.plan.steps_per_epoch * self.plan.accumulate
        size = self.plan.images_per_step // self.plan.accumulate
        if isinstance(self.loader, ShardLoader):
            return self.passage(self.loader, size, count, epoch, first=first)
        indices = self.indices(self.material.train, size, count, epoch)
        rest = islice(indices, first, None)
        return self.loader.epoch(rest, epoch=epoch, rank=self.rank, first=first, origin=self.sampler.origin)

    def val(self) -> Iterator[Batch]:
        """Yields validation batches, the same ones after every epoch."""
        if isinstance(self.val_loader, ShardLoader):
            return self.passage(self.val_loader, self.plan.val_batch_size, self.plan.num_val_batches, 0)
        return self.val_loader.epoch(
            self.indices(self.material.val, self.plan.val_batch_size, self.plan.num_val_batches, 0), rank=self.rank
        )

    def passage(
        self, loader: ShardLoader, batch_size: int, num_batches: int, epoch: int, *, first: int = 0
    ) -> Iterator[Batch]:
        return loader.passage(
            batch_size=batch_size,
            num_batches=num_batches,
            epoch=epoch,
            rank=self.rank,
            world_size=self.plan.num_processes,
            first=first,
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


def shards_of(faces: Faces) -> ShardFaces:
    """Returns the shards that a source opened, of which `data.min_images` may leave a part."""
    while isinstance(faces, Subset):
        faces = faces.parent
    assert isinstance(faces, ShardFaces)
    return faces

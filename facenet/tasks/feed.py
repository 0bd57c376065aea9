"""The batches that one rank trains and validates on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import torch

from facenet.data.feed.buffers import Buffers
from facenet.data.feed.cached_loader import CachedLoader, Images, MappedImages, ResidentImages
from facenet.data.feed.choice import Need, Room, choose, free_disk, free_memory
from facenet.data.feed.loader import Batch, Loader, NewImages, Share
from facenet.data.feed.raw_cache import Stopped, cache_bytes, cache_place, exists_or_comes, open_cache
from facenet.data.identities import Faces
from facenet.data.transforms import Augment
from facenet.devices.accelerator import Accelerator
from facenet.errors import UserError
from facenet.files.cache_dir import cache_dir
from facenet.files.home import expand_home
from facenet.tasks.numbers import Plan
from facenet.tasks.plan import Material
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
        self.sampler = recipe.sampler
        self.place_of_rank = {"rank": rank, "world_size": plan.machine.num_processes}
        self.data, self.preprocess, self.augment = recipe.data, recipe.preprocess, recipe.augment
        self.seed = recipe.seed
        self.new: NewImages = (accelerator and accelerator.pinned_memory()) or Buffers()
        self.kind, self.images = self.chosen()
        self.loader = self.loader_of(material.train, self.augment)
        # Of the whole: of a hundred, none might be unreadable.
        self.val_loader = self.loader_of(material.val, out_of=len(material.source))

    def loader_of(self, faces: Faces, augment: Augment | None = None, *, out_of: int | None = None) -> Loader:
        if self.images is None:
            return self.data.loader(faces, self.preprocess, augment, seed=self.seed, new=self.new, out_of=out_of)
        return CachedLoader(
            faces,
            self.preprocess,
            augment,
            source=self.material.source,
            images=self.images,
            num_workers=self.data.num_workers,
            seed=self.seed,
            max_unreadable=self.data.max_unreadable,
            out_of=out_of,
        )

    def chosen(self) -> tuple[str, Images | None]:
        """files, shards, disk, ram or device, and for the last three the images of a cache. What was not asked for by name ends no run."""
        if self.data.in_order:
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
        shown, source = self.plan.steps.total_steps * self.plan.batches.images_per_step, self.material.source
        place = self.place if obstacle is None else None
        kept = place is not None and exists_or_comes(place)
        device = self.accelerator.free_memory() if self.accelerator else None
        need = Need(cache_bytes(source, self.preprocess), shown / len(source), kept, obstacle)
        return need, Room(free_disk(place.parent) if place is not None else 0, free_memory(), device)

    def open_raw_cache(self, kind: str) -> Images:
        source, threads = self.material.source, max(1, self.data.num_workers)
        if self.place is None:
            raise UserError("data.cache_dir: there is no home directory that can be written; set it or FACENET_CACHE")
        with image_bar(len(source), shown=self.rank == 0) as progress:
            cache = open_cache(
                source, self.preprocess, self.place, num_threads=threads, progress=progress, stop=self.stop
            )
        if kind == "device":
            device = self.accelerator.device if self.accelerator else torch.empty(0).device
            return ResidentImages(cache, device, num_threads=threads)
        if kind == "ram":
            cache.read_all(lambda start, images: None, num_threads=threads)
        return MappedImages(cache, self.new)

    def train(self, epoch: int, *, first: int = 0) -> Iterator[Batch]:
        """From batch number `first` of the epoch on."""
        parts, steps = self.plan.batches.accumulate, self.plan.steps.steps_per_epoch
        sizes = {"batch_size": self.plan.batches.images_per_step // parts, "num_batches": steps * parts}
        return self.loader.draw(self.sampler, Share(**sizes, **self.place_of_rank, epoch=epoch, first=first))

    def val(self) -> Iterator[Batch]:
        """The same batches after every epoch."""
        sizes = {"batch_size": self.plan.batches.val_batch_size, "num_batches": self.plan.batches.num_val_batches}
        return self.val_loader.draw(self.sampler, Share(**sizes, **self.place_of_rank))

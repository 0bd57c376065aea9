"""Files to batches of pixels, against the reference's loader, webdataset and albumentations. Goals 1 (its loader side) and 2.

A row for another way to feed is one more `Candidate` in `candidates`, a check in `check_pixels` if it makes pixels of its own.
"""

from __future__ import annotations

import io
import itertools
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.context import Context, Outcome, require
from bench.faces import casia_index
from bench.goals import Goal
from bench.rounds import Candidate, Table, measure, num_cores
from facenet.data.feed.buffers import Buffers
from facenet.data.feed.cached_loader import CachedLoader, MappedImages
from facenet.data.feed.loader import Loader, Share
from facenet.data.feed.raw_cache import RawCache, open_cache
from facenet.data.files.pack import pack_folder
from facenet.data.files.record_faces import RecordFaces
from facenet.data.identities import Faces, FolderFaces, ImageList, read_image
from facenet.data.sampling.sampler import ShuffleSampler, TripletSampler
from facenet.data.shards.faces import ShardFaces
from facenet.data.shards.loader import ShardLoader
from facenet.data.shards.writing import write_shards
from facenet.data.transforms import Augment, Preprocess

BATCH = 96
PREPROCESS = Preprocess(size=[160, 160])
FLIP = Augment(flip=0.5)
PIXELS = 160 * 160 * 3  # bytes of an image


def run(context: Context) -> Outcome:
    faces = FolderFaces(context.faces)
    floor = context.limits["decode_s"] + context.limits["resize_s"]
    packed, cache = packed_faces(context, faces), raw_cache(faces, context.scratch / "raw")
    notes = [
        check_pixels(context, faces),
        check_ways(faces, packed, cache),
        f"limit: one decode and one resize, {floor * 1e6:.0f} us; of the cache, one copy of the pixels",
    ]
    batches = 1 if context.quick else 4
    table = measure(
        "data",
        "Files to batches of 96",
        "image",
        candidates(context, faces, batches, floor) + other_ways(context, faces, packed, cache, batches, floor),
        rounds=context.rounds,
        notes=notes,
    )
    sampling = sampling_cost(context)
    return Outcome([table, sampling], goals(table, sampling), {"bytes per image to the device": bytes_per_image(faces)})


def candidates(context: Context, faces: FolderFaces, batches: int, floor: float) -> list[Candidate]:
    def add(name: str, work: Callable[[], Any], limit: float | None = None) -> None:
        found.append(Candidate(name, work, batches * BATCH, limit))

    found: list[Candidate] = []
    long_paths, long_labels = casia_index([faces.name(index) for index in range(len(faces))])
    many = ImageList(long_paths, long_labels, [str(label) for label in range(long_labels.max() + 1)])
    if context.peers.reference("utils.dataloader") is not None:
        add("reference, no workers", lambda: take(reference_batches(context, faces, 0), batches))
        add("reference, 2 workers", lambda: take(reference_batches(context, faces, 2), batches))
        add("reference, no workers, CASIA-size index", lambda: take(reference_batches(context, many, 0), batches))
    if context.peers.library("albumentations") is not None:
        add("cv2 + albumentations, uint8", lambda: albumentations_batches(faces, batches))
    if context.peers.library("webdataset") is not None:
        tar = write_tar(faces, context.scratch / "faces.tar")
        add("webdataset tar + cv2 area, uint8", lambda: take(webdataset_batches(tar), batches))
    add("facenet, in the training thread", lambda: take(our_batches(faces, 0, batches), batches), floor)
    add("facenet, 2 threads", lambda: take(our_batches(faces, 2, batches), batches), floor)
    add("facenet, CASIA-size index", lambda: take(our_batches(many, 0, batches), batches), floor)
    return found


def other_ways(
    context: Context, faces: FolderFaces, packed: RecordFaces, cache: RawCache, batches: int, floor: float
) -> list[Candidate]:
    """Tar shards, a pack, a raw cache, and the making of one. Batches from a cache are so cheap that 50 times as many are timed."""
    copy = PIXELS / context.limits["copy_bytes_per_s"]

    def build() -> None:
        place = context.scratch / "rebuilt"
        shutil.rmtree(place, ignore_errors=True)
        raw_cache(faces, place)

    shards: list[Candidate] = []
    if context.peers.library("webdataset") is not None:
        written = ShardFaces(str(tar_shards(faces, context.scratch / "shards")))
        shards = [
            Candidate(
                "facenet, tar shards", lambda: take(shard_batches(written, batches), batches), batches * BATCH, floor
            )
        ]
    return [
        *shards,
        Candidate("facenet, pack", lambda: take(our_batches(packed, 0, batches), batches), batches * BATCH, floor),
        Candidate(
            "facenet, raw cache",
            lambda: take(cached_batches(faces, cache, 50 * batches), 50 * batches),
            50 * batches * BATCH,
            copy,
        ),
        Candidate("facenet, making the raw cache", build, len(faces), floor),
    ]


def packed_faces(context: Context, faces: FolderFaces) -> RecordFaces:
    place = context.scratch / "pack"
    if not place.exists():
        pack_folder(faces, place)
    return RecordFaces(place)


def tar_shards(faces: FolderFaces, place: Path) -> Path:
    write_shards(faces, place, images_per_shard=1000)
    return place


def raw_cache(faces: FolderFaces, place: Path) -> RawCache:
    return open_cache(faces, PREPROCESS, place, num_threads=1)


def cached_batches(faces: FolderFaces, cache: RawCache, batches: int) -> Iterator[Any]:
    images = MappedImages(cache, Buffers())
    loader = CachedLoader(faces, PREPROCESS, FLIP, source=faces, images=images, num_workers=0)
    return loader.epoch(triplets_of(faces, batches))


def triplets_of(faces: Faces, batches: int) -> Iterator[Any]:
    return TripletSampler().batches(
        faces.labels, batch_size=BATCH, num_batches=batches, epoch=0, seed=0, rank=0, world_size=1
    )


def check_ways(faces: FolderFaces, packed: RecordFaces, cache: RawCache) -> str:
    """Bit for bit the same batch."""
    first, *others = (
        next(iter(batches)).images
        for batches in (our_batches(faces, 0, 1), our_batches(packed, 0, 1), cached_batches(faces, cache, 1))
    )
    require(all(torch.equal(first, other) for other in others), "a pack or a raw cache has other pixels than the files")
    return "pack and raw cache bit for bit the files' batch"


def take(batches: Iterator[Any], count: int) -> None:
    for _ in itertools.islice(batches, count):
        pass


def our_batches(faces: Faces, num_workers: int, batches: int) -> Iterator[Any]:
    return Loader(faces, PREPROCESS, FLIP, num_workers=num_workers).epoch(triplets_of(faces, batches))


def shard_batches(faces: ShardFaces, batches: int) -> Iterator[Any]:
    loader = ShardLoader(faces, PREPROCESS, FLIP, window=10_000, num_workers=0)
    return loader.draw(ShuffleSampler(), Share(batch_size=BATCH, num_batches=batches))


def reference_batches(context: Context, faces: ImageList, num_workers: int) -> Iterator[Any]:
    module = context.peers.reference("utils.dataloader")
    lines = REFERENCE_LINES.setdefault(
        id(faces),
        [f"{a};{b}\n" for a, b in zip(faces.labels, [faces.name(index) for index in range(len(faces))], strict=True)],
    )
    key = (id(faces), "dataset")
    if key not in REFERENCE_DATASETS:  # it parses its lines once per run
        REFERENCE_DATASETS[key] = module.FacenetDataset([160, 160, 3], lines, len(faces.identities), random=True)
    loader = torch.utils.data.DataLoader(
        REFERENCE_DATASETS[key],
        batch_size=BATCH // 3,
        shuffle=True,
        num_workers=num_workers,
        pin_memory=False,
        drop_last=True,
        collate_fn=module.dataset_collate,
    )
    while True:
        yield from loader


REFERENCE_LINES: dict[int, list[str]] = {}
REFERENCE_DATASETS: dict[Any, Any] = {}


def albumentations_batches(faces: FolderFaces, batches: int) -> None:
    import albumentations
    import cv2

    change = albumentations.Compose([albumentations.Resize(160, 160, cv2.INTER_AREA), albumentations.HorizontalFlip()])
    for number in range(batches):
        paths = (faces.name((number * BATCH + slot) % len(faces)) for slot in range(BATCH))
        torch.from_numpy(
            np.stack([change(image=cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB))["image"] for path in paths])
        )


def write_tar(faces: FolderFaces, path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for number, (source, label) in enumerate(
            zip([faces.name(index) for index in range(len(faces))], faces.labels, strict=True)
        ):
            for suffix, data in (("jpg", Path(source).read_bytes()), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"{number:06d}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return path


def webdataset_batches(tar: Path) -> Iterator[Any]:
    import cv2
    import webdataset

    def pixels(data: bytes) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        return cv2.resize(image, (160, 160), interpolation=cv2.INTER_AREA)

    data = webdataset.WebDataset(str(tar), shardshuffle=False).repeat().to_tuple("jpg", "cls")
    return iter(data.map_tuple(pixels, int).batched(BATCH))


def check_pixels(context: Context, faces: FolderFaces) -> str:
    """Within 2 of 255 of what the reference feeds, on 24 images."""
    module = context.peers.reference("utils.utils")
    if module is None:
        return "pixels not compared: no reference"
    from PIL import Image

    worst = 0
    for path in [faces.name(index) for index in range(24)]:
        theirs = np.asarray(module.resize_image(module.cvtColor(Image.open(path)), [160, 160], letterbox_image=True))
        worst = max(worst, int(np.abs(theirs.astype(int) - PREPROCESS(read_image(path)).astype(int)).max()))
    require(worst <= 2, f"pixels differ from the reference's by {worst} of 255")
    return f"pixels within {worst} of 255 of the reference's"


def sampling_cost(context: Context) -> Table:
    """Of one batch's indices from sets of 4,000 and of 490,623 images, the grouping by identity left out."""
    small = np.sort(np.arange(4_000) % 200)
    large = casia_index(["x"])[1]
    count = 200

    def draws(labels: np.ndarray, batches: int) -> Callable[[], None]:
        def work() -> None:
            take(
                TripletSampler().batches(
                    labels, batch_size=BATCH, num_batches=batches + 1, epoch=0, seed=0, rank=0, world_size=1
                ),
                batches,
            )

        return work

    # The grouping happens once an epoch: the same in `steps` of few and of many batches, so 4,000 batches bury it.
    steps = count if context.quick else 4_000
    return measure(
        "data",
        "Sampling triplets",
        "image",
        [
            Candidate("4,000 images", draws(small, steps), steps * BATCH),
            Candidate("490,623 images", draws(large, steps), steps * BATCH),
        ],
        rounds=context.rounds,
    )


def bytes_per_image(faces: FolderFaces) -> float:
    batch = next(our_batches(faces, 0, 1))
    return batch.images.numel() * batch.images.element_size() / len(batch.images)


def goals(table: Table, sampling: Table) -> list[Goal]:
    names = {row.name for row in table.rows}

    def against(base: str, ours: str, *, wall: bool) -> float | None:
        if base not in names or table.noisy:
            return None
        # By the pairs of one round: medians are of other moments where the clock changes.
        one, two = ((row.wall_ratio if wall else row.ratio) or 1.0 for row in (table.row(base), table.row(ours)))
        return two / one

    threads, alone = "facenet, 2 threads", "facenet, in the training thread"
    grown = sampling.row("490,623 images").ratio
    decode = "bicubic as Pillow's, and one Python call per stage and image"
    gather = "memory bandwidth; triplets are drawn, images mirrored one by one"
    return [
        Goal(
            "2.1",
            f"JPEG path, wall against 2 workers on {num_cores()} cores",
            4.5,
            against("reference, 2 workers", threads, wall=True),
            limit=decode,
        ),
        Goal(
            "2.2",
            "JPEG path, CPU against no workers",
            3.7,
            against("reference, no workers", alone, wall=False),
            limit=decode,
        ),
        Goal(
            "2.3",
            "JPEG path at CASIA size, CPU",
            5.3,
            against("reference, no workers, CASIA-size index", "facenet, CASIA-size index", wall=False),
            limit=decode,
        ),
        Goal(
            "2.4",
            "against webdataset + cv2, CPU",
            1.5,
            against("webdataset tar + cv2 area, uint8", alone, wall=False),
            limit=decode,
        ),
        Goal(
            "2.5",
            "against cv2 + albumentations, CPU",
            1.35,
            against("cv2 + albumentations, uint8", alone, wall=False),
            limit=decode,
        ),
        Goal("2.6", "share of the decode + resize floor", 0.85, table.row(alone).of_limit, limit=decode),
        Goal(
            "3.1",
            "raw cache, CPU against no workers",
            150,
            against("reference, no workers", "facenet, raw cache", wall=False),
            limit=gather,
        ),
        Goal(
            "3.2",
            "raw cache, wall against 2 workers",
            100,
            against("reference, 2 workers", "facenet, raw cache", wall=True),
            limit=gather,
        ),
        Goal(
            "3.3",
            "raw cache, share of the speed of a copy",
            0.5,
            table.row("facenet, raw cache").of_limit,
            limit=gather,
        ),
        Goal(
            "3.4",
            "making the raw cache, CPU against the JPEG path",
            0.85,
            against(alone, "facenet, making the raw cache", wall=False),
            limit="writing pages and their checksums",
        ),
        Goal(
            "2.7",
            "sampling at 490,623 images against 4,000, CPU",
            1.05,
            None if grown is None else 1 / grown,
            at_most=True,
            limit="cache misses of a larger index; its grouping, once an epoch",
        ),
    ]

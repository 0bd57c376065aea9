"""The choices of the config group `data`: where faces come from and how many go together."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.feed.choice import KINDS, FeedKind
from facenet.data.files.annotation import read_annotation
from facenet.data.files.decode import Decode, way_to_read
from facenet.data.files.record_faces import RecordFaces
from facenet.data.identities import Faces, FolderFaces, with_min_images
from facenet.data.shards.faces import ShardFaces
from facenet.errors import UserError, check_least
from facenet.files.home import expand_home
from facenet.files.typed import override, quoted

if TYPE_CHECKING:
    from facenet.data.feed.loader import Loader, NewImages
    from facenet.data.transforms import Augment, Preprocess

log = logging.getLogger(__name__)
DEEPEST = 5  # folders below an identity's


@dataclass(frozen=True, kw_only=True)
class Data:
    """What every source has.

    batch_size: images per optimizer step over all processes. image_size: side of the network's input in pixels.
    num_workers: decoding threads per process, 0 decodes in the training thread. val_images: share of images held out
    for the validation loss. val_identities: share of identities held out for test pairs; None takes 0.1 where the
    benchmark draws pairs from them, else 0. max_unreadable: share of images that may be unreadable before a run stops.
    min_images: identities with fewer images are left out. feed: where batches come from: the files, or a cache of preprocessed images on disk,
    in memory or on the device; auto picks by size. cache_dir: where that cache is kept; None takes $FACENET_CACHE/raw or ~/.cache/facenet/raw."""

    in_order: ClassVar[bool] = False
    """True where images are read in an order of the source's own, whatever the sampler, and are not cached."""
    place_key: ClassVar[str] = ""
    """The key that says where images are read from; empty for what is drawn."""

    batch_size: int = 96
    image_size: int = 160
    num_workers: int = 2
    val_images: float = 0.01
    val_identities: float | None = None
    max_unreadable: float = 0.01
    min_images: int = 1
    feed: FeedKind = "auto"
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        for key, lowest in (("batch_size", 1), ("image_size", 1), ("num_workers", 0), ("min_images", 1)):
            check_least(f"data.{key}", getattr(self, key), lowest)
        if self.feed not in KINDS:
            raise UserError(f"data.feed: expected one of {', '.join(KINDS)}, got {self.feed!r}")
        for key in ("val_images", "val_identities", "max_unreadable"):
            share = getattr(self, key)
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"data.{key}: expected a share in [0, 1], got {share}")

    def open(self) -> Faces:
        """The labelled images; UserError when there is nothing to train on."""
        raise NotImplementedError

    @property
    def location(self) -> str | None:
        """Where they are read from; None for what is drawn."""
        return str(getattr(self, self.place_key)) if self.place_key else None

    def opened(self, make: Callable[[], Faces], named: str = "") -> Faces:
        """What `make` opens, without identities of few images. Raises UserError with what it refuses, behind `named`, and with a way out."""
        try:
            faces = make()
        except UserError as error:
            raise UserError(f"{named}{error}{way_out(self.place_key, str(self.location))}") from error
        return with_min_images(faces, self.min_images)

    def loader(
        self,
        faces: Faces,
        preprocess: Preprocess,
        augment: Augment | None = None,
        *,
        seed: int,
        new: NewImages | None = None,
        out_of: int | None = None,
    ) -> Loader:
        """A loader that makes batches of these faces, a part of what `open` gave. augment: None where nothing is trained on them. new: gives memory
        of the host for a batch of uint8; None takes pages that are used again. out_of: number of images that `faces` are a small part of."""
        return self.loads(training=augment is not None)(
            faces,
            preprocess,
            augment,
            num_workers=self.num_workers,
            seed=seed,
            max_unreadable=self.max_unreadable,
            new=new,
            out_of=out_of,
        )

    def loads(self, *, training: bool) -> Callable[..., Loader]:
        """The class of `loader`, or what calls it; training: whether batches are trained on."""
        from facenet.data.feed.loader import Loader  # and with it torch

        return Loader


@dataclass(frozen=True, kw_only=True)
class FileData(Data):
    """max_pixels, orientation, alpha: how files become pixels, see `facenet.data.files.decode`."""

    max_pixels: int = Decode.max_pixels
    orientation: bool = Decode.orientation
    alpha: Literal["drop", "white", "black"] = Decode.alpha

    def __post_init__(self) -> None:
        super().__post_init__()
        self.decode()

    def decode(self) -> Decode:
        return Decode(max_pixels=self.max_pixels, orientation=self.orientation, alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class FolderData(FileData):
    """A folder of images, root/<identity>/<image>. depth: 2 where an identity's images are in folders of its folder."""

    place_key: ClassVar[str] = "root"
    root: str
    depth: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.depth <= DEEPEST:
            raise UserError(f"data.depth: expected 1 to {DEEPEST}, got {self.depth}")

    def open(self) -> Faces:
        return self.opened(self.open_folder, "data.root: ")

    def open_folder(self) -> FolderFaces:
        """The images of the folder; what else lies in it is told."""
        faces = FolderFaces(self.root, self.decode(), self.depth)
        if faces.left_out:
            way = way_to_read(faces.index.left_out)
            log.warning("%s: not images of an identity and left out: %s%s", faces.root, faces.left_out, way)
        return faces


@dataclass(frozen=True, kw_only=True)
class AnnotationData(FileData):
    """The images of an annotation file, `list`, as `facenet-data annotate` writes it. within: folder that every image must lie in, links
    followed; for a list from somebody else."""

    place_key: ClassVar[str] = "list"
    list: str
    within: str | None = None

    def open(self) -> Faces:
        return self.opened(lambda: read_annotation(self.list, within=self.within, decode=self.decode()))


@dataclass(frozen=True, kw_only=True)
class RecordData(Data):
    """A pack of insightface or of `facenet-data pack`. path: the folder that holds train.rec, or a .rec file."""

    place_key: ClassVar[str] = "path"
    path: str

    def open(self) -> Faces:
        return self.opened(lambda: RecordFaces(self.path), "data.path: ")


@dataclass(frozen=True, kw_only=True)
class ShardData(FileData):
    """Tar shards, read from front to back: a folder or http(s) address that `facenet-data shard` filled, or a pattern of .tar files.
    shuffle_buffer: images that a process holds to mix them, as files; 1 mixes only the order of shards."""

    in_order: ClassVar[bool] = True
    place_key: ClassVar[str] = "shards"
    shards: str
    shuffle_buffer: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least("data.shuffle_buffer", self.shuffle_buffer)
        if self.feed not in ("auto", "files"):
            raise UserError(
                f"data.feed={self.feed}: shards are read in order and not cached; leave it at auto, or use data=record"
            )

    def loads(self, *, training: bool) -> Callable[..., Loader]:
        """A loader that mixes the images within the shuffle buffer where something is trained on them."""
        from facenet.data.shards.loader import ShardLoader

        if training:
            log.info("feed shards (read in order, %d images held to mix them)", self.shuffle_buffer)
        return functools.partial(ShardLoader, window=self.shuffle_buffer if training else 0)

    def open(self) -> Faces:
        return self.opened(lambda: ShardFaces(self.shards, self.decode()))


@dataclass(frozen=True, kw_only=True)
class SyntheticData(Data):
    """Drawn faces, no files: `num_identities` people with `images_per_identity` images each. seed: another value draws other people."""

    num_identities: int
    images_per_identity: int
    seed: int = 0

    def open(self) -> Faces:
        faces = SyntheticFaces(
            num_identities=self.num_identities,
            images_per_identity=self.images_per_identity,
            size=self.image_size,
            seed=self.seed,
        )
        return with_min_images(faces, self.min_images)


def way_out(key: str, place: str) -> str:
    """What to add to the reason why a place cannot be opened as what data.key names: where nothing is there, since a run that goes on has its place
    on record; where it seems to be data of another kind."""
    path = expand_home(place)
    if not os.path.exists(path):
        return "" if key == "shards" else f"; if it has moved, say where it is now: data.{key}=NEW"
    found = kind_of(path)
    if found is None or found[1] == key:
        return ""
    what, own_key, choice = found
    return f"; it seems to be {what}: data={choice} {quoted(override(f'data.{own_key}', place))}"


def kind_of(path: Path) -> tuple[str, str, str] | None:
    """(what it is, the key that names its place, the choice of data=)."""
    pack, shards = ("a pack", "path", "record"), ("shards", "shards", "shards")
    listed, folder = ("a list", "list", "annotation"), ("a folder of faces", "root", "folder")
    if os.path.isfile(path):
        by_suffix = {".rec": pack, ".idx": pack, ".tar": shards, ".txt": listed, ".lst": listed, ".csv": listed}
        return by_suffix.get(path.suffix.lower())
    for pattern, kind in (("*.rec", pack), ("*.tar", shards), ("*/", folder)):
        if next(path.glob(pattern), None) is not None:
            return kind
    return None

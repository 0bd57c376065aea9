"""Faces with identities: the one shape in which every source of images reaches the samplers and the loader.

N is the number of images, I the number of identities.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facenet.data.decode import DEFAULT, Decode
from facenet.errors import UserError, shown

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Indices = NDArray[np.int64]

IMAGE_SUFFIXES = frozenset({".bmp", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class UnreadableImage(Exception):
    """An image that exists by name but gives no pixels; `name` may be printed whatever the file is called, `reason` is one line."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = shown(name), shown(reason)
        super().__init__(f"{self.name}: {self.reason}")


class Faces(Protocol):
    """N labelled images. `labels` (N,) run from 0 to I - 1 without gaps, `identities` holds the I names by label."""

    @property
    def labels(self) -> Indices: ...

    @property
    def identities(self) -> tuple[str, ...]: ...

    @property
    def fingerprint(self) -> str:
        """16 hex digits over identity and image names in order, so the same data in another folder has the same one."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What a message about this image shows: its path, or where it was drawn."""
        ...

    def load(self, index: int) -> Pixels:
        """The pixels (H, W, 3), uint8 RGB. Raises UnreadableImage."""
        ...


def read_image(path: str, decode: Decode = DEFAULT) -> Pixels:
    """The pixels (H, W, 3), uint8 RGB, of one file; raises UnreadableImage for whatever is wrong with it."""
    try:
        return decode(path)
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, ... depending on the damage
        reason = str(error).replace(repr(path), "the file").split("\n")[0]
        raise UnreadableImage(path, reason or type(error).__name__) from error


def hex_digest(parts: Iterable[bytes]) -> str:
    """16 hex digits that depend on every part and on where one part ends."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]


class ImageList:
    """Image files with gap-free labels; the base of folders, annotation files and benchmarks."""

    def __init__(
        self, paths: Sequence[str], labels: ArrayLike, identities: Sequence[str], decode: Decode = DEFAULT
    ) -> None:
        self.paths, self.decode = list(paths), decode
        self.labels: Indices = np.asarray(labels, dtype=np.int64)
        self.identities = tuple(identities)
        if len(self.paths) != len(self.labels):
            raise ValueError(f"{len(self.paths)} paths but {len(self.labels)} labels")
        if not np.array_equal(np.unique(self.labels), np.arange(len(self.identities))):
            raise ValueError(
                f"labels must use every number from 0 to {len(self.identities) - 1}, one for each identity"
            )
        rows = (
            f"{self.identities[label]}\n{os.path.basename(path)}"
            for path, label in zip(self.paths, self.labels, strict=True)
        )
        self.fingerprint = hex_digest(row.encode("utf-8", "surrogateescape") for row in rows)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def load(self, index: int) -> Pixels:
        return read_image(self.paths[index], self.decode)


class FolderFaces(ImageList):
    """root/<identity>/<image>, both sorted by name. `skipped` counts files that are not images and files beside the
    identity folders.

    Raises UserError for a missing folder, one without images and one with a single identity.
    """

    def __init__(self, root: str | Path, decode: Decode = DEFAULT) -> None:
        self.root = Path(root).expanduser()
        people, self.skipped = _scan(self.root)
        paths = [path for _, images in people for path in images]
        labels = np.repeat(np.arange(len(people)), [len(images) for _, images in people])
        super().__init__(paths, labels, [name for name, _ in people], decode)


def _scan(root: Path) -> tuple[list[tuple[str, list[str]]], int]:
    layout = f"expected {root}/<identity>/<image>"
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {layout}")
    people, skipped, stray_images = [], 0, 0
    for entry in _sorted_entries(root):
        if entry.name.startswith(".") or not _is_folder(entry):
            skipped += 1
            stray_images += _is_image(entry)
            continue
        files = _sorted_entries(entry.path)
        images = [file.path for file in files if _is_image(file)]
        skipped += len(files) - len(images)
        if images:
            people.append((entry.name, images))
    if not people:
        found = f"{stray_images} images but no folder per identity" if stray_images else "no images"
        raise UserError(f"{root}: {found}; {layout}")
    if len(people) == 1:
        raise UserError(
            f"{root}: only one identity has images ({shown(people[0][0])}), at least two are needed; {layout}"
        )
    return people, skipped


def _sorted_entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{shown(str(folder))}: cannot be listed ({error.strerror})") from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    with contextlib.suppress(OSError):  # a link that leads to itself
        return not entry.name.startswith(".") and suffix in IMAGE_SUFFIXES and entry.is_file()
    return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):
        return entry.is_dir()
    return False


class Subset:
    """Chosen images of other faces, in the given order.

    Labels are numbered anew over the identities that occur (order and names kept); with `keep_labels` labels and
    identities stay the parent's, as a validation set needs whose classifier was made for the parent.
    """

    def __init__(self, faces: Faces, indices: ArrayLike, *, keep_labels: bool = False) -> None:
        self.parent = faces
        self.indices: Indices = np.asarray(indices, dtype=np.int64)
        kept = faces.labels[self.indices]
        if keep_labels:
            self.labels: Indices = kept
            self.identities = faces.identities
        else:
            present, labels = np.unique(kept, return_inverse=True)
            self.labels = labels.astype(np.int64)
            self.identities = tuple(faces.identities[label] for label in present)
        self.fingerprint = hex_digest([faces.fingerprint.encode(), self.indices.astype("<i8").tobytes()])

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.parent.name(int(self.indices[index]))

    def load(self, index: int) -> Pixels:
        return self.parent.load(int(self.indices[index]))


def with_min_images(faces: Faces, min_images: int) -> Faces:
    """The images of identities that have at least `min_images`; the same object where that is all of them. UserError
    below two identities.
    """
    counts = np.bincount(faces.labels, minlength=len(faces.identities))
    enough = counts >= min_images
    if enough.all():
        return faces
    if enough.sum() < 2:
        raise UserError(
            f"data.min_images={min_images}: {enough.sum()} of {len(counts)} identities have that many images, "
            "two are needed; lower it"
        )
    return Subset(faces, np.flatnonzero(enough[faces.labels]))


def identity_index(labels: Indices) -> tuple[Indices, Indices, Indices]:
    """Images grouped by identity: (order (N,), start (I,), count (I,)); order[start[l] : start[l] + count[l]] are the
    images of label l.
    """
    count = np.bincount(labels).astype(np.int64)
    order = np.argsort(labels, kind="stable").astype(np.int64)
    return order, np.cumsum(count) - count, count

"""Faces with identities: the one shape in which every source of images reaches the samplers and the loader.

N is the number of images, I the number of identities.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facenet.data.files import contents
from facenet.data.files.contents import Contents
from facenet.data.files.decode import DEFAULT, Decode, check_length, reason_of
from facenet.data.files.folder_index import descend, folder_index
from facenet.data.files.jpeg import decode_plain
from facenet.errors import UserError, shown
from facenet.files.home import expand_home

log = logging.getLogger(__name__)
Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Indices = NDArray[np.int64]


PART = 1 << 20  # labels compared at a time, so that a hundred million need no second array


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

    def stamp(self) -> str:
        """16 hex digits that change when pixels may have changed: file sizes and modification times."""
        ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What a message about this image shows: its path, or where it was drawn."""
        ...

    def load(self, index: int) -> Pixels:
        """The pixels (H, W, 3), uint8 RGB. Raises UnreadableImage."""
        ...

    def contents(self, index: int) -> Contents | None:
        """Returns what a stored image is recognized by later; None for one that is drawn."""
        ...


def read_image(path: str, decode: Decode = DEFAULT) -> Pixels:
    """The pixels (H, W, 3), uint8 RGB, of one file; raises UnreadableImage for whatever is wrong with it."""
    try:
        # Half the time of open() and its buffers; without waiting, since a pipe may have no other end.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            state = os.fstat(file)
            if not stat.S_ISREG(state.st_mode):
                raise UnreadableImage(path, "not a regular file")
            check_length(state.st_size)
            data = os.read(file, state.st_size)
        finally:
            os.close(file)
    except (OSError, MemoryError, ValueError) as error:
        raise UnreadableImage(path, getattr(error, "strerror", None) or str(error) or type(error).__name__) from error
    return decode_image(data, path, decode)


def decode_image(data: bytes, name: str, decode: Decode = DEFAULT) -> Pixels:
    """The pixels (H, W, 3), uint8 RGB, of the bytes of a file; raises UnreadableImage with `name`."""
    try:
        plain = decode_plain(data)
        if plain is not None and plain.shape[0] * plain.shape[1] <= decode.max_pixels:
            return plain
        return decode(data)
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, ... depending on the damage
        raise UnreadableImage(name, reason_of(error)) from error


def files_stamp(paths: Iterable[str], decode: Decode) -> str:
    """Over size and modification time of each file, and how it is decoded; one that is missing counts as such."""
    digest = hashlib.sha256(repr(decode).encode())
    for path in paths:
        try:
            state = os.stat(path)
            digest.update(struct.pack("<QQ", state.st_size, state.st_mtime_ns))
        except OSError:
            digest.update(b"missing")
    return digest.hexdigest()[:16]


def hex_digest(parts: Iterable[bytes]) -> str:
    """16 hex digits that depend on every part and on where one part ends."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()[:16]


class ImageFiles:
    """Faces of which each is a file, whose path is its `name`. `decode`: how files become pixels."""

    labels: Indices
    decode: Decode

    def name(self, index: int) -> str:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Pixels:
        return read_image(self.name(index), self.decode)

    def contents(self, index: int) -> Contents:
        return contents.of_file(self.name(index))

    def stamp(self) -> str:
        return files_stamp(map(self.name, range(len(self))), self.decode)


class ImageList(ImageFiles):
    """Image files with gap-free labels, as annotation files and benchmarks have them."""

    def __init__(
        self, paths: Sequence[str], labels: ArrayLike, identities: Sequence[str], decode: Decode = DEFAULT
    ) -> None:
        self.paths, self.decode = list(paths), decode
        self.labels = np.asarray(labels, dtype=np.int64)
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

    def name(self, index: int) -> str:
        return self.paths[index]


class FolderFaces(ImageFiles):
    """root/<identity>/<image>, both sorted by name; with a depth of 2 or more, images that many folders below root as well. Where root holds
    nothing but one folder of folders, that is the root. `left_out` says which files are not images of an identity.

    Raises UserError for a missing folder, one without images and one with a single identity."""

    def __init__(self, root: str | Path, decode: Decode = DEFAULT, depth: int = 1) -> None:
        self.root = descend(expand_home(root), depth)
        if self.root != expand_home(root):
            said = "%s: holds one folder only, so that each folder in %s is taken for a person"
            log.warning(said, shown(str(root)), shown(str(self.root)))
        self.decode, self.index = decode, folder_index(self.root, depth)
        self.labels = self.index.labels
        self.identities, self.fingerprint = self.index.identities, self.index.fingerprint
        self.left_out = ", ".join(f"{count:,} {shown(kind)}" for kind, count in sorted(self.index.left_out.items()))

    def name(self, index: int) -> str:
        return f"{self.root}{os.sep}{self.identities[self.labels[index]]}{os.sep}{self.index.name(index)}"


class Subset:
    """Chosen images of other faces, in the given order.

    Labels are numbered anew over the identities that occur (order and names kept); with `keep_labels` labels and
    identities stay the parent's, as a validation set needs whose classifier was made for the parent."""

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

    def contents(self, index: int) -> Contents | None:
        return self.parent.contents(int(self.indices[index]))

    def stamp(self) -> str:
        return self.parent.stamp()


def with_min_images(faces: Faces, min_images: int) -> Faces:
    """The images of identities that have at least `min_images`; the same object where that is all of them. UserError
    below two identities."""
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
    images of label l."""
    count = np.bincount(labels).astype(np.int64)
    if any((np.diff(labels[at : at + PART + 1]) < 0).any() for at in range(0, len(labels), PART)):
        order = np.argsort(labels, kind="stable").astype(np.int64)
    else:  # folders and packs are made so
        order = np.arange(len(labels), dtype=np.int64)
    return order, np.cumsum(count) - count, count

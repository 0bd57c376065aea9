"""Images as the network gets them, uint8 (N, H, W, 3), made once and kept in a file: no batch decodes or resizes anything again.

The file belongs to the names, sizes and modification times of the images, to the preprocessing, and to the versions of the libraries that
decode and resize. Every image has a checksum. One process writes, under a lock, into a folder that appears when it is whole; the others
wait for it.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import mmap
import os
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facenet.data.identities import Faces, Indices, UnreadableImage, hex_digest
from facenet.data.transforms import Preprocess
from facenet.errors import UserError
from facenet.files.folders import BeingWritten, partial_of, written_whole

log = logging.getLogger(__name__)
VERSION = 1
BLOCK = 64  # images that a thread makes or checks in one go
MAKERS = ("torch", "pillow", "opencv-python-headless", "numpy")
Progress = Callable[[int, int], None]


class Stopped(Exception):
    """The run was told to stop while the cache was being made; what was made of it is removed."""


class RawCache:
    """images (N, H, W, 3) uint8, mapped from the file; `unreadable`: index -> reason, such an image is black."""

    def __init__(self, place: Path) -> None:
        self.place = place
        try:
            about = json.loads((place / "about.json").read_text(encoding="utf-8"))
            self.unreadable = {int(index): str(reason) for index, reason in about["unreadable"].items()}
            self.checksums: NDArray[np.uint32] = np.fromfile(place / "checksums", "<u4")
            whole = zlib.crc32(self.checksums.tobytes()) == about["checksum"] and about["shape"][0] == len(
                self.checksums
            )
            with (place / "images").open("rb") as file:
                self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.images: NDArray[np.uint8] = np.frombuffer(self.mapped, np.uint8).reshape(about["shape"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self.tell_damage(str(error)) from error
        if not whole:
            raise self.tell_damage("its parts do not belong together")
        self.checked = np.zeros(len(self.checksums), bool)

    def __len__(self) -> int:
        return len(self.checksums)

    def take(self, rows: Indices, out: NDArray[np.uint8]) -> None:
        """Copies images into `out` (B, H, W, 3); an image is checked when it is first taken. UserError where one is damaged."""
        self._whole()
        np.take(self.images, rows, axis=0, out=out, mode="clip")
        if not (known := self.checked[rows]).all():
            for row, image in zip(rows[~known].tolist(), out[~known], strict=True):
                self._check(row, image)

    def read_all(self, use: Callable[[int, NDArray[np.uint8]], None], *, num_threads: int) -> None:
        """Checks every image and hands each block (first row, images) to `use`; afterwards the file is in memory, as far as there is room."""

        def block(start: int) -> None:
            self._whole()
            images = self.images[start : start + BLOCK]
            for row, image in enumerate(images, start):
                self._check(row, image)
            use(start, images)

        with ThreadPoolExecutor(max(1, num_threads), thread_name_prefix="facenet-cache") as pool:
            for _ in pool.map(block, range(0, len(self), BLOCK)):
                pass

    def _whole(self) -> None:
        """Beyond the end of a file that was cut, to look at its pages ends the process (SIGBUS). Asking takes 0.4 us; what is cut within the batch
        that follows is left to the launcher's words."""
        if self.mapped.size() < len(self.mapped):
            raise self.tell_damage("it was cut while it was in use")

    def _check(self, row: int, image: NDArray[np.uint8]) -> None:
        if zlib.crc32(image.data) != self.checksums[row]:
            raise self.tell_damage(f"image {row} has another checksum")
        self.checked[row] = True

    def tell_damage(self, reason: str) -> UserError:
        return UserError(f"{self.place}: damaged ({reason}); remove this folder, it is made again")


def cache_place(faces: Faces, preprocess: Preprocess, folder: Path) -> Path:
    """Where the cache of these images belongs. Asks every image file for its size and time."""
    shape = (preprocess.size, preprocess.fit, preprocess.crop, preprocess.interpolation)
    versions = [f"{name} {_version(name)}" for name in MAKERS]
    parts = [faces.fingerprint, faces.stamp(), repr((VERSION, *shape)), *versions]
    return folder / hex_digest(part.encode() for part in parts)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def cache_bytes(faces: Faces, preprocess: Preprocess) -> int:
    return len(faces) * preprocess.size[0] * preprocess.size[1] * 3


def exists_or_comes(place: Path) -> bool:
    return place.exists() or partial_of(place).exists()


def open_cache(
    faces: Faces,
    preprocess: Preprocess,
    place: Path,
    *,
    num_threads: int,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> RawCache:
    """The cache, made or waited for where it is not there. Raises Stopped, and UserError where there is no room."""
    told = False
    while not place.exists():
        try:
            with written_whole(place) as folder:
                _make(faces, preprocess, folder, num_threads, progress, stop)
            log.info("raw cache written: %s", place)
        except BeingWritten:
            if stop():
                raise Stopped from None
            if not told:
                log.info("another process writes the raw cache %s: waiting for it", place)
            told = True
            time.sleep(0.2)
        except UserError:
            if not place.exists():  # else another process finished it between two looks
                raise
    return RawCache(place)


def _make(
    faces: Faces,
    preprocess: Preprocess,
    folder: Path,
    num_threads: int,
    progress: Progress | None,
    stop: Callable[[], bool],
) -> None:
    shape = (len(faces), *preprocess.size, 3)
    with (folder / "images").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, cache_bytes(faces, preprocess))  # a full disk is told now
    images: np.memmap[tuple[int, ...], np.dtype[np.uint8]] = np.memmap(folder / "images", np.uint8, "r+", shape=shape)
    checksums, unreadable, ended = np.zeros(len(faces), np.uint32), dict[int, str](), threading.Event()

    def block(start: int) -> int:
        end = min(start + BLOCK, len(faces))
        for index in range(start, end):
            if ended.is_set():
                break
            try:
                images[index] = preprocess(faces.load(index))
            except UnreadableImage as error:
                unreadable[index] = error.reason
                images[index] = 0
            checksums[index] = zlib.crc32(images[index])
        return end

    with ThreadPoolExecutor(max(1, num_threads), thread_name_prefix="facenet-cache") as pool:
        try:
            for done in pool.map(block, range(0, len(faces), BLOCK)):
                if stop():
                    raise Stopped
                if progress is not None:
                    progress(done, len(faces))
        finally:
            ended.set()
    images.flush()
    checksums.astype("<u4").tofile(folder / "checksums")
    about = {
        "shape": shape,
        "checksum": zlib.crc32(checksums.tobytes()),
        "unreadable": dict(sorted(unreadable.items())),
    }
    (folder / "about.json").write_text(json.dumps(about) + "\n", encoding="utf-8")

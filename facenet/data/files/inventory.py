"""What is in the files of a set of faces: one pass over all of them, in threads, that keeps 25 bytes an image.

N is the number of images.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facenet.data.files.decode import SUFFIXES, Decode, orientation, reason_of
from facenet.data.identities import Faces
from facenet.errors import shown

SMALL = 32  # pixels of the shorter side; networks see 112 or 160, so that most of it would be invented
LONG = 3.0  # sides to each other; no face has this shape
WINDOW = 256  # images on their way at once


class Look(NamedTuple):
    """One file. content: of its bytes. appearance: of its pixels, close for images that look alike; (0, 0) for a plain one. problem: why it
    cannot be read, "" where it can."""

    kind: str
    size: tuple[int, int]
    content: int
    appearance: tuple[int, int]
    problem: str
    notes: tuple[str, ...]


@dataclass
class Inventory:
    """content (N,), appearance (N, 2) uint64, readable (N,) bool; numbers of images by kind and size; image numbers by problem and note."""

    faces: Faces
    content: NDArray[np.uint64]
    appearance: NDArray[np.uint64]
    readable: NDArray[np.bool_]
    kinds: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    problems: dict[int, str] = field(default_factory=dict)
    notes: dict[str, list[int]] = field(default_factory=dict)

    def add(self, index: int, look: Look) -> None:
        self.content[index], self.appearance[index] = look.content, look.appearance
        self.readable[index] = not look.problem
        if look.problem:
            self.problems[index] = look.problem
            return
        self.kinds[look.kind] += 1
        self.sizes[look.size] += 1
        for note in look.notes:
            self.notes.setdefault(note, []).append(index)


def take_inventory(
    faces: Faces, decode: Decode, *, num_workers: int, progress: Callable[[int, int], None] | None = None
) -> Inventory:
    """Reads every file once. No more than WINDOW images wait, whatever their number."""
    count = len(faces)
    inventory = Inventory(faces, np.zeros(count, np.uint64), np.zeros((count, 2), np.uint64), np.zeros(count, bool))
    for index, look in enumerate(looks(map(faces.name, range(count)), decode, num_workers)):
        inventory.add(index, look)
        if progress is not None:
            progress(index + 1, count)
    return inventory


def looks(paths: Iterable[str], decode: Decode, num_workers: int) -> Iterator[Look]:
    waiting = iter(paths)
    pending: deque[Future[Look]] = deque()
    with ThreadPoolExecutor(num_workers, thread_name_prefix="facenet-audit") as pool:
        try:
            for path in islice(waiting, WINDOW):
                pending.append(pool.submit(look_at, path, decode))
            while pending:
                yield pending.popleft().result()
                for path in islice(waiting, 1):
                    pending.append(pool.submit(look_at, path, decode))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def look_at(path: str, decode: Decode) -> Look:
    try:
        with decode.open(path) as image:
            notes = notes_of(image, path)
            kind, size = f"{image.format} {image.mode}", image.size
            pixels = decode.pixels(image)
        appearance = appearance_of(pixels)
        notes += ("of one plain colour",) if appearance == (0, 0) and (pixels == pixels[:1, :1]).all() else ()
        return Look(kind, size, content_of(path), appearance, "", notes)
    except Exception as error:  # decoders raise what they like, depending on the damage
        return Look("", (0, 0), 0, (0, 0), shown(reason_of(error).replace(repr(path), "the file")), ())


def notes_of(image: Image.Image, path: str) -> tuple[str, ...]:
    """What is read, but perhaps not as its owner thinks."""
    suffix = os.path.splitext(path)[1].lower()
    sides = sorted(image.size)
    known = SUFFIXES["JPEG" if image.format == "MPO" else str(image.format)]  # MPO: a JPEG with a second one behind it
    found = {
        "named after another format": suffix not in known,
        "of several frames": getattr(image, "n_frames", 1) > 1,
        "turned by EXIF": orientation(image) != 1,
        "with transparency": image.mode.endswith(("A", "a")) or "transparency" in image.info,
        "of 16 bits": image.mode.startswith("I"),
        f"below {SMALL} pixels": sides[0] < SMALL,
        f"more than {LONG:g} times as long as wide": sides[1] > LONG * sides[0],
    }
    return tuple(note for note, is_so in found.items() if is_so)


def content_of(path: str) -> int:
    """64 bits of the bytes: two of ten million files agree by chance with probability 3e-6."""
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return int.from_bytes(digest.digest(), "little")


def appearance_of(pixels: NDArray[np.uint8]) -> tuple[int, int]:
    """64 bits each: whether each of 8 x 8 cells is brighter than its right neighbour, than the one below (dHash). Survives scaling and
    compression."""
    grey = Image.fromarray(pixels).convert("L")
    rows = np.asarray(grey.resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    columns = np.asarray(grey.resize((8, 9), Image.Resampling.BOX)).astype(np.int16)
    across, down = rows[:, :-1] > rows[:, 1:], columns[:-1] > columns[1:]
    first, second = (int.from_bytes(np.packbits(bits).tobytes(), "little") for bits in (across, down))
    return first, second

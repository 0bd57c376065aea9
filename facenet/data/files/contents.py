"""Whether images are those of an earlier run, wherever they lie now: by their names, and by size and checksum of some of them."""

from __future__ import annotations

import os
import stat
import zlib
from typing import TYPE_CHECKING, Any

from facenet.data.sampling.keyed_order import KeyedOrder
from facenet.errors import shown

if TYPE_CHECKING:
    from facenet.data.identities import Faces

Contents = tuple[int, int]  # bytes of an image's file, and their CRC-32: of a large file that of both ends
ABSENT: Contents = (-1, 0)
END = 1 << 16  # bytes of each end: a portrait whole, while a folder of 20 MB photographs costs 32 MB and not 5 GB
NUM_SAMPLED = 256  # a change of 1 % of the images shows in 92 % of the cases
STREAM = 3  # first number of the key


def of_bytes(data: bytes) -> Contents:
    return len(data), zlib.crc32(data[max(END, len(data) - END) :], zlib.crc32(data[:END]))


def of_file(path: str) -> Contents:
    """ABSENT for what cannot be read, or is no regular file."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe may have no other end
        try:
            state = os.fstat(file)
            if not stat.S_ISREG(state.st_mode):
                return ABSENT
            head, tail = os.pread(file, END, 0), os.pread(file, END, max(END, state.st_size - END))
            return state.st_size, zlib.crc32(tail, zlib.crc32(head))
        finally:
            os.close(file)
    except (OSError, ValueError):  # a zero byte in its name
        return ABSENT


def sample(faces: Faces, seed: int) -> dict[str, Any]:
    """{"fingerprint", "images": [[index, size, checksum], ...]}: of NUM_SAMPLED images that `seed` draws; of none that are drawn, not stored."""
    chosen = sorted(KeyedOrder(len(faces), (STREAM, seed))[:NUM_SAMPLED].tolist())
    found = [(index, faces.contents(index)) for index in chosen]
    return {"fingerprint": faces.fingerprint, "images": [[index, *each] for index, each in found if each is not None]}


def find_changed(faces: Faces, before: Any) -> str | None:
    """Which images of a `sample` are not what they were; None where all are, or it is of other names or no sample: it may be anybody's. What could
    not be read then is not known."""
    images = before.get("images") if isinstance(before, dict) else None
    if not isinstance(images, list) or before.get("fingerprint") != faces.fingerprint:
        return None
    rows = [row for row in images[:NUM_SAMPLED] if is_row(row, len(faces)) and tuple(row[1:]) != ABSENT]
    now = [(row[0], faces.contents(row[0]), tuple(row[1:])) for row in rows]
    differ = [(index, found) for index, found, noted in now if found not in (None, noted)]
    if not differ:
        return None
    index, found = differ[0]
    how = "cannot be read" if found == ABSENT else "have other contents"
    return f"{len(differ)} of {len(rows)} sampled images {how}, first {shown(faces.name(index))}"


def is_row(row: Any, num_images: int) -> bool:
    plain = isinstance(row, list) and len(row) == 3 and all(type(number) is int for number in row)
    return plain and 0 <= row[0] < num_images

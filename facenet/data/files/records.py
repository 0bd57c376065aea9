"""MXNet's RecordIO, the packed format of the field, read and written without mxnet.

A record is the word MAGIC, a word of 3 flag bits and 29 length bits, the bytes, and padding to 4. Where the bytes hold MAGIC at a multiple of
4, the record is cut there, and the word that was cut out is put back between the parts. The bytes of an image begin with a header of 24:
flag, label, id and a second id; flag > 0 says that so many float32 labels follow and count instead of the one in the header. The index lists
key and position of each record as text. (dmlc-core recordio.h and mxnet recordio.py describe the format.)
"""

from __future__ import annotations

import codecs
import mmap
import os
import struct
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facenet.errors import UserError
from facenet.files.reading import decoded, encoding_of, regular

Indices = NDArray[np.int64]
MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
WHOLE, FIRST, MIDDLE, LAST = range(4)
LONGEST = (1 << 29) - 1  # bytes of one part
HEADER = struct.Struct("<IfQQ")


class DamagedRecord(Exception):
    """Names the position and what was found there."""


class Head(NamedTuple):
    """Of many records at once, each (N,): its bytes, number of labels that follow, the header's own label, and the first two that follow."""

    length: Indices
    flag: NDArray[np.uint32]
    label: NDArray[np.float32]
    first: NDArray[np.float32]
    second: NDArray[np.float32]

    @property
    def is_range(self) -> NDArray[np.bool_]:
        """Whether it holds two labels and no image: of images `im2rec --pack-label` writes the labels there too, and there may be two."""
        found: NDArray[np.bool_] = (self.flag == 2) & (self.length == HEADER.size + 2 * 4)
        return found


class RecordFile:
    """A .rec file in the address space of this process: pages come when they are read and are shared with other processes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            reason = "is empty" if isinstance(error, ValueError) else f"cannot be read ({error.strerror})"
            raise UserError(f"{self.path}: {reason}; expected the .rec file of a pack") from error

    def __len__(self) -> int:
        return len(self.bytes)

    def read(self, position: int) -> bytes:
        """The bytes of the record that begins there. Raises DamagedRecord."""
        flag, part, following = self._part(position)
        if flag == WHOLE:
            return part
        if flag != FIRST:
            raise DamagedRecord(f"byte {position}: a part of a record, expected its beginning")
        parts = [part]
        while flag != LAST:
            at = following
            flag, part, following = self._part(at)
            if flag not in (MIDDLE, LAST):
                raise DamagedRecord(f"byte {at}: another record begins before the one at byte {position} ends")
            parts.append(part)
        return MAGIC_BYTES.join(parts)

    def _part(self, at: int) -> tuple[int, bytes, int]:
        """(flag, bytes, where the next part begins)."""
        if self.bytes.size() < len(self.bytes):  # to look beyond its end would end the process (SIGBUS)
            raise DamagedRecord("the file was cut while it was in use; copy it again")
        if not 0 <= at <= len(self.bytes) - 8:
            raise DamagedRecord(f"byte {at}: no record there, the file has {len(self.bytes)} bytes")
        magic, word = struct.unpack_from("<II", self.bytes, at)
        if magic != MAGIC:
            raise DamagedRecord(f"byte {at}: no record begins there (found {magic:#010x}, expected {MAGIC:#010x})")
        length = word & LONGEST
        end = at + 8 + length
        if end > len(self.bytes):
            raise DamagedRecord(f"byte {at}: a record of {length} bytes, but the file ends after {len(self.bytes)}")
        return word >> 29, self.bytes[at + 8 : end], end + -length % 4

    def heads(self, positions: Indices) -> Head:
        """Reads the heads of all these records in a few steps, without their bodies. Raises UserError where one does not begin there."""
        if self.bytes.size() < len(self.bytes):
            raise UserError(f"{self.path}: the file was cut while it was in use; copy it again")
        data, found = np.frombuffer(self.bytes, np.uint8), np.zeros((len(positions), 40), np.uint8)
        wrong = (positions < 0) | (positions > len(data) - 32)
        near = np.minimum(positions, len(data) - 1)
        for start in range(0, 0 if wrong.any() else len(positions), 1 << 16):
            places = near[start : start + (1 << 16), None] + np.arange(40)
            found[start : start + len(places)] = data[np.minimum(places, len(data) - 1)]
        words = found.view("<u4")
        wrong |= words[:, 0] != MAGIC
        if wrong.any():
            position = int(positions[np.argmax(wrong)])
            raise UserError(
                f"{self.path}: byte {position}: no record begins there; the index belongs to another file, or the file is cut or damaged: "
                "copy both again"
            )
        labels = found.view("<f4")
        lengths = (words[:, 1] & LONGEST).astype(np.int64)
        return Head(lengths, words[:, 2].copy(), labels[:, 3].copy(), labels[:, 8].copy(), labels[:, 9].copy())


def unpack(record: bytes) -> tuple[NDArray[np.float32], bytes]:
    """(labels, the bytes after them). Raises DamagedRecord."""
    if len(record) < HEADER.size:
        raise DamagedRecord(f"{len(record)} bytes, a header has {HEADER.size}")
    flag, label, _, _ = HEADER.unpack_from(record)
    if not flag:
        return np.array([label], np.float32), record[HEADER.size :]
    body = HEADER.size + 4 * flag
    if body > len(record):
        raise DamagedRecord(f"{flag} labels do not fit into {len(record)} bytes")
    return np.frombuffer(record, "<f4", flag, HEADER.size).astype(np.float32), record[body:]


def pack(label: float | tuple[float, ...], key: int, body: bytes = b"") -> bytes:
    """The bytes of a record with one label in its header, or with several after it."""
    if isinstance(label, tuple):
        return HEADER.pack(len(label), 0.0, key, 0) + struct.pack(f"<{len(label)}f", *label) + body
    return HEADER.pack(0, label, key, 0) + body


class RecordWriter(AbstractContextManager["RecordWriter"]):
    """Writes NAME.rec and NAME.idx. `write` says where the record begins."""

    def __init__(self, stem: Path) -> None:
        self.records = stem.with_suffix(".rec").open("wb")
        self.index = stem.with_suffix(".idx").open("w", encoding="ascii")
        self.position = 0

    def write(self, key: int, record: bytes) -> int:
        began, parts = self.position, cut_at_magic(record)
        for number, part in enumerate(parts):
            flag = WHOLE if len(parts) == 1 else FIRST if number == 0 else LAST if number == len(parts) - 1 else MIDDLE
            if len(part) > LONGEST:
                raise UserError(f"record {key}: {len(part)} bytes, a record holds {LONGEST}; leave this image out")
            padded = struct.pack("<II", MAGIC, flag << 29 | len(part)) + part + bytes(-len(part) % 4)
            self.records.write(padded)
            self.position += len(padded)
        self.index.write(f"{key}\t{began}\n")
        return began

    def __exit__(self, *_: object) -> None:
        self.records.close()
        self.index.close()


def cut_at_magic(record: bytes) -> list[bytes]:
    parts, start, at = [], 0, record.find(MAGIC_BYTES)
    while at >= 0:
        if at % 4 == 0:
            parts.append(record[start:at])
            start = at + 4
        at = record.find(MAGIC_BYTES, at + (4 if at % 4 == 0 else 1))
    return [*parts, record[start:]]


def _numbers(path: Path) -> Indices:
    """All that the text holds; one without marks, the usual one, is never in memory as text."""
    with open(path, "rb", opener=regular) as file:
        beginning = file.read(4)
        if encoding_of(beginning) != "utf-8-sig":
            return np.fromstring(decoded(beginning + file.read()), np.int64, sep=" ")
        file.seek(len(codecs.BOM_UTF8) if beginning.startswith(codecs.BOM_UTF8) else 0)
        return np.fromfile(file, np.int64, sep=" ")


def read_index(path: Path, size: int) -> tuple[Indices, Indices]:
    """(keys, positions), ordered by key. UserError for a missing or damaged index and for positions outside of a file of `size` bytes."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; a .rec file needs its .idx beside it")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # numpy's word for text that is no number
        try:
            numbers = _numbers(path)
        except (DeprecationWarning, ValueError, OSError) as error:
            raise UserError(f"{path}: expected lines <key> TAB <position> ({error}); copy it again") from error
    if not len(numbers) or len(numbers) % 2:
        raise UserError(f"{path}: {len(numbers)} numbers, expected two a line; copy it again")
    keys, positions = numbers[::2], numbers[1::2]
    if (np.diff(keys) <= 0).any():
        order = np.argsort(keys, kind="stable")
        keys, positions = keys[order], positions[order]
        if (twice := np.flatnonzero(np.diff(keys) == 0)).size:
            raise UserError(f"{path}: key {keys[twice[0]]} is listed twice; copy it again")
    outside = np.flatnonzero((positions < 0) | (positions > size - 8))
    if outside.size:
        raise UserError(
            f"{path}: key {keys[outside[0]]} is at byte {positions[outside[0]]}, but the .rec file ends after {size}; it is cut, copy it again"
        )
    return keys, positions

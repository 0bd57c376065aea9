"""The images of a pack: train.rec, train.idx and property as insightface distributes CASIA-WebFace, MS1MV3 and Glint360K, or as
`facenet-data pack` writes them.

Two layouts. With ranges: record 0 holds (first identity's key, last one's + 1); images are the keys before, and the record of each identity
holds the (first, last + 1) key of its images. Plain: every record is an image and carries its label.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from facenet.data.files import contents
from facenet.data.files.contents import Contents
from facenet.data.files.records import DamagedRecord, Indices, RecordFile, read_index, unpack
from facenet.data.identities import Pixels, UnreadableImage, decode_image, hex_digest
from facenet.errors import UserError
from facenet.files.home import expand_home
from facenet.files.reading import reason_of

log = logging.getLogger(__name__)
SIDECAR = "identities.json"  # ours: names of identities, and the fingerprint of the folder
SAMPLE = 64
EXACT = 1 << 24  # float32 holds every whole number up to here; the keys of a range may not


class RecordFaces:
    """Labels are numbered 0 to I - 1 in the order of the pack's own; an identity without name is called by its own label.

    UserError for a missing or damaged file; the position is named."""

    def __init__(self, path: str | Path) -> None:
        self.path = rec_file(expand_home(path))
        self.file = RecordFile(self.path)
        keys, positions = read_index(self.path.with_suffix(".idx"), len(self.file))
        self.positions, own = _images(self.file, keys, positions)
        if not len(own):
            raise UserError(f"{self.path}: holds no images")
        present, labels = _dense(own)
        if len(present) < 2:
            raise UserError(f"{self.path}: only one identity has images, at least two are needed")
        self.labels: Indices = labels
        named = self._sidecar(len(present))
        self.identities: tuple[str, ...] = tuple(named["identities"]) if named else tuple(map(str, present.tolist()))
        numbers = (each.astype("<i8").tobytes() for each in (self.labels, self.positions))
        self.fingerprint: str = named["fingerprint"] if named else hex_digest(numbers)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"{self.path}@{self.positions[index]}"

    def load(self, index: int) -> Pixels:
        return decode_image(self.body(index), self.name(index))

    def body(self, index: int) -> bytes:
        """The image's file. Raises UnreadableImage."""
        try:
            return unpack(self.file.read(int(self.positions[index])))[1]
        except DamagedRecord as error:
            raise UnreadableImage(self.name(index), str(error)) from error

    def contents(self, index: int) -> Contents:
        try:
            return contents.of_bytes(self.body(index))
        except UnreadableImage:
            return contents.ABSENT

    def stamp(self) -> str:
        """16 hex digits that change with the file."""
        state = self.path.stat()
        return hex_digest([self.fingerprint.encode(), f"{state.st_size} {state.st_mtime_ns}".encode()])

    def _sidecar(self, num_identities: int) -> dict[str, Any] | None:
        place = self.path.with_name(SIDECAR)
        if not place.is_file():
            return None
        try:
            named: dict[str, Any] = json.loads(place.read_bytes())  # in any encoding: names may have been edited
            fits = len(named["identities"]) == num_identities and named["num_images"] == len(self)
            fits &= all(type(text) is str for text in (named["fingerprint"], *named["identities"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{place}: damaged ({error}); pack again, or delete it to use numbers as names") from error
        if not fits:
            raise UserError(f"{place}: belongs to another pack; pack again, or delete it to use numbers as names")
        return named


def rec_file(path: Path) -> Path:
    """The .rec file itself, or the one in a folder."""
    if os.path.isfile(path):
        return path.with_suffix(".rec") if path.suffix == ".idx" else path
    if not os.path.isdir(path):
        raise UserError(
            f"{path}: {reason_of(path) or 'no such file or folder'}; expected a pack (train.rec, train.idx)"
        )
    found = sorted(path.glob("*.rec"))
    chosen = [file for file in found if file.name == "train.rec"] or found
    if len(chosen) != 1:
        told = f"{len(found)} .rec files and no train.rec; name one of them" if found else "holds no .rec file"
        raise UserError(f"{path}: {told}")
    return chosen[0]


def _images(file: RecordFile, keys: Indices, positions: Indices) -> tuple[Indices, Indices]:
    """(position, own label) of every image, images of one identity side by side where the pack says so."""
    if keys[0] != 0:
        return positions, _own_labels(file, positions)
    head = file.heads(positions[:1])
    if not head.is_range[0]:
        return positions, _own_labels(file, positions)
    first_identity, end_identity = int(head.first[0]), int(head.second[0])
    if len(keys) > EXACT:
        images = positions[1 : np.searchsorted(keys, first_identity)]
        log.info(
            "%s: more than %d keys, which its ranges cannot tell apart; labels are taken from the images",
            file.path,
            EXACT,
        )
        heads = file.heads(images)
        images = images[~heads.is_range]
        return images, _own_labels(file, images)
    starts, ends = _ranges(file, keys, positions, first_identity, end_identity)
    counts = np.maximum(ends - starts, 0)
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    wanted = np.arange(len(labels), dtype=np.int64) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
    images = positions[_rows(file, keys, wanted)]
    sample = np.unique(np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(np.int64))
    if not np.array_equal(_own_labels(file, images[sample]), labels[sample]):
        return images, _own_labels(file, images)  # identities in another order than their labels
    return images, labels


def _ranges(file: RecordFile, keys: Indices, positions: Indices, first: int, end: int) -> tuple[Indices, Indices]:
    """First and last + 1 key of the images of each identity."""
    if not 1 <= first < end or end - 1 > keys[-1]:
        raise UserError(
            f"{file.path}: record 0 says that identities are {first}..{end - 1}, but the index ends at key {keys[-1]}; "
            "one of the files is cut, copy both again"
        )
    heads = file.heads(positions[_rows(file, keys, np.arange(first, end, dtype=np.int64))])
    wrong = np.flatnonzero(~heads.is_range | (heads.first < 1) | (heads.second > first))
    if wrong.size:
        raise UserError(
            f"{file.path}: record {first + wrong[0]} holds no range of images 1..{first - 1}; copy it again"
        )
    return heads.first.astype(np.int64), heads.second.astype(np.int64)


def _rows(file: RecordFile, keys: Indices, wanted: Indices) -> Indices:
    rows = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    missing = np.flatnonzero(keys[rows] != wanted)
    if missing.size:
        raise UserError(f"{file.path}: its index lists no key {wanted[missing[0]]}; copy it again")
    return rows


def _own_labels(file: RecordFile, positions: Indices) -> Indices:
    heads = file.heads(positions)
    return np.where(heads.flag > 0, heads.first, heads.label).astype(np.int64)


def _dense(own: Indices) -> tuple[Indices, Indices]:
    """(own labels that occur, labels 0..I - 1); nothing is sorted where they already are in order without gaps."""
    steps = np.diff(own)
    if own[0] == 0 and not len(steps[(steps < 0) | (steps > 1)]):
        return np.arange(own[-1] + 1), own
    present, labels = np.unique(own, return_inverse=True)
    return present, labels.astype(np.int64)

"""The images of shards as faces: what is where comes from the index, one image alone from its place in the shard."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import time
import urllib.error
import zlib
from collections.abc import Sequence

import numpy as np

from facenet.data.files.contents import Contents
from facenet.data.files.decode import DEFAULT, Decode
from facenet.data.identities import PART, Indices, Pixels, UnreadableImage, decode_image, hex_digest
from facenet.data.shards.index import FILE_NAME, ShardIndex, load_index, scan_all
from facenet.data.shards.places import (
    Shard,
    as_folder,
    beside,
    existing,
    expand,
    folder_of,
    is_remote,
    name_of,
    tars_in,
    tell_address,
)
from facenet.errors import UserError, shown
from facenet.files.atomic import replacing
from facenet.files.cache_dir import cache_dir
from facenet.privacy.addresses import masked_address

log = logging.getLogger(__name__)
TOLD_EVERY_S = 10.0
LARGEST_INDEX = 1 << 31  # bytes; of a hundred million images


class ShardFaces:
    """`shards`: a folder or http(s) address with index.npz in it, or patterns of .tar files. Shards without an index are counted once and remembered.
    Image n is the n-th in the order of the shards; first (S + 1,): the first image of each shard, and N.

    UserError for a missing shard or index, a damaged one, and a single identity."""

    def __init__(self, shards: str, decode: Decode = DEFAULT) -> None:
        self.decode = decode
        self.addresses, self.index = open_index(shards)
        self.names = [masked_address(address) for address in self.addresses]
        self.labels: Indices = self.index.labels
        self.identities, self.fingerprint = self.index.identities, self.index.fingerprint
        self.first: Indices = np.concatenate([[0], np.cumsum(self.index.counts)])
        if len(self.identities) < 2:
            raise UserError(f"{tell_address(shards)}: {len(self.identities)} identities, at least two are needed")
        if side_by_side(self.labels[:PART]):
            log.warning(
                "%s: images of one identity lie side by side, so that batches hold few identities and the last ones alone validate; "
                "write them in random order with: facenet-data shard",
                tell_address(shards),
            )

    def __len__(self) -> int:
        return len(self.labels)

    def shard_of(self, index: int) -> int:
        return int(np.searchsorted(self.first, index, side="right")) - 1

    def name(self, index: int) -> str:
        shard = self.shard_of(index)
        return f"{self.names[shard]}@{self.index.offsets[index]}"

    def open(self, shard: int) -> Shard:
        return Shard(self.addresses[shard], int(self.index.lengths[shard]))

    def load(self, index: int) -> Pixels:
        with self.open(self.shard_of(index)) as shard:
            return self.pixels(self.read(shard, index), index)

    def read(self, shard: Shard, index: int) -> bytes:
        """The bytes of the image's file."""
        size = int(self.index.sizes[index])
        data = shard.read(int(self.index.offsets[index]), size)
        if len(data) < size:
            raise UserError(f"{shown(self.name(index))}: the shard ends in this image; it is cut, copy it again")
        return data

    def pixels(self, data: bytes, index: int) -> Pixels:
        """Raises UnreadableImage, also for bytes that the index was not made of, whose label nobody knows."""
        if zlib.crc32(data) != self.index.checksums[index]:
            raise UnreadableImage(
                self.name(index), "not the bytes that the index says; copy the shard and its index again"
            )
        return decode_image(data, self.name(index), self.decode)

    def contents(self, index: int) -> Contents:
        """As the index says, which each image is held to when it is read: a sample would ask a server 256 times."""
        return int(self.index.sizes[index]), int(self.index.checksums[index])

    def stamp(self) -> str:
        """16 hex digits that change with the files; those of a server are known by their names and sizes."""
        local = [address for address in self.addresses if not is_remote(address)]
        return hex_digest([self.fingerprint.encode(), repr(self.decode).encode(), repr(existing(local)).encode()])


def side_by_side(labels: Indices) -> bool:
    """Whether neighbours are of one identity far more often than in a random order."""
    by_chance = float(np.square(np.bincount(labels) / len(labels)).sum())
    return bool(np.mean(labels[1:] == labels[:-1]) > (1 + by_chance) / 2)


def open_index(shards: str) -> tuple[list[str], ShardIndex]:
    """(addresses, index)."""
    addresses = expand(shards)
    if not all(name_of(address).endswith(".tar") for address in addresses):
        if len(addresses) > 1:
            raise UserError(f"data.shards={tell_address(shards)}: expected .tar files, or one folder with {FILE_NAME}")
        return in_folder(as_folder(addresses[0]))
    folders = {folder_of(address) for address in addresses}
    stored = stored_index(beside(addresses[0], FILE_NAME)) if len(folders) == 1 else None
    part = stored.part([name_of(address) for address in addresses]) if stored else None
    return whole(addresses, part or recall_index(addresses))


def in_folder(folder: str) -> tuple[list[str], ShardIndex]:
    stored = stored_index(beside(folder, FILE_NAME))
    if stored is not None:
        return whole([beside(folder, name) for name in stored.names], stored)
    addresses = [] if is_remote(folder) else tars_in(folder)
    if not addresses:
        raise UserError(
            f"data.shards={tell_address(folder)}: no {FILE_NAME} there; name shards like "
            f"{tell_address(beside(folder, 'casia-{000000..000099}.tar'))}, "
            "or write some with: facenet-data shard ROOT OUT"
        )
    return addresses, recall_index(addresses)


def whole(addresses: list[str], index: ShardIndex) -> tuple[list[str], ShardIndex]:
    """Files that are missing or of another size are told before anything trains; those of a server when they are opened."""
    files = [
        (address, int(length))
        for address, length in zip(addresses, index.lengths, strict=True)
        if not is_remote(address)
    ]
    for (address, length), (size, _) in zip(files, existing([address for address, _ in files]), strict=True):
        if size != length:
            raise UserError(
                f"{tell_address(address)}: has {size} bytes, the index says {length}; it is cut or another file, copy it again"
            )
    return addresses, index


def stored_index(address: str) -> ShardIndex | None:
    """None where there is no such file."""
    if not is_remote(address) and not os.path.isfile(address):
        return None
    try:
        with Shard(address) as shard:
            data = io.BytesIO()
            while block := shard.read(data.tell(), 1 << 22):
                data.write(block)
                if data.tell() > LARGEST_INDEX:
                    raise UserError(
                        f"{shown(address)}: more than {LARGEST_INDEX:,} bytes, which no index has; correct data.shards"
                    )
    except UserError as error:
        if isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code in (403, 404):
            return None
        raise
    return load_index(data.getvalue(), address)


def recall_index(addresses: Sequence[str]) -> ShardIndex:
    """The index as counted now, or when these shards were first seen: files of the same sizes and times, addresses of the same names."""
    states = existing([address for address in addresses if not is_remote(address)])
    key = hashlib.sha256(
        repr([*(os.path.abspath(masked_address(address)) for address in addresses), states]).encode(
            "utf-8", "surrogateescape"
        )
    ).hexdigest()
    kept = cache_dir()
    place = None if kept is None else kept / "shards" / f"{key[:24]}.npz"
    if place is not None and place.is_file():
        try:
            return load_index(place.read_bytes(), str(place))
        except UserError as error:
            log.warning("%s", error)
    log.info("%d shards without %s are counted, once", len(addresses), FILE_NAME)
    index = scan_all(addresses, progress=Told())
    if place is None:
        log.warning("there is no home directory that can be written, so the count is not remembered; set FACENET_CACHE")
        return index
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as partial:
            index.save(partial)
    except OSError as error:
        log.warning("%s: the count is not remembered (%s)", place, error.strerror)
    return index


class Told:
    """Progress as lines of the log."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self.last > TOLD_EVERY_S:
            self.last = time.monotonic()
            log.info("%d of %d shards counted", done, total)

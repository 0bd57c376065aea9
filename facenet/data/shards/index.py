"""What is in a set of shards: label, place and size of every image, so that an order of reading can be computed without reading.

A shard is a tar file in the convention of WebDataset: members whose names differ only after the first dot are one sample; its image is the member
with an image's suffix, its label the number in `.cls`; other members are passed over. Nothing is ever unpacked to disk.

N is the number of images, S of shards, I of identities.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facenet.data.files.decode import IMAGE_SUFFIXES
from facenet.data.identities import Indices, hex_digest
from facenet.data.shards.places import Shard, name_of, tell_address, webdataset
from facenet.errors import UserError, shown

FILE_NAME = "index.npz"
VERSION = 1
BLOCK = tarfile.BLOCKSIZE
CHUNK = 64 * BLOCK  # tarfile copies the rest of a chunk at every read: 100 us an image, at 1 MB 300
LARGEST = 1 << 28  # bytes of an image; the largest that data.max_pixels lets in have fewer
LONGEST_HEAD = 1 << 20  # bytes of a member before its content, which tarfile keeps in memory
LONGEST_LABEL = 20  # bytes of a .cls member
LARGEST_OWN = 2**62  # int64; labels are numbered anew
ARRAYS: dict[str, type[np.generic]] = {
    "lengths": np.int64,
    "counts": np.int64,
    "labels": np.int32,
    "offsets": np.int64,
    "sizes": np.int32,
    "checksums": np.uint32,
}
Progress = Callable[[int, int], None]
# What reading one raises that no `save` wrote.
DAMAGE = (OSError, LookupError, ValueError, TypeError, RecursionError, zipfile.BadZipFile, EOFError, MemoryError)


@dataclass(frozen=True)
class ShardIndex:
    """names, lengths, counts (S,): file name, bytes and images of each shard. labels, offsets, sizes, checksums (N,): of the images, as they follow
    each other: identity, first byte in the shard, bytes, CRC-32 of them. fingerprint: over key, label and checksum of every sample in order."""

    names: tuple[str, ...]
    identities: tuple[str, ...]
    fingerprint: str
    lengths: Indices
    counts: Indices
    labels: Indices
    offsets: Indices
    sizes: NDArray[np.int32]
    checksums: NDArray[np.uint32]

    def save(self, path: Path) -> None:
        """One uncompressed .npz: numbers take 20 bytes an image, where JSON would take three times that and minutes for a hundred million."""
        about = {"version": VERSION, "shards": self.names, "identities": self.identities}
        text = json.dumps({**about, "fingerprint": self.fingerprint}).encode("ascii")
        arrays: dict[str, Any] = {name: getattr(self, name).astype(kind) for name, kind in ARRAYS.items()}
        with path.open("wb") as file:
            np.savez(file, about=np.frombuffer(text, np.uint8), **arrays)

    def part(self, names: Sequence[str]) -> ShardIndex | None:
        """The index of these shards of it, in their order; None where it does not list one of them."""
        if tuple(names) == self.names:
            return self
        number = {name: position for position, name in enumerate(self.names)}
        if len(set(names)) < len(names) or not set(names) <= set(number):
            return None
        chosen = np.array([number[name] for name in names], np.int64)
        starts = np.cumsum(self.counts) - self.counts
        rows = np.concatenate([np.arange(starts[one], starts[one] + self.counts[one]) for one in chosen])
        present, labels = np.unique(self.labels[rows], return_inverse=True)
        return ShardIndex(
            names=tuple(names),
            identities=tuple(self.identities[label] for label in present),
            fingerprint=hex_digest([self.fingerprint.encode(), *(name.encode() for name in names)]),
            lengths=self.lengths[chosen],
            counts=self.counts[chosen],
            labels=labels.astype(np.int64),
            offsets=self.offsets[rows],
            sizes=self.sizes[rows],
            checksums=self.checksums[rows],
        )


def load_index(data: bytes, address: str) -> ShardIndex:
    """UserError for whatever no `save` wrote."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("compressed")  # a few bytes could become terabytes
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            numbers: dict[str, Any] = {name: arrays[name].astype(kind) for name, kind in ARRAYS.items()}
            numbers["labels"] = numbers["labels"].astype(np.int64)
        if about["version"] != VERSION:
            raise ValueError(f"version {about['version']}, this is {VERSION}")
        index = ShardIndex(
            names=tuple(map(str, about["shards"])),
            identities=tuple(map(str, about["identities"])),
            fingerprint=str(about["fingerprint"]),
            **numbers,
        )
        check(index)
    except DAMAGE as error:
        reason = shown(str(error)) or type(error).__name__
        raise UserError(
            f"{tell_address(address)}: damaged ({reason}); copy it again, or delete it: shards are then counted"
        ) from error
    return index


def check(index: ShardIndex) -> None:
    """ValueError for parts that do not belong together and for places outside of a shard."""
    num_shards, num_images = len(index.names), len(index.labels)
    if any(array.ndim != 1 for array in (getattr(index, name) for name in ARRAYS)):
        raise ValueError("an array of another shape")
    lengths = [len(getattr(index, name)) for name in ARRAYS]
    if lengths != [num_shards] * 2 + [num_images] * 4:
        raise ValueError("its parts have different lengths")
    # A sum may wrap around.
    if (index.counts < 0).any() or (index.counts > num_images).any() or index.counts.sum() != num_images:
        raise ValueError("the shards' counts do not add up")
    if any("/" in name or "\0" in name or not name.endswith(".tar") for name in index.names):
        raise ValueError("a shard's name that is none")
    ends = np.repeat(index.lengths, index.counts)
    if (index.offsets < 0).any() or (index.sizes < 0).any() or (index.sizes > LARGEST).any():
        raise ValueError("an image of an impossible size")
    if (index.offsets > ends).any() or (index.offsets + index.sizes > ends).any():
        raise ValueError("an image outside of its shard")
    if not np.array_equal(np.unique(index.labels), np.arange(len(index.identities))):
        raise ValueError("labels that are not 0 to the number of identities - 1")


def scan_all(addresses: Sequence[str], progress: Progress | None = None) -> ShardIndex:
    """The index, by one pass over the members. progress: called with (shards done, all). UserError naming shard and member for what is not in the
    convention."""
    parts = []
    for number, address in enumerate(addresses, start=1):
        parts.append(scan(address))
        if progress is not None:
            progress(number, len(addresses))
    return join(parts)


def join(parts: Sequence[ShardIndex], identities: Sequence[str] | None = None) -> ShardIndex:
    """Joins what `scan` returned into one index. identities: names by label, else a label is its name; labels are numbered anew without gaps."""
    whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
    names = tuple(name for part in parts for name in part.names)
    present, labels = np.unique(whole["labels"], return_inverse=True)
    if len(present) < 2:
        raise UserError(f"{shown(names[0])}: {len(present)} identities in {len(names)} shards, at least two are needed")
    return ShardIndex(
        names=names,
        identities=tuple(str(label) if identities is None else identities[label] for label in present.tolist()),
        fingerprint=hex_digest(part.fingerprint.encode() for part in parts),
        **{**whole, "labels": labels.astype(np.int64)},
    )


def scan(address: str) -> ShardIndex:
    """The index of one shard, with its own labels and no names."""
    with Shard(address) as shard:
        samples = list(samples_in(shard))
        length = shard.source.size
    if length is None:
        raise UserError(
            f"{tell_address(address)}: the server does not say how long it is; serve it with a Content-Length"
        )
    rows = np.array([sample[1:] for sample in samples], np.int64).reshape(-1, 4)
    texts = (f"{key}\n{label} {checksum}" for key, label, _, _, checksum in samples)
    return ShardIndex(
        names=(name_of(address),),
        identities=(),
        fingerprint=hex_digest(row.encode("utf-8", "surrogateescape") for row in texts),
        lengths=np.array([length], np.int64),
        counts=np.array([len(samples)], np.int64),
        labels=rows[:, 0],
        offsets=rows[:, 1],
        sizes=rows[:, 2].astype(np.int32),
        checksums=rows[:, 3].astype(np.uint32),
    )


class Forward:
    """A shard as the file that tarfile reads in order; `last`: what it read last, up to `at`."""

    def __init__(self, shard: Shard) -> None:
        self.shard, self.at, self.last = shard, 0, b""
        self.limit = LONGEST_HEAD

    def read(self, size: int) -> bytes:
        if self.at > self.limit:
            raise tarfile.ReadError(f"a member's head of more than {LONGEST_HEAD} bytes")
        self.last = self.shard.read(self.at, size)
        self.at += len(self.last)
        return self.last

    def block(self, position: int) -> bytes:
        """The block that begins there, as far as it was read last."""
        start = position - (self.at - len(self.last))
        return self.last[start : start + BLOCK] if start >= 0 else b""


def samples_in(shard: Shard) -> Iterator[tuple[str, int, int, int, int]]:
    """(key, label, first byte of the image, its bytes, their CRC-32) of each sample in order."""
    file, where = Forward(shard), tell_address(shard.address)
    try:
        with tarfile.open(fileobj=file, mode="r|", bufsize=CHUNK) as tar:  # type: ignore[call-overload]  # read() is all that it calls
            for sample in webdataset().tariterators.group_by_keys(members(tar, shard.address, file)):
                yield one_sample(sample, where)
            # tarfile takes damage between two members, and a file cut there, for the end.
            if file.block(tar.offset) != bytes(BLOCK):
                raise UserError(f"{where}: ends or is damaged after byte {tar.offset}; copy it again")
    except (tarfile.TarError, EOFError, OverflowError, RecursionError, ValueError) as error:
        raise UserError(
            f"{where}: no whole tar file in the convention of WebDataset ({shown(str(error.args[0] if error.args else error))})"
        ) from error


def members(tar: tarfile.TarFile, address: str, file: Forward) -> Iterator[dict[str, Any]]:
    """Plain files of the archive as the library groups them, with (first byte, bytes, CRC-32) for an image and the text for a label."""
    for member in tar:
        tar.members.clear()  # type: ignore[attr-defined]  # it keeps them all
        file.limit = member.offset_data + max(0, member.size) + LONGEST_HEAD
        suffix = member.name.rpartition(".")[2].lower()
        if (
            not member.isreg()
            or re.match(r"__[^/]*__($|/)", member.name)
            or (suffix != "cls" and f".{suffix}" not in IMAGE_SUFFIXES)
        ):
            continue
        largest = LONGEST_LABEL if suffix == "cls" else LARGEST
        if member.issparse() or member.size > largest:
            kind = "is sparse" if member.issparse() else f"has {member.size} bytes, at most {largest} are read"
            raise UserError(f"{tell_address(address)}: {shown(member.name)} {kind}; leave it out")
        plain = tar.extractfile(member)
        data = b"" if plain is None else plain.read()
        content = data if suffix == "cls" else (member.offset_data, member.size, zlib.crc32(data))
        yield {"fname": member.name, "data": content, "__url__": address}


def one_sample(sample: dict[str, Any], where: str) -> tuple[str, int, int, int, int]:
    key, label = sample["__key__"], sample.get("cls", b"").strip()
    images = [content for suffix, content in sample.items() if f".{suffix}" in IMAGE_SUFFIXES]
    if len(images) != 1:
        raise UserError(f"{where}: {shown(key)} has {len(images)} images, a sample has one; write the shard again")
    if not label.isdigit() or int(label) > LARGEST_OWN:
        raise UserError(
            f"{where}: {shown(key)}.cls is {shown(str(label)) if label else 'missing or empty'}, expected a number; write the shard again"
        )
    return key, int(label), *images[0]

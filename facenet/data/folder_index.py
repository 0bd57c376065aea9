"""What root/<identity>/<image> holds: listed in one pass without asking for the state of any file, and remembered for the next start.

A remembered index is taken only if root and every identity's folder are the same directories with the same modification times to the
nanosecond: adding, removing or renaming an entry changes its directory's. It is not kept where that would not tell: a folder that changed
within the last seconds (times are not finer than a clock tick), or an image that is a link (its target may come and go).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facenet.atomic import replacing
from facenet.cache_dir import cache_dir
from facenet.errors import UserError, shown

log = logging.getLogger(__name__)
Indices = NDArray[np.int64]
IMAGE_SUFFIXES = frozenset({".bmp", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
VERSION = 1
SETTLED_S = 2.0  # coarsest modification times in use (FAT)
WORTH = 10_000  # images below which listing takes a few hundredths of a second
SEPARATOR = b"\0"  # the only byte besides the slash that no name holds


@dataclass(frozen=True)
class FolderIndex:
    """I identities and N images, both sorted by name. counts (I,): images of each. names: the N file names, each ended by a zero byte;
    ends (N,): where. skipped: files that are not images of an identity."""

    identities: tuple[str, ...]
    counts: Indices
    names: bytes
    ends: NDArray[np.unsignedinteger[Any]]
    skipped: int
    fingerprint: str

    @property
    def labels(self) -> Indices:
        return np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)

    def name(self, index: int) -> str:
        start = int(self.ends[index - 1]) + 1 if index else 0
        return os.fsdecode(self.names[start : int(self.ends[index])])


def folder_index(root: Path) -> FolderIndex:
    """Raises UserError for a missing folder, one without images and one with a single identity."""
    kept = cache_dir()
    place = kept and kept / "index" / hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:24]
    known = None if place is None else _remembered(place, root)
    if known is not None:
        return known
    began_ns = time.time_ns()
    index, links = _listed(root)
    if place is not None and len(index.ends) >= WORTH and not links:
        _remember(place, root, index, began_ns)
    return index


def _listed(root: Path) -> tuple[FolderIndex, bool]:
    """The index, and whether some image is a link."""
    layout = f"expected {root}/<identity>/<image>"
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {layout}")
    identities, counts, skipped, stray_images, links = [], [], 0, 0, False
    names: list[str] = []
    for entry in _entries(root):
        if entry.name.startswith(".") or not _is_folder(entry):
            skipped += 1
            stray_images += _is_image(entry)
            continue
        files = _entries(entry.path)
        images = [file for file in files if _is_image(file)]
        links = links or any(file.is_symlink() for file in files)
        skipped += len(files) - len(images)
        if images:
            identities.append(entry.name)
            counts.append(len(images))
            names += [file.name for file in images]
    if not identities:
        found = f"{stray_images} images but no folder per identity" if stray_images else "no images"
        raise UserError(f"{root}: {found}; {layout}")
    if len(identities) == 1:
        raise UserError(
            f"{root}: only one identity has images ({shown(identities[0])}), at least two are needed; {layout}"
        )
    fingerprint = name_fingerprint(identities, counts, iter(names))
    return _index(identities, counts, SEPARATOR.join(map(os.fsencode, names)) + SEPARATOR, skipped, fingerprint), links


def _index(identities: list[str], counts: list[int], names: bytes, skipped: int, fingerprint: str) -> FolderIndex:
    ends = np.flatnonzero(np.frombuffer(names, np.uint8) == 0)
    numbers: type[np.uint32] | type[np.uint64] = np.uint32 if len(names) < 1 << 32 else np.uint64
    return FolderIndex(tuple(identities), np.array(counts, np.int64), names, ends.astype(numbers), skipped, fingerprint)


def name_fingerprint(identities: list[str], counts: list[int], names: Iterator[str]) -> str:
    """16 hex digits over the rows <identity> LF <file name>, each after its length in 8 bytes."""
    digest = hashlib.sha256()
    for identity, count in zip(identities, counts, strict=True):
        rows = [f"{identity}\n{name}".encode("utf-8", "surrogateescape") for name in islice(names, count)]
        digest.update(b"".join([len(row).to_bytes(8, "little") + row for row in rows]))
    return digest.hexdigest()[:16]


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{shown(str(folder))}: cannot be listed ({error.strerror})") from error


def _is_image(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    if name.startswith(".") or name[name.rfind(".") :].lower() not in IMAGE_SUFFIXES:
        return False
    with contextlib.suppress(OSError):  # a link that leads to itself
        return entry.is_file()
    return False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):
        return entry.is_dir()
    return False


def _states(root: Path, names: list[str]) -> list[tuple[int, int, int]]:
    """Of each directory: device, number and modification time."""
    base = os.fspath(root) + os.sep
    found = map(os.stat, [base, *[base + name for name in names]])
    return [(state.st_dev, state.st_ino, state.st_mtime_ns) for state in found]


def _remember(place: Path, root: Path, index: FolderIndex, began_ns: int) -> None:
    """Only directories count that have been at rest since before they were listed. A cache that cannot be written is none."""
    try:
        with os.scandir(root) as entries:
            folders = sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_folder(entry))
        states = np.array(_states(root, folders), np.uint64)
        if int(states[:, 2].max()) > began_ns - SETTLED_S * 1e9:
            return
        head = {"version": VERSION, "folders": folders, "identities": index.identities, "skipped": index.skipped}
        head_bytes = json.dumps({**head, "fingerprint": index.fingerprint, "num_images": len(index.ends)}).encode(
            "ascii"
        )
        parts = [head_bytes, states.tobytes(), index.counts.astype("<i8").tobytes(), index.names]
        body = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as partial:
            partial.write_bytes(zlib.crc32(body).to_bytes(8, "little") + body)
    except (OSError, UnicodeError) as error:
        log.debug("the index of %s is not remembered: %s", root, error)


def _remembered(place: Path, root: Path) -> FolderIndex | None:
    """None for whatever is not surely right: no index, damage, another version, a changed directory."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        body = memoryview(place.read_bytes())
        if zlib.crc32(body[8:]) != int.from_bytes(body[:8], "little"):
            return None
        parts, at = [], 8
        while at < len(body):
            length = int.from_bytes(body[at : at + 8], "little")
            parts.append(body[at + 8 : at + 8 + length])
            at += 8 + length
        head_bytes, states, counts, names = parts
        head = json.loads(bytes(head_bytes))
        if head["version"] != VERSION:
            return None
        known = np.frombuffer(states, np.uint64).reshape(-1, 3)
        if not np.array_equal(np.array(_states(root, head["folders"]), np.uint64), known):
            return None
        per_identity = np.frombuffer(counts, "<i8").tolist()
        return _index(head["identities"], per_identity, bytes(names), head["skipped"], head["fingerprint"])
    return None

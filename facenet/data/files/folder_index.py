"""What root/<identity>/<image>, or deeper, holds: listed in one pass without asking for the state of any file, and remembered for the next start.

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
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facenet.data.files.decode import IMAGE_SUFFIXES, way_to_read
from facenet.errors import UserError, shown
from facenet.files.atomic import replacing
from facenet.files.cache_dir import cache_dir
from facenet.files.reading import reason_of

log = logging.getLogger(__name__)
Indices = NDArray[np.int64]
VERSION = 2
SETTLED_S = 2.0  # coarsest modification times in use (FAT)
WORTH = 10_000  # images below which listing takes a few hundredths of a second
# What systems leave in folders besides hidden files, none of it the user's: lost+found may not even be listed.
JUNK = {
    *("lost+found", "__macosx", "$recycle.bin", "system volume information"),
    *("@eadir", "#recycle", "thumbs.db", "desktop.ini"),
}
SEPARATOR = b"\0"  # the only byte besides the slash that no name holds


@dataclass(frozen=True)
class FolderIndex:
    """I identities and N images, both sorted by name. counts (I,): images of each. names: the N file names, below the identity's folder, each ended
    by a zero byte; ends (N,): where. left_out: numbers of files that are not images of an identity, by kind; junk of systems does not count."""

    identities: tuple[str, ...]
    counts: Indices
    names: bytes
    ends: NDArray[np.unsignedinteger[Any]]
    left_out: dict[str, int]
    fingerprint: str

    @property
    def labels(self) -> Indices:
        return np.repeat(np.arange(len(self.counts), dtype=np.int64), self.counts)

    def name(self, index: int) -> str:
        start = int(self.ends[index - 1]) + 1 if index else 0
        return os.fsdecode(self.names[start : int(self.ends[index])])


@dataclass
class Listing:
    """What is found on the way: folders that were listed, as paths below the root, and whether something in them is a link."""

    root: Path
    depth: int
    folders: list[str]
    left_out: Counter[str]
    links: bool = False
    deeper: str | None = None
    """The first folder with images that is too deep."""

    def images(self, folder: str, depth: int) -> list[str]:
        """Paths of the images in a folder, from there, sorted; of folders in it too, where the depth allows."""
        self.folders.append(folder)
        entries = _entries(self.root / folder)
        self.links = self.links or any(entry.is_symlink() for entry in entries)
        found = [entry.name for entry in entries if is_image(entry)]
        if len(found) < len(entries):
            found += self.others([entry for entry in entries if not is_image(entry)], folder, depth)
        return sorted(found)

    def others(self, entries: list[os.DirEntry[str]], folder: str, depth: int) -> Iterator[str]:
        """Images of deeper folders; counts what is left out."""
        for entry in entries:
            if is_junk(entry.name):
                continue
            if not _is_folder(entry):
                self.left_out[_kind(entry.name)] += 1
            elif depth > 1 and _leads_up(entry):  # its images would count again, or as another's
                self.left_out["links to a folder above"] += 1
            elif depth > 1:
                inside = self.images(f"{folder}{os.sep}{entry.name}", depth - 1)
                yield from (f"{entry.name}{os.sep}{name}" for name in inside)
            elif num_inside := _num_images(entry):
                self.left_out["images in deeper folders"] += num_inside
                self.deeper = self.deeper or f"{folder}{os.sep}{entry.name}"


def folder_index(root: Path, depth: int = 1) -> FolderIndex:
    """depth: folders from an identity's to its images, 1 where they are in it. Raises UserError for a missing folder, one without images and one
    with a single identity."""
    if not os.path.isdir(root):
        what = "is a file" if os.path.isfile(root) else reason_of(root) or "no such folder"
        raise UserError(f"{root}: {what}; {layout_of(root, depth)}")
    kept = cache_dir()
    known_as = os.fsencode(os.path.realpath(root)) + (SEPARATOR + b"%d" % depth if depth > 1 else b"")
    place = kept and kept / "index" / hashlib.sha256(known_as).hexdigest()[:24]
    known = None if place is None else _recall(place, root)
    if known is not None:
        return known
    began_ns = time.time_ns()
    index, listing = _list(root, depth)
    if place is not None and len(index.ends) >= WORTH and not listing.links:
        _remember(place, root, index, listing.folders, began_ns)
    return index


def descend(root: Path, depth: int = 1) -> Path:
    """The folder of the identities: root, or where its images are all in one folder of folders, as archives are unpacked, that one."""
    for _ in range(2):
        inside = _only_folder(root)
        if inside is None or _holds_images(inside, depth) or not any(map(_is_folder, _entries(inside))):
            break
        root = Path(inside)
    return root


def _only_folder(root: Path) -> str | None:
    """None where there is another one, an image, or nothing; found without looking at all of a hundred thousand."""
    found = None
    with contextlib.suppress(OSError, ValueError), os.scandir(root) as entries:
        for entry in entries:
            if is_junk(entry.name):
                continue
            if is_image(entry) or (found is not None and _is_folder(entry)):
                return None
            found = entry.path if _is_folder(entry) else found
    return found


def _holds_images(folder: str, depth: int) -> bool:
    entries = [entry for entry in _entries(folder) if not is_junk(entry.name)]
    return any(map(is_image, entries)) or (
        depth > 1 and any(_holds_images(entry.path, depth - 1) for entry in entries if _is_folder(entry))
    )


def layout_of(root: Path, depth: int) -> str:
    return f"expected {root}/<identity>/{'<folder>/' * (depth - 1)}<image>"


def _list(root: Path, depth: int = 1) -> tuple[FolderIndex, Listing]:
    layout = layout_of(root, depth)
    identities, counts, stray_images = [], [], 0
    listing = Listing(root, depth, [], Counter())
    names: list[str] = []
    for entry in _entries(root):
        if is_junk(entry.name):
            continue
        if not _is_folder(entry):
            listing.left_out["images beside the identities" if is_image(entry) else _kind(entry.name)] += 1
            stray_images += is_image(entry)
            continue
        images = listing.images(entry.name, depth)
        if images:
            identities.append(entry.name)
            counts.append(len(images))
            names += images
    if not identities:
        raise UserError(f"{root}: {_without_images(listing, stray_images)}; {layout}")
    if len(identities) == 1:
        deeper = f"; {_without_images(listing, 0)}" if listing.deeper else ""
        raise UserError(
            f"{root}: only one identity has images ({shown(identities[0])}), at least two are needed{deeper}; {layout}"
        )
    fingerprint = name_fingerprint(identities, counts, map(os.path.basename, names))
    stored = SEPARATOR.join(map(os.fsencode, names)) + SEPARATOR
    return _index(identities, counts, stored, dict(listing.left_out), fingerprint), listing


def _without_images(listing: Listing, stray_images: int) -> str:
    if stray_images:
        return f"{stray_images} images but no folder per identity"
    if listing.deeper is None:
        others = ", ".join(f"{count} {shown(kind)}" for kind, count in listing.left_out.most_common(3))
        return f"no images ({others}){way_to_read(listing.left_out)}" if others else "no images"
    first = listing.deeper.partition(os.sep)[0]
    return (
        f"the images lie one folder deeper, as in {shown(listing.deeper)}: name {shown(str(listing.root / first))} "
        f"if that holds a folder per identity, or set data.depth={listing.depth + 1} (--depth {listing.depth + 1}) if {shown(first)} is one person"
    )


def _index(
    identities: list[str], counts: list[int], names: bytes, left_out: dict[str, int], fingerprint: str
) -> FolderIndex:
    ends = np.flatnonzero(np.frombuffer(names, np.uint8) == 0)
    numbers: type[np.uint32] | type[np.uint64] = np.uint32 if len(names) < 1 << 32 else np.uint64
    return FolderIndex(
        tuple(identities), np.array(counts, np.int64), names, ends.astype(numbers), left_out, fingerprint
    )


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


def is_image(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    if name.startswith(".") or name[name.rfind(".") :].lower() not in IMAGE_SUFFIXES:
        return False
    with contextlib.suppress(OSError):  # a link that leads to itself
        return entry.is_file()
    return False


def is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _kind(name: str) -> str:
    """How a file that is left out is counted."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if 1 < len(suffix) <= 8 else "other"


def _num_images(folder: os.DirEntry[str]) -> int:
    try:
        return sum(map(is_image, _entries(folder.path)))
    except UserError:  # may not be listed
        return 0


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):
        return entry.is_dir()
    return False


def _leads_up(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to the folder that it is in, or to one above."""
    if not entry.is_symlink():
        return False
    here, there = os.path.realpath(os.path.dirname(entry.path)), os.path.realpath(entry.path)
    return os.path.join(here, "").startswith(os.path.join(there, ""))


def _states(root: Path, names: list[str]) -> list[tuple[int, int, int]]:
    """Returns device, number and modification time of each directory."""
    base = os.fspath(root) + os.sep
    found = map(os.stat, [base, *[base + name for name in names]])
    return [(state.st_dev, state.st_ino, state.st_mtime_ns) for state in found]


def _remember(place: Path, root: Path, index: FolderIndex, folders: list[str], began_ns: int) -> None:
    """Only directories count that have been at rest since before they were listed. A cache that cannot be written is none."""
    try:
        states = np.array(_states(root, folders), np.uint64)
        if int(states[:, 2].max()) > began_ns - SETTLED_S * 1e9:
            return
        head = {"version": VERSION, "folders": folders, "identities": index.identities, "left_out": index.left_out}
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


def _recall(place: Path, root: Path) -> FolderIndex | None:
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
        return _index(head["identities"], per_identity, bytes(names), head["left_out"], head["fingerprint"])
    return None

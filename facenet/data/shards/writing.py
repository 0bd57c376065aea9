"""Any faces as tar shards: files that an object store or a disk reads from front to back at its full rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from facenet.data.files.decode import IMAGE_SUFFIXES
from facenet.data.files.record_faces import RecordFaces
from facenet.data.identities import Faces, UnreadableImage
from facenet.data.shards.index import FILE_NAME, LARGEST, ShardIndex, join, scan
from facenet.data.shards.places import webdataset
from facenet.errors import UserError, shown
from facenet.files.folders import written_whole
from facenet.files.home import expand_home

ORDER_SEED = 10101  # of the order in which images are dealt to shards


def write_shards(
    faces: Faces, out: str | Path, *, images_per_shard: int, progress: Callable[[int, int], None] | None = None
) -> ShardIndex:
    """Write OUT/shard-000000.tar, ... and index.npz, or nothing; the files of the images byte by byte.

    Images are dealt in one random order, always the same: every shard is a sample of all of them, so that reading shard by shard mixes identities.
    UserError where OUT exists, another command writes it, or a file cannot be read."""
    library, target = webdataset(), expand_home(out)
    order = np.random.default_rng(ORDER_SEED).permutation(len(faces))
    with written_whole(target) as folder:
        parts: list[ShardIndex] = []
        for start in range(0, len(order), images_per_shard):
            path = folder / f"shard-{len(parts):06d}.tar"
            with path.open("wb") as file, library.TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
                for place, index in enumerate(order[start : start + images_per_shard].tolist(), start):
                    suffix, data = file_of(faces, index)
                    label = str(faces.labels[index]).encode("ascii")
                    tar.write({"__key__": f"{place:09d}", suffix: data, "cls": label})
                    if progress is not None:
                        progress(place + 1, len(order))
            parts.append(scan(str(path)))  # read back: what the index says is there
        whole = join(parts, faces.identities)
        whole.save(folder / FILE_NAME)
    return whole


def file_of(faces: Faces, index: int) -> tuple[str, bytes]:
    """(suffix, bytes) of an image's file."""
    name = faces.name(index)
    try:
        if isinstance(faces, RecordFaces):
            data, suffix = faces.body(index), ""
        else:
            data, suffix = Path(name).read_bytes(), Path(name).suffix.lower()
    except (OSError, UnreadableImage) as error:
        reason = error.reason if isinstance(error, UnreadableImage) else error.strerror
        raise UserError(f"{shown(name)}: cannot be read ({reason}); mend or remove it, then write again") from error
    if len(data) > LARGEST:
        raise UserError(f"{shown(name)}: {len(data)} bytes, an image of a shard has {LARGEST} at most; leave it out")
    # A list may name any file; readers of shards go by the suffix, and ours by the content.
    if suffix not in IMAGE_SUFFIXES:
        suffix = ".png" if data.startswith(b"\x89PNG") else ".jpg"
    return suffix[1:], data

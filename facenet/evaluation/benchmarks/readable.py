"""Images that a benchmark cannot read, found before anything trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from facenet.data.files.record_faces import RecordFaces
from facenet.data.identities import Faces, FolderFaces, ImageList, Subset, UnreadableImage
from facenet.evaluation.benchmarks.bin_file import BinFaces
from facenet.evaluation.contract import Opened

FILES = (BinFaces, FolderFaces, ImageList, RecordFaces)
BLOCK = 256  # images on their way at once


def unreadable_in(
    opened: Opened,
    *,
    num_workers: int,
    indices: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, str]:
    """The reason by image number, of all images where `indices` is None. Each image is decoded as a test will: a header does not tell that a file is
    cut. 7,701 faces of 160 pixels take 2 s on an idle core, a thirtieth of their forward pass there. Empty for drawn faces, and for shards, which
    are read in order and have checksums."""
    faces, chosen = opened.faces, range(len(opened.faces)) if indices is None else indices
    if not isinstance(origin_of(faces), FILES):
        return {}
    found: dict[int, str] = {}
    with ThreadPoolExecutor(max(1, num_workers), thread_name_prefix="facenet-look") as pool:
        for start in range(0, len(chosen), BLOCK):
            block = chosen[start : start + BLOCK]
            reasons = pool.map(lambda index: reason_of(faces, index), block)
            found.update({index: reason for index, reason in zip(block, reasons, strict=True) if reason is not None})
            if progress is not None:
                progress(start + len(block), len(chosen))
    return found


def origin_of(faces: Faces) -> Faces:
    while isinstance(faces, Subset):
        faces = faces.parent
    return faces


def reason_of(faces: Faces, index: int) -> str | None:
    try:
        faces.load(index)
    except UnreadableImage as error:
        return error.reason
    return None

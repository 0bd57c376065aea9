"""Images that a benchmark cannot read: found before anything trains, and left out or refused in one place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from facenet.data.files.record_faces import RecordFaces
from facenet.data.identities import Faces, FolderFaces, ImageList, Subset, UnreadableImage
from facenet.errors import UserError
from facenet.evaluation.benchmarks.bin_file import BinFaces
from facenet.evaluation.benchmarks.choice import PairSet

log = logging.getLogger(__name__)
FILES = (BinFaces, FolderFaces, ImageList, RecordFaces)
BLOCK = 256  # images on their way at once


def unreadable_in(
    pair_set: PairSet, *, num_workers: int, progress: Callable[[int, int], None] | None = None
) -> dict[int, str]:
    """The reason by image number. Each image is decoded as a test will: a header does not tell that a file is cut. 7,701 faces of 160 pixels take 2 s
    on an idle core, a thirtieth of their forward pass there. Empty for drawn faces, and for shards, which are read in order and have checksums."""
    faces, count = pair_set.faces, len(pair_set.faces)
    if not isinstance(origin_of(faces), FILES):
        return {}
    found: dict[int, str] = {}
    with ThreadPoolExecutor(max(1, num_workers), thread_name_prefix="facenet-look") as pool:
        for start in range(0, count, BLOCK):
            block = range(start, min(start + BLOCK, count))
            reasons = pool.map(lambda index: reason_of(faces, index), block)
            found.update({index: reason for index, reason in zip(block, reasons, strict=True) if reason is not None})
            if progress is not None:
                progress(block.stop, count)
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


def without(pair_set: PairSet, unreadable: Mapping[int, str]) -> PairSet:
    """The pairs whose images can be read. Raises UserError where more cannot than `max_unreadable` allows, which is none for a published list:
    its figures would not be comparable; and where a fold loses all its pairs of a kind."""
    if not unreadable:
        return pair_set
    first = min(unreadable)
    told = f"{pair_set.name}: {len(unreadable)} of {len(pair_set.faces)} images cannot be read, first "
    told += f"{UnreadableImage(pair_set.faces.name(first), unreadable[first])}"
    if len(unreadable) > pair_set.max_unreadable * len(pair_set.faces):
        allowed = f" than data.max_unreadable={pair_set.max_unreadable:g} allows" if pair_set.max_unreadable else ""
        more = f"; that are more{allowed}" if allowed else ""
        raise UserError(f"{told}{more}; mend or replace them, or train with benchmark=none")
    kept = ~(np.isin(pair_set.left, list(unreadable)) | np.isin(pair_set.right, list(unreadable)))
    fewer = replace(
        pair_set,
        left=pair_set.left[kept],
        right=pair_set.right[kept],
        same=pair_set.same[kept],
        folds=pair_set.folds[kept],
    )
    for fold in np.unique(pair_set.folds):
        if len(np.unique(fewer.same[fewer.folds == fold])) < 2:
            raise UserError(f"{told}; without them fold {fold} has not both kinds of pairs, so mend or replace them")
    log.warning("%s; %d of %d pairs are left out", told, (~kept).sum(), len(kept))
    return fewer

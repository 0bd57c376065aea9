"""Faces as tar shards."""

from __future__ import annotations

import os
from pathlib import Path

from facenet.data.files.annotation import read_annotation
from facenet.data.files.record_faces import RecordFaces
from facenet.data.identities import Faces, FolderFaces
from facenet.data.shards.writing import write_shards
from facenet.files.home import expand_home
from facenet.files.typed import override, quoted
from facenet.tasks.progress import image_bar
from facenet.tools.pack import check_room


def run_shard(root: str, out: str, *, images_per_shard: int, depth: int = 1) -> str:
    """Writes the shards and says what is in them and how to train on them."""
    faces = open_faces(root, depth)
    if not isinstance(faces, RecordFaces):
        check_room(faces, Path(out))
    with image_bar(len(faces), lines=True) as progress:
        index = write_shards(faces, out, images_per_shard=images_per_shard, progress=progress)
    counts = f"{len(faces):,} images of {len(faces.identities):,} identities in {len(index.names):,} shards"
    size = f"{int(index.lengths.sum()) / 1e6:,.1f} MB"
    how = f"data=shards {quoted(override('data.shards', out))} sampler=shuffle loss=arcface"
    left_out = f"; left out: {faces.left_out}" if isinstance(faces, FolderFaces) and faces.left_out else ""
    return f"{out}: {counts}, {size}{left_out}; train on them with {how}"


def open_faces(root: str, depth: int = 1) -> Faces:
    """A folder of identities, an annotation file, or a pack."""
    place = expand_home(root)
    if place.suffix == ".rec" or any(place.glob("*.rec")):
        return RecordFaces(place)
    return read_annotation(place) if os.path.isfile(place) else FolderFaces(place, depth=depth)

"""A folder of faces as a pack."""

from __future__ import annotations

import shutil
from pathlib import Path

from facenet.data.files.pack import pack_folder
from facenet.data.identities import Faces, FolderFaces
from facenet.errors import UserError
from facenet.files.home import expand_home
from facenet.files.typed import override, quoted
from facenet.tasks.progress import image_bar


def run_pack(root: str, out: str, *, size: int | None = None, depth: int = 1) -> str:
    """Writes the pack and says what is in it and how to train on it."""
    faces = FolderFaces(root, depth=depth)
    if size is None:
        check_room(faces, Path(out))
    with image_bar(len(faces), lines=True) as progress:
        num_bytes = pack_folder(faces, out, size=size, progress=progress)
    skipped = f"; left out: {faces.left_out}" if faces.left_out else ""
    counts = f"{len(faces):,} images of {len(faces.identities):,} identities, {num_bytes / 1e6:,.1f} MB"
    return f"{out}: {counts}{skipped}; train on it with data=record {quoted(override('data.path', out))}"


def check_room(faces: Faces, out: Path, sample: int = 200) -> None:
    """UserError where the disk has clearly too little room, by the mean size of some images."""
    place = next(folder for folder in expand_home(out).absolute().parents if folder.is_dir())
    sizes = [Path(faces.name(index)).stat().st_size for index in range(0, len(faces), max(1, len(faces) // sample))]
    needed, free = sum(sizes) / len(sizes) * len(faces), shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"{out}: needs about {needed / 1e9:.1f} GB and {place} has {free / 1e9:.1f} GB left; choose another place, or --size"
        )

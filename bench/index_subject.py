"""A folder of as many files as CASIA-WebFace has, listed and grouped by identity. Goal 10.

A cached or packed index is one more `Candidate`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from bench.context import Context, Outcome, require
from bench.faces import CASIA
from bench.goals import Goal
from bench.rounds import Candidate, measure
from facenet.data.identities import FolderFaces


def run(context: Context) -> Outcome:
    num_images, num_identities = (5_000, 200) if context.quick else CASIA
    root = empty_files(context.scratch / "index", num_images, num_identities)
    faces = FolderFaces(root)
    require((len(faces), len(faces.identities)) == (num_images, num_identities), "files are missing in the index")
    candidates = [
        Candidate("os.walk and sort, as ImageFolder does", walked(root), 1),
        Candidate("facenet, folder", lambda: FolderFaces(root), 1),
    ]
    rounds = min(context.rounds, 3)
    title = f"Index of {num_images:,} files of {num_identities:,} identities, warm"
    table = measure("index", title, "index", candidates, rounds=rounds)
    seconds = None if context.quick else table.row("facenet, folder").wall_s
    limit = "one Python object and one file-type test per file"
    return Outcome(
        [table], [Goal("10.1", "490,623 files listed and grouped, s wall", 3, seconds, at_most=True, limit=limit)]
    )


def empty_files(root: Path, num_images: int, num_identities: int) -> Path:
    for identity in range(num_identities):
        folder = root / f"{identity:07d}"
        folder.mkdir(parents=True)
        for number in range(identity, num_images, num_identities):
            os.close(os.open(folder / f"{number:06d}.jpg", os.O_CREAT | os.O_WRONLY))
    return root


def walked(root: Path) -> Callable[[], int]:
    """What torchvision's `make_dataset` does, without torchvision."""

    def work() -> int:
        classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        found = []
        for label, name in enumerate(classes):
            for folder, _, files in sorted(os.walk(root / name, followlinks=True)):
                found += [
                    (os.path.join(folder, file), label) for file in sorted(files) if file.lower().endswith(".jpg")
                ]
        return len(found)

    return work

"""A folder of as many files as CASIA-WebFace has, listed and grouped by identity. Goal 10."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from bench.context import Context, Outcome, require
from bench.faces import CASIA
from bench.goals import Goal
from bench.rounds import Candidate, measure
from facenet.data.files.folder_index import SETTLED_S
from facenet.data.identities import FolderFaces


def run(context: Context) -> Outcome:
    num_images, num_identities = (5_000, 200) if context.quick else CASIA
    root = empty_files(context.scratch / "index", num_images, num_identities)
    cache = context.scratch / "cache"
    os.environ["FACENET_CACHE"] = str(cache)
    time.sleep(SETTLED_S + 0.1)  # what has just changed is not remembered
    faces = FolderFaces(root)
    require((len(faces), len(faces.identities)) == (num_images, num_identities), "files are missing in the index")
    again = FolderFaces(root)
    require(bool((again.labels == faces.labels).all()) and again.fingerprint == faces.fingerprint, "another index")

    def first_time() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        FolderFaces(root)

    candidates = [
        Candidate("os.walk and sort, as ImageFolder does", walked(root), 1),
        Candidate("facenet, first time", first_time, 1),
        Candidate("facenet, remembered", lambda: FolderFaces(root), 1),
    ]
    rounds = min(context.rounds, 3)
    title = f"Index of {num_images:,} files of {num_identities:,} identities, warm"
    table = measure("index", title, "index", candidates, rounds=rounds)
    first, known = (
        None if context.quick else table.row(name).wall_s for name in ("facenet, first time", "facenet, remembered")
    )
    return Outcome(
        [table],
        [
            Goal(
                "10.1",
                "490,623 files listed and grouped, s wall",
                3,
                first,
                at_most=True,
                limit="one Python object and one file-type test per file",
            ),
            Goal(
                "10.2",
                "the same, remembered, s wall",
                0.05,
                known,
                at_most=True,
                limit="one stat of each of 10,575 folders, and labels of all images",
            ),
        ],
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

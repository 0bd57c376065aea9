"""Small image folders and faces that know their own numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from facenet.data.identities import UnreadableImage

MakeFolder = Callable[[dict[str, int]], Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """A function {identity: number of images} -> root/<identity>/<number>.png, image n of the k-th identity filled with
    (k, n, 0).
    """

    def make(people: dict[str, int]) -> Path:
        root = tmp_path / "people"
        root.mkdir(exist_ok=True)
        for position, (identity, num_images) in enumerate(sorted(people.items())):
            (root / identity).mkdir()
            for number in range(num_images):
                Image.new("RGB", (6, 8), (position, number, 0)).save(root / identity / f"{number}.png")
        return root

    return make


class NumberedFaces:
    """Faces in memory: the pixels of image i are all i; those in `broken` cannot be read."""

    def __init__(self, labels: list[int], broken: tuple[int, ...] = ()) -> None:
        self.labels: NDArray[np.int64] = np.array(labels, dtype=np.int64)
        self.identities = tuple(f"p{label}" for label in range(max(labels) + 1))
        self.fingerprint = "0" * 16
        self.broken = broken

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"face{index}"

    def load(self, index: int) -> NDArray[np.uint8]:
        if index in self.broken:
            raise UnreadableImage(self.name(index), "truncated")
        return np.full((4, 4, 3), index, np.uint8)

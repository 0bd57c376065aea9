"""Commands of the pages as a reader types them, in a folder with drawn faces of 32 pixels; sizes alone are cut down by overrides behind them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
from jobs import BIN
from PIL import Image

from facenet.data.drawn.synthetic import SyntheticFaces

SMALL = (
    *("data.image_size=32", "data.batch_size=12", "data.num_workers=1", "trainer.max_steps=2", "accelerator=cpu"),
    *("backbone.trunk.width=0.25", "backbone.trunk.init=kaiming", "tracking.system_metrics=false"),
)
HELDOUT = ("data.val_identities=0.34", "benchmark.num_pairs=60", "benchmark.num_folds=3")
DRAWN = ("data.num_identities=12", "data.images_per_identity=8", *HELDOUT)


def written(root: Path, *, seed: int, name: str) -> None:
    """12 identities x 8 images as root/<identity>/<identity>_0001.jpg"""
    faces = SyntheticFaces(num_identities=12, images_per_identity=8, size=32, seed=seed)
    for index in range(len(faces)):
        person, image = divmod(index, 8)
        path = root / f"{name}_{person}" / f"{name}_{person}_{image + 1:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.load(index)).save(path)


def fill(folder: Path) -> Path:
    """PEOPLE, LFW with pairs.txt of 10 folds, anna.jpg and berta.png."""
    rng = np.random.default_rng(0)
    written(folder / "PEOPLE", seed=1, name="anna")
    written(folder / "LFW", seed=2, name="berta")
    lines = ["10\t2"]
    for _ in range(10):
        lines += [f"berta_{person}\t1\t2" for person in rng.choice(12, 2, replace=False)]
        lines += [
            f"berta_{one}\t3\tberta_{other}\t4" for one, other in (rng.choice(12, 2, replace=False) for _ in "ab")
        ]
    (folder / "LFW" / "pairs.txt").write_text("\n".join(lines) + "\n")
    Image.open(folder / "PEOPLE/anna_0/anna_0_0001.jpg").save(folder / "anna.jpg")
    Image.open(folder / "PEOPLE/anna_1/anna_1_0001.jpg").save(folder / "berta.png")
    return folder


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(BIN / words[0]), *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )

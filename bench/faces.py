"""Deterministic JPEG files of the size of a face crop: 250 x 250, quality 90, about 13 KB; no picture of anybody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 250
CASIA = (490_623, 10_575)  # images and identities of CASIA-WebFace


def write_faces(root: Path, *, num_identities: int, images_per_identity: int) -> Path:
    """root/<identity>/<image>.jpg, made once."""
    done = root / f"{num_identities}x{images_per_identity}"
    if done.is_dir():
        return done
    for identity in range(num_identities):
        folder = done / f"p{identity:05d}"
        folder.mkdir(parents=True)
        for number in range(images_per_identity):
            picture(identity, number).save(folder / f"{number:04d}.jpg", quality=90)
    return done


def picture(identity: int, number: int) -> Image.Image:
    """Smooth shapes of the identity, finer ones and a little grain of the image."""
    own, drawn = np.random.default_rng(identity), np.random.default_rng([identity, number])
    shape = smooth(own, 6, 60) + smooth(drawn, 25, 14) + drawn.normal(0, 5, (SIDE, SIDE, 1))
    return Image.fromarray(np.clip(128 + shape, 0, 255).astype(np.uint8))


def smooth(rng: np.random.Generator, cells: int, depth: float) -> np.ndarray:
    small = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
    planes = [
        np.asarray(Image.fromarray(small[:, :, c]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for c in range(3)
    ]
    return np.stack(planes, axis=2) * depth


def casia_index(paths: list[str]) -> tuple[list[str], np.ndarray]:
    """Paths and labels of a set as long as CASIA-WebFace over the same few files."""
    num_images, num_identities = CASIA
    labels = np.sort(np.arange(num_images) % num_identities)
    return [paths[index % len(paths)] for index in range(num_images)], labels

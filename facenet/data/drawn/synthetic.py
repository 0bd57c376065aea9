"""Drawn faces: enough likeness within an identity and enough disturbance around it to exercise a whole training run
without any file.

An identity fixes the geometry (face, eyes, brows, nose, mouth, hair, ears) and a tendency of skin and hair colour.
Every image draws pose, expression, light and its colour, background, occlusion and noise anew. Light moves colours
further than identities do, so the geometry has to be learned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from facenet.data.drawn.portrait import CIRCLE, OPENED, SPREAD, Floats, Person, parts
from facenet.data.identities import hex_digest
from facenet.errors import UserError, check_least

MOST = 10_000_000  # images
VERSION = 1  # part of the fingerprint: raise it when the drawing changes
IDENTITY, IMAGE = 1, 2  # first number of a random stream's key


class SyntheticFaces:
    """`num_identities` x `images_per_identity` faces of size x size pixels, drawn when asked for; equal for equal
    arguments on every machine.

    Image i shows identity i // images_per_identity."""

    def __init__(self, *, num_identities: int, images_per_identity: int, size: int, seed: int = 0) -> None:
        if num_identities < 2 or images_per_identity < 1:
            raise UserError(
                f"data=synthetic: needs num_identities >= 2 and images_per_identity >= 1, "
                f"got {num_identities} and {images_per_identity}"
            )
        if num_identities * images_per_identity > MOST:
            raise UserError(
                f"data=synthetic: at most {MOST:,} images are drawn, got num_identities={num_identities} x images_per_identity={images_per_identity}"
            )
        check_least("data.seed", seed, 0)
        if size < 16:
            raise UserError(f"data.image_size: synthetic faces need 16 pixels or more, got {size}")
        self.images_per_identity, self.size, self.seed = images_per_identity, size, seed
        self.labels = np.repeat(np.arange(num_identities, dtype=np.int64), images_per_identity)
        self.identities = tuple(f"synthetic/{number}" for number in range(num_identities))
        self.fingerprint = hex_digest([repr((VERSION, num_identities, images_per_identity, size, seed)).encode()])
        self._masks: dict[int, Mask] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        identity, image = divmod(index, self.images_per_identity)
        return f"synthetic/{identity}#{image}"

    def stamp(self) -> str:
        return self.fingerprint

    def contents(self, index: int) -> None:
        return None

    def load(self, index: int) -> NDArray[np.uint8]:
        identity = int(self.labels[index])
        mask = self._masks.get(identity)
        if mask is None:  # two threads may both make it: they make the same
            mask = self._masks[identity] = Mask(Person(np.random.default_rng([IDENTITY, self.seed, identity])))
        return draw_face(mask, np.random.default_rng([IMAGE, self.seed, index]), self.size)


class Mask:
    """All outlines of an identity as one array of points, and how each expression moves them (blend shapes): an image
    is then two products."""

    def __init__(self, person: Person) -> None:
        outlines = parts(person, np.zeros(4))
        self.points = np.concatenate([points for _, points in outlines])  # (P, 3)
        self.ends = np.cumsum([len(points) for _, points in outlines]).tolist()
        self.colours = [_colour(colour) for colour, _ in outlines]
        moved = [np.concatenate([points for _, points in parts(person, expression)]) for expression in np.diag(SPREAD)]
        # (4, P, 3)
        self.shapes = np.stack([(each - self.points) / spread for each, spread in zip(moved, SPREAD, strict=True)])


def draw_face(mask: Mask, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """One photograph (size, size, 3) of the identity, with everything that is not the identity drawn from `rng`."""
    large = 2 * size  # drawn at twice the size and averaged: Pillow's polygons have hard edges
    turn, shift = _camera(rng, large)
    expression = rng.normal(0, SPREAD)
    expression[OPENED] = abs(expression[OPENED])
    points = (mask.points + np.tensordot(expression, mask.shapes, 1)) @ turn + shift
    canvas = Image.new("RGB", (large, large), _colour(rng.integers(20, 236, 3)))
    pen = ImageDraw.Draw(canvas)
    _backdrop(pen, rng, large)
    flat, start = points.ravel().tolist(), 0
    for colour, end in zip(mask.colours, mask.ends, strict=True):
        pen.polygon(flat[2 * start : 2 * end], fill=colour)
        start = end
    if rng.random() < 0.1:
        _occluder(pen, rng, large)
    return _lit(np.asarray(canvas.reduce(2)), rng)


def _colour(values: Floats | NDArray[np.int64] | Sequence[float]) -> tuple[int, int, int]:
    red, green, blue = np.clip(values, 0, 255).astype(int).tolist()
    return red, green, blue


def _camera(rng: np.random.Generator, large: int) -> tuple[Floats, Floats]:
    """The projection of this image, points @ (3, 2) + (2,): head turn and nod, roll, scale and shift."""
    yaw, pitch, roll = rng.normal(0, [0.15, 0.08, 0.06])
    scale = large * 0.36 * rng.uniform(0.94, 1.06)
    shift = large * (0.5 + rng.uniform(-0.03, 0.03, 2)) + [0, 0.03 * large]
    turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, np.cos(pitch), np.sin(pitch)]])
    rolled = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]) @ turn * scale
    return rolled.T, shift


def _backdrop(pen: ImageDraw.ImageDraw, rng: np.random.Generator, large: int) -> None:
    """A few large shapes behind the head."""
    corners = rng.uniform(-0.2, 1.2, (3, 4, 2)) * large
    for shape, colour in zip(corners, rng.integers(20, 236, (3, 3)), strict=True):
        pen.polygon(shape.ravel().tolist(), fill=_colour(colour))


def _occluder(pen: ImageDraw.ImageDraw, rng: np.random.Generator, large: int) -> None:
    """A hand, a microphone, a neighbour: something in front of a part of the face."""
    centre, radius = rng.uniform(0.1, 0.9, 2) * large, rng.uniform(0.06, 0.14) * large
    pen.polygon(
        (CIRCLE * radius * [1, rng.uniform(0.6, 1.6)] + centre).ravel().tolist(), fill=_colour(rng.integers(0, 256, 3))
    )


def _lit(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light of random strength, colour and direction, contrast, and sensor noise."""
    size = len(image)
    exposure = np.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.12, 3))  # one factor per channel
    slope = rng.normal(0, 0.25, 2)
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    light = (1 + slope[0] * ramp[:, None] + slope[1] * ramp).clip(0.25, 1.9).astype(np.float32)
    lit = image * (light[:, :, None] * exposure.astype(np.float32))
    noise = rng.integers(-128, 128, (size, size, 3), dtype=np.int8)
    lit += noise * np.float32(rng.uniform(0.02, 0.08))
    lit += np.float32(rng.normal(0, 12))
    pixels: NDArray[np.uint8] = lit.clip(0, 255).astype(np.uint8)
    return pixels

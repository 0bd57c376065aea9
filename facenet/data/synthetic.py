"""Drawn faces: enough likeness within an identity and enough disturbance around it to exercise a whole training run
without any file.

An identity fixes the geometry (face, eyes, brows, nose, mouth, hair, ears) and a tendency of skin and hair colour.
Every image draws pose, expression, light and its colour, background, occlusion and noise anew. Light moves colours
further than identities do, so the geometry has to be learned. Coordinates are in units of half a face height, x to the
right, y down, z towards the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from facenet.data.identities import hex_digest
from facenet.errors import UserError

Floats = NDArray[np.float64]
Points = Floats  # (P, 3)
VERSION = 1  # part of the fingerprint: raise it when the drawing changes
IDENTITY, IMAGE = 1, 2  # first number of a random stream's key
TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
CIRCLE = np.stack([np.cos(TURN), np.sin(TURN)], axis=1)
ARC = np.linspace(-1, 1, 9)
SMILE, OPENED, SQUINT, RAISED = range(
    4
)  # an expression: mouth corners up, jaw down, lids closing (share of the eye), brows up
SPREAD = np.array([0.06, 0.05, 0.15, 0.02])  # standard deviation of each


@dataclass(frozen=True)
class Person:
    """What stays the same in every image of an identity; lengths in half face heights."""

    face_width: float
    jaw: float  # 0 pointed .. 1 square
    cheek: float
    eye_gap: float
    eye_y: float
    eye_width: float
    eye_height: float
    eye_slant: float
    iris: float
    iris_colour: Floats
    brow_lift: float
    brow_thick: float
    brow_slant: float
    brow_arch: float
    nose_length: float
    nose_width: float
    mouth_y: float
    mouth_width: float
    lip: float
    lip_red: float
    hairline: float
    hair_side: float  # how far down the sides hair reaches
    hair_volume: float
    parting: float
    ear: float
    beard: float
    skin: Floats
    hair: Floats


def draw_person(rng: np.random.Generator) -> Person:
    """A random identity."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    dark, fair = between(0, 1), between(0, 1)
    skin = np.array([232, 196, 170]) * (1 - dark) + np.array([120, 80, 58]) * dark + rng.uniform(-12, 12, 3)
    hair = np.array([25, 20, 18]) + fair**2 * np.array([165, 130, 80]) + rng.uniform(-10, 10, 3)
    return Person(
        face_width=between(0.62, 0.90),
        jaw=between(0, 1),
        cheek=between(-0.06, 0.10),
        eye_gap=between(0.24, 0.42),
        eye_y=between(-0.24, 0.02),
        eye_width=between(0.10, 0.19),
        eye_height=between(0.45, 0.95),
        eye_slant=between(-0.25, 0.25),
        iris=between(0.55, 1.0),
        iris_colour=rng.uniform([20, 30, 20], [110, 120, 150]),
        brow_lift=between(0.13, 0.27),
        brow_thick=between(0.02, 0.075),
        brow_slant=between(-0.35, 0.35),
        brow_arch=between(0, 0.09),
        nose_length=between(0.24, 0.48),
        nose_width=between(0.08, 0.20),
        mouth_y=between(0.42, 0.64),
        mouth_width=between(0.18, 0.36),
        lip=between(0.03, 0.09),
        lip_red=between(0, 1),
        hairline=between(-0.85, -0.45),
        hair_side=between(-0.5, 0.9),
        hair_volume=between(0.02, 0.28),
        parting=between(-0.5, 0.5),
        ear=between(0.05, 0.16),
        beard=max(0.0, between(-1.2, 0.8)),
        skin=skin,
        hair=hair,
    )


class SyntheticFaces:
    """`num_identities` x `images_per_identity` faces of size x size pixels, drawn when asked for; equal for equal
    arguments on every machine.

    Image i shows identity i // images_per_identity.
    """

    def __init__(self, *, num_identities: int, images_per_identity: int, size: int, seed: int = 0) -> None:
        if num_identities < 2 or images_per_identity < 1:
            raise UserError(
                f"data=synthetic: needs num_identities >= 2 and images_per_identity >= 1, "
                f"got {num_identities} and {images_per_identity}"
            )
        if size < 16:
            raise UserError(f"data.image_size: synthetic faces need 16 pixels or more, got {size}")
        self.images_per_identity = images_per_identity
        self.size = size
        self.seed = seed
        self.labels = np.repeat(np.arange(num_identities, dtype=np.int64), images_per_identity)
        self.identities = tuple(f"synthetic/{number}" for number in range(num_identities))
        self.fingerprint = hex_digest([repr((VERSION, num_identities, images_per_identity, size, seed)).encode()])
        self._masks: dict[int, Mask] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        identity, image = divmod(index, self.images_per_identity)
        return f"synthetic/{identity}#{image}"

    def load(self, index: int) -> NDArray[np.uint8]:
        identity = int(self.labels[index])
        mask = self._masks.get(identity)
        if mask is None:  # two threads may both make it: they make the same
            mask = self._masks[identity] = Mask(draw_person(np.random.default_rng([IDENTITY, self.seed, identity])))
        return draw_face(mask, np.random.default_rng([IMAGE, self.seed, index]), self.size)


class Mask:
    """All outlines of an identity as one array of points, and how each expression moves them (blend shapes): an image
    is then two products.
    """

    def __init__(self, person: Person) -> None:
        parts = _parts(person, np.zeros(4))
        self.points = np.concatenate([points for _, points in parts])  # (P, 3)
        self.ends = np.cumsum([len(points) for _, points in parts]).tolist()
        self.colours = [_colour(colour) for colour, _ in parts]
        moved = [np.concatenate([points for _, points in _parts(person, expression)]) for expression in np.diag(SPREAD)]
        self.shapes = np.stack(
            [(points - self.points) / spread for points, spread in zip(moved, SPREAD, strict=True)]
        )  # (4, P, 3)


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


def _at(xy: Floats, depth: float | Floats) -> Points:
    return np.column_stack([xy, np.broadcast_to(depth, len(xy))])


def _parts(person: Person, expression: Floats) -> list[tuple[Floats, Points]]:
    """(colour, outline) from back to front."""
    skin, hair = person.skin, person.hair
    outline = _face_outline(person)
    parts = [(hair, _at(_hair_back(person), -0.25)), (skin * 0.78, _neck(person))]
    for side in (-1.0, 1.0):
        parts.append((skin * 0.92, _at(CIRCLE * [person.ear, 0.2] + [side * person.face_width, 0.0], -0.1)))
    parts.append((skin, outline))
    if person.beard > 0.05:
        parts.append((skin * (1 - 0.6 * person.beard) + hair * 0.5 * person.beard, _beard(outline, person)))
    for side in (-1.0, 1.0):
        parts += _eye(person, side, expression)
    parts += _nose(person)
    parts += _mouth(person, expression)
    parts.append((hair, _fringe(person)))
    return parts


def _face_outline(person: Person) -> Points:
    low = np.clip(CIRCLE[:, 1], 0, 1)
    narrow = 1 - (0.34 - 0.34 * person.jaw) * low**1.5 + person.cheek * np.exp(-(((CIRCLE[:, 1] - 0.3) / 0.3) ** 2))
    power = 1 - 0.35 * person.jaw * low  # below 1 makes the corners of the jaw fuller
    x = np.sign(CIRCLE[:, 0]) * np.abs(CIRCLE[:, 0]) ** power * person.face_width * narrow
    return _at(np.column_stack([x, CIRCLE[:, 1]]), 0.0)


def _neck(person: Person) -> Points:
    half = 0.6 * person.face_width
    return np.array([[-half, 0.5, -0.2], [half, 0.5, -0.2], [half * 1.2, 2, -0.2], [-half * 1.2, 2, -0.2]])


def _hair_back(person: Person) -> Floats:
    wide = person.face_width + person.hair_volume * 0.8
    shape = CIRCLE * [wide, 1 + person.hair_volume]
    shape[:, 1] = np.minimum(shape[:, 1], person.hair_side)
    return shape


def _fringe(person: Person) -> Points:
    top = CIRCLE[CIRCLE[:, 1] <= 1e-9] * [person.face_width * 1.03, 1.02 + person.hair_volume]
    top = top[np.argsort(top[:, 0])]
    x = ARC * person.face_width * 1.03
    line = person.hairline + 0.35 * np.abs(ARC - person.parting) * abs(person.hairline)
    line = np.where(np.abs(ARC) > 0.95, -0.15, line)
    return _at(np.concatenate([top, np.column_stack([x, line])[::-1]]), 0.12)


def _beard(outline: Points, person: Person) -> Points:
    lower = outline[outline[:, 1] > 0.15]
    lower = lower[np.argsort(lower[:, 0])]
    inner = lower[::-1] * [0.72, 1, 1]
    inner[:, 1] = np.minimum(inner[:, 1] * 0.8, person.mouth_y - 0.1)
    return np.concatenate([lower, inner])


def _eye(person: Person, side: float, expression: Floats) -> list[tuple[Floats, Points]]:
    half = person.eye_width
    height = half * person.eye_height * (0.7 - 0.8 * expression[SQUINT])
    centre = np.array([side * person.eye_gap, person.eye_y])
    slant = np.array([[1.0, side * person.eye_slant], [0.0, 1.0]])
    radius = half * 0.6 * person.iris
    brow = np.column_stack(
        [ARC * half * 1.35, -person.brow_arch * (1 - ARC**2) + side * person.brow_slant * ARC * half]
    )
    brow += [0, -person.brow_lift - expression[RAISED]]
    thick = [0, person.brow_thick]
    return [
        (np.array([235.0, 233.0, 228.0]), _at(CIRCLE * [half, height] @ slant + centre, 0.18)),
        (person.iris_colour, _at(CIRCLE[::2] * [radius, min(radius, height)] + centre, 0.2)),
        (np.array([12.0, 10.0, 10.0]), _at(CIRCLE[::3] * min(radius, height) * 0.45 + centre, 0.21)),
        (person.hair * 0.8, _at(np.concatenate([brow, brow[::-1] + thick]) + centre, 0.22)),
    ]


def _nose(person: Person) -> list[tuple[Floats, Points]]:
    tip = person.eye_y + 0.05 + person.nose_length
    wide = person.nose_width
    ridge = np.array(
        [
            [-0.05, person.eye_y, 0.22],
            [0.03, person.eye_y, 0.22],
            [wide, tip, 0.4],
            [0, tip + 0.06, 0.45],
            [-wide, tip, 0.4],
        ]
    )
    nostrils = [
        _at(CIRCLE[::4] * [wide * 0.28, 0.025] + [side * wide * 0.55, tip + 0.02], 0.42) for side in (-1.0, 1.0)
    ]
    return [(person.skin * 0.86, ridge), *((person.skin * 0.4, nostril) for nostril in nostrils)]


def _mouth(person: Person, expression: Floats) -> list[tuple[Floats, Points]]:
    smile, opened = expression[SMILE], expression[OPENED]
    wide = person.mouth_width * (1 + 0.6 * smile)
    bend = -smile * ARC**2
    middle = np.column_stack([ARC * wide, bend + person.mouth_y])
    bow = person.lip * (1 - ARC**2)
    red = person.skin * (1 - 0.5 * person.lip_red) + np.array([150.0, 40.0, 50.0]) * 0.5 * person.lip_red
    upper, lower = (
        middle - np.column_stack([0 * ARC, bow]),
        middle + np.column_stack([0 * ARC, bow * 1.2 + opened * (1 - ARC**2)]),
    )
    gap = middle + np.column_stack([0 * ARC, (opened + 0.012) * (1 - ARC**2)])
    return [
        (red * 0.85, _at(np.concatenate([upper, lower[::-1]]), 0.25)),
        (np.array([45.0, 15.0, 18.0]), _at(np.concatenate([middle, gap[::-1]]), 0.26)),
    ]


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

"""The outlines of a drawn face: what an identity fixes and how an expression moves it.

Lengths are in half face heights, x to the right, y down, z towards the camera.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Points = Floats  # (P, 3)
TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
CIRCLE = np.stack([np.cos(TURN), np.sin(TURN)], axis=1)
ARC = np.linspace(-1, 1, 9)
# An expression: mouth corners up, jaw down, lids closing (share of the eye), brows up.
SMILE, OPENED, SQUINT, RAISED = range(4)
SPREAD = np.array([0.06, 0.05, 0.15, 0.02])  # standard deviation of each


class Person:
    """A random identity: what stays the same in every image of it. Lengths in half face heights."""

    def __init__(self, rng: np.random.Generator) -> None:
        def between(low: float, high: float) -> float:
            return float(rng.uniform(low, high))

        dark, fair = between(0, 1), between(0, 1)
        skin = np.array([232, 196, 170]) * (1 - dark) + np.array([120, 80, 58]) * dark
        self.skin: Floats = skin + rng.uniform(-12, 12, 3)
        hair = np.array([25, 20, 18]) + fair**2 * np.array([165, 130, 80])
        self.hair: Floats = hair + rng.uniform(-10, 10, 3)
        self.face_width = between(0.62, 0.90)
        self.jaw = between(0, 1)  # 0 pointed .. 1 square
        self.cheek = between(-0.06, 0.10)
        self.eye_gap = between(0.24, 0.42)
        self.eye_y = between(-0.24, 0.02)
        self.eye_width = between(0.10, 0.19)
        self.eye_height = between(0.45, 0.95)
        self.eye_slant = between(-0.25, 0.25)
        self.iris = between(0.55, 1.0)
        self.iris_colour: Floats = rng.uniform([20, 30, 20], [110, 120, 150])
        self.brow_lift = between(0.13, 0.27)
        self.brow_thick = between(0.02, 0.075)
        self.brow_slant = between(-0.35, 0.35)
        self.brow_arch = between(0, 0.09)
        self.nose_length = between(0.24, 0.48)
        self.nose_width = between(0.08, 0.20)
        self.mouth_y = between(0.42, 0.64)
        self.mouth_width = between(0.18, 0.36)
        self.lip = between(0.03, 0.09)
        self.lip_red = between(0, 1)
        self.hairline = between(-0.85, -0.45)
        self.hair_side = between(-0.5, 0.9)  # how far down the sides hair reaches
        self.hair_volume = between(0.02, 0.28)
        self.parting = between(-0.5, 0.5)
        self.ear = between(0.05, 0.16)
        self.beard = max(0.0, between(-1.2, 0.8))


def _at(xy: Floats, depth: float | Floats) -> Points:
    return np.column_stack([xy, np.broadcast_to(depth, len(xy))])


def parts(person: Person, expression: Floats) -> list[tuple[Floats, Points]]:
    """(colour, outline) from back to front."""
    skin, hair = person.skin, person.hair
    outline = _face_outline(person)
    front = [(hair, _at(_hair_back(person), -0.25)), (skin * 0.78, _neck(person))]
    for side in (-1.0, 1.0):
        front.append((skin * 0.92, _at(CIRCLE * [person.ear, 0.2] + [side * person.face_width, 0.0], -0.1)))
    front.append((skin, outline))
    if person.beard > 0.05:
        front.append((skin * (1 - 0.6 * person.beard) + hair * 0.5 * person.beard, _beard(outline, person)))
    for side in (-1.0, 1.0):
        front += _eye(person, side, expression)
    front += _nose(person)
    front += _mouth(person, expression)
    front.append((hair, _fringe(person)))
    return front


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

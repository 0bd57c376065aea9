"""From the pixels of a file to the input of a network: random augmentation, then the one preprocessing of train,
evaluate, embed and export.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import random
import struct
import threading
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from facenet.errors import UserError

# albumentations asks a web server for its newest version whenever it is imported; a training process must not.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

Pixels = NDArray[np.uint8]
GREY = 128


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How an image becomes (3, H, W) float32; travels in the checkpoint.

    size: [H, W] of the network's input in pixels. crop: share of each side kept around the centre, before `fit`.
    fit: "letterbox" scales until the whole image fits and fills with grey, "resize" stretches, "centre_crop" scales
    until the frame is covered and cuts the middle. interpolation: of the scaling. mean, std: per RGB channel, in units where white is 1."""

    size: list[int]
    fit: Literal["letterbox", "resize", "centre_crop"] = "letterbox"
    crop: float = 1.0
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    std: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"preprocess.size: expected [height, width] in pixels, got {self.size}")
        if not 0 < self.crop <= 1:
            raise UserError(f"preprocess.crop: expected a share in (0, 1], got {self.crop}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError(
                "preprocess.mean and preprocess.std need three numbers each, std above 0; "
                f"got {self.mean} and {self.std}"
            )
        for name, known in (
            ("fit", ("letterbox", "resize", "centre_crop")),
            ("interpolation", ("bicubic", "bilinear")),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"preprocess.{name}: expected one of {', '.join(known)}, got {getattr(self, name)!r}")

    def __call__(self, image: Pixels) -> Pixels:
        """(h, w, 3) uint8 to (H, W, 3) uint8, contiguous."""
        if self.crop < 1:
            height, width = image.shape[:2]
            image = _cut_centre(image, max(1, round(height * self.crop)), max(1, round(width * self.crop)))
        fitted: Pixels = getattr(self, f"_{self.fit}")(image)
        return np.ascontiguousarray(fitted)

    def normalize(self, images: Tensor) -> Tensor:
        """(N, H, W, 3) uint8 on any device to (N, 3, H, W) float32, channels_last in memory: a batch needs no
        reordering copy."""
        scale, shift = affine(tuple(self.mean), tuple(self.std), images.device)
        return images.permute(0, 3, 1, 2).to(torch.float32).mul_(scale).add_(shift)

    def as_dict(self) -> dict[str, Any]:
        """Plain values from which `Preprocess(**values)` makes an equal object."""
        return asdict(self)

    def _resize(self, image: Pixels) -> Pixels:
        return resize(image, self.size[0], self.size[1], self.interpolation)

    def _letterbox(self, image: Pixels) -> Pixels:
        height, width = self.size
        if image.shape[:2] == (height, width):
            return image
        scale = min(height / image.shape[0], width / image.shape[1])
        inner = resize(
            image, max(1, int(image.shape[0] * scale)), max(1, int(image.shape[1] * scale)), self.interpolation
        )
        if inner.shape[:2] == (height, width):
            return inner
        canvas = np.full((height, width, 3), GREY, np.uint8)
        top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
        canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        return canvas

    def _centre_crop(self, image: Pixels) -> Pixels:
        height, width = self.size
        scale = max(height / image.shape[0], width / image.shape[1])
        covering = max(height, round(image.shape[0] * scale)), max(width, round(image.shape[1] * scale))
        return _cut_centre(resize(image, *covering, self.interpolation), height, width)


def _cut_centre(image: Pixels, height: int, width: int) -> Pixels:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def resize(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """Antialiased. torch's uint8 kernel on interleaved pixels: within 2 of 255 of Pillow's result in a third of its
    time."""
    if image.shape[:2] == (height, width):
        return image
    source = image if image.flags.writeable and image.flags.c_contiguous else image.copy()
    # A batch of one before the axes turn: torch then knows the layout, and gives its result in it. 131 us at 160 px, where the same with
    # permute(2, 0, 1).unsqueeze(0) takes 208, and 115 more to be copied.
    planes = torch.from_numpy(source).unsqueeze(0).permute(0, 3, 1, 2)
    scaled = functional.interpolate(planes, size=(height, width), mode=interpolation, antialias=True)
    return scaled[0].permute(1, 2, 0).numpy()


@functools.lru_cache(maxsize=8)
def affine(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Scale and shift (3, 1, 1) with (x / 255 - mean) / std = x * scale + shift; kept, for a fresh copy to a device
    waits for it."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale.view(3, 1, 1), shift.view(3, 1, 1)


class Augment:
    """Random changes to a uint8 image. What is drawn depends on the key alone.

    flip: share of images mirrored left to right. pipeline: albumentations transforms, applied in order after the flip and before Preprocess.
    Without a pipeline the flip comes after Preprocess, which lets preprocessed images be kept."""

    def __init__(self, *, flip: float = 0.0, pipeline: list[Any] | None = None) -> None:
        if not 0 <= flip <= 1:
            raise UserError(f"augment.flip: expected a share in [0, 1], got {flip}")
        self.flip = flip
        self.pipeline = list(pipeline or [])
        for place, each in enumerate(self.pipeline):
            if not callable(each):
                raise UserError(f"augment.pipeline.{place}: expected a transform of albumentations, got {each!r:.60}")
        self._threads = threading.local()

    def __call__(self, image: Pixels, *, key: tuple[int, ...]) -> Pixels:
        """The changed image, (H, W, 3) uint8 (some transforms change H and W); equal for equal keys, whatever thread or
        process asks."""
        draw, seed = _random_bits(key)
        if draw < self.flip:
            image = mirror(image)
        return self._apply(seed, image) if self.pipeline else image

    def _apply(self, seed: int, image: Pixels) -> Pixels:
        """Raises UserError where the pipeline fails, or gives anything else than such an image: as uint8, floats in 0..1 would be black."""
        changed, wrong = _tried(self._compose, seed, image)
        if wrong is None:
            return typing.cast("Pixels", changed)
        name, wrong = self._culprit(seed, image) or ("augment.pipeline", wrong)
        raise UserError(
            f"{name} {wrong}; every image has to stay uint8 of shape (height, width, 3): preprocess.mean and preprocess.std normalise it afterwards, "
            "on the device. Leave the transform out, or change it"
        )

    def _culprit(self, seed: int, image: Pixels) -> tuple[str, str] | None:
        """Place and name of the first transform after which no more such images come, and what it does; None where each by itself is sound."""
        found = None
        for end, transform in reversed(list(enumerate(self.pipeline))):
            _, wrong = _tried(functools.partial(_seeded_compose, copy.deepcopy(self.pipeline[: end + 1])), seed, image)
            if wrong is None:
                break
            found = f"augment.pipeline.{end} ({type(transform).__name__})", wrong
        return found

    def rehearse(self, image: Pixels, *, draws: int = 16) -> None:
        """Raises UserError for a pipeline that gives anything else than uint8 (H, W, 3) of such an image: as it is, and with every transform in it
        sure to act."""
        if not self.pipeline:
            return
        sure = Augment(pipeline=copy.deepcopy(self.pipeline))
        for transform in _within(sure.pipeline):
            transform.p = 1.0
        for number in range(draws):
            for augment in (sure, self):
                augment(image, key=(number,))

    @property
    def after_preprocess(self) -> bool:
        """Whether the flip comes after Preprocess: there is no pipeline, and preprocessed images can be kept."""
        return not self.pipeline

    def flips(self, key: tuple[int, ...]) -> bool:
        """Whether an image with this key is mirrored."""
        return self.flip > 0 and _random_bits(key)[0] < self.flip

    def _compose(self) -> Callable[[int, Pixels], Pixels]:
        """This thread's own copy: a transform keeps the parameters it has drawn as attributes, so two threads must not
        share one."""
        if not hasattr(self._threads, "compose"):
            self._threads.compose = _seeded_compose(copy.deepcopy(self.pipeline))
        compose: Callable[[int, Pixels], Pixels] = self._threads.compose
        return compose


def _tried(compose: Callable[[], Callable[[int, Pixels], Any]], seed: int, image: Pixels) -> tuple[Any, str | None]:
    """What a pipeline gives, and what is wrong with that."""
    try:
        changed = compose()(seed, image)
    except Exception as error:  # of anybody's transform
        said = next(iter(str(error).splitlines()), type(error).__name__)
        return None, f"fails on {image.shape[0]} x {image.shape[1]} pixels ({said})"
    found = no_image(changed)
    return changed, None if found is None else f"gives {found}"


def no_image(changed: Any) -> str | None:
    """What it is, where it is no uint8 (H, W, 3)."""
    if not isinstance(changed, np.ndarray):
        return f"{type(changed).__module__.partition('.')[0]}.{type(changed).__name__}"
    if changed.dtype == np.uint8 and changed.ndim == 3 and changed.shape[2] == 3 and changed.size:
        return None
    return f"{changed.dtype} of shape {changed.shape}"


def _within(transforms: Iterable[Any]) -> Iterator[Any]:
    """The transforms of a pipeline, its containers and those in them."""
    for each in transforms:
        yield each
        inner = getattr(each, "transforms", None)
        yield from _within(inner) if isinstance(inner, (list, tuple)) else ()


def mirror(image: Pixels) -> Pixels:
    """Left and right exchanged. A pixel is moved as one 3-byte item: 36 us for 160 px, against 93 us for a reversed
    copy of the bytes."""
    height, width, _ = image.shape
    pixels = np.ascontiguousarray(image).reshape(height, width * 3).view("V3")
    return np.ascontiguousarray(pixels[:, ::-1]).view(np.uint8).reshape(height, width, 3)


def _random_bits(key: tuple[int, ...]) -> tuple[float, int]:
    """A uniform number in [0, 1) and 64 bits, both functions of the key."""
    digest = hashlib.blake2b(struct.pack(f"<{len(key)}q", *key), digest_size=16).digest()
    draw, seed = struct.unpack("<QQ", digest)
    return draw / 2**64, seed


def _seeded_compose(pipeline: list[Any]) -> Callable[[int, Pixels], Pixels]:
    import albumentations

    compose = albumentations.Compose(pipeline)

    def run(seed: int, image: Pixels) -> Pixels:
        # One generator for the whole pipeline. set_random_seed() would give every transform the same seed, so that all
        # transforms with p = 0.5 would act on the same half of the images.
        compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        changed: Pixels = compose(image=image)["image"]
        return changed

    return run

"""Images that a program hands over, in the one shape in which every source of images reaches the loader."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facenet.data.files.contents import Contents
from facenet.data.files.decode import DEFAULT
from facenet.data.identities import Indices, Pixels, UnreadableImage, read_image
from facenet.errors import UserError, shown

Given: TypeAlias = "str | os.PathLike[str] | Image.Image | NDArray[np.uint8]"
AT_A_TIME = 512  # images that are taken from an iterator and held at once
WANTED = "a path, an image of Pillow's, or a uint8 array (height, width, 3) in the order RGB"


class GivenFaces:
    """The `images` as faces of one identity, read as files of a data set are. `first`: the number of the first, for messages. Raises UserError
    for what is no image."""

    identities: tuple[str, ...] = ("",)
    fingerprint = ""

    def __init__(self, images: Sequence[Given], first: int = 0) -> None:
        self.images, self.first = images, first
        self.labels: Indices = np.zeros(len(images), np.int64)
        # Pillow reads a file when its pixels are first asked for, and one image may be there twice.
        self.lock = threading.Lock()
        for index, image in enumerate(images):
            if (wrong := no_image(image)) is not None:
                raise UserError(f"{self.name(index)}: expected {WANTED}; got {wrong}")

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        image = self.images[index]
        return os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"images[{self.first + index}]"

    def load(self, index: int) -> Pixels:
        image = self.images[index]
        if isinstance(image, (str, os.PathLike)):
            return read_image(os.fspath(image))
        try:
            with self.lock:
                return DEFAULT.pixels(image) if isinstance(image, Image.Image) else from_array(image)
        except Exception as error:  # of Pillow's decoders: OSError, SyntaxError, ValueError, struct.error, ...
            raise UnreadableImage(self.name(index), str(error).split("\n")[0] or type(error).__name__) from error

    def contents(self, index: int) -> Contents | None:
        return None

    def stamp(self) -> str:
        return ""


def in_parts(images: Given | Iterable[Given]) -> Iterator[GivenFaces]:
    """One image or many, some at a time: an iterator may give more than memory holds. Raises UserError for what is no image."""
    if isinstance(images, (str, os.PathLike, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim != 4):
        images = [images]
    try:
        waiting = iter(images)
    except TypeError:
        raise UserError(f"images: expected {WANTED}, or several of them; got {type(images).__name__}") from None
    first = 0
    while part := list(islice(waiting, AT_A_TIME)):
        yield GivenFaces(part, first)
        first += len(part)


def no_image(image: object) -> str | None:
    """What it is, where it is no image that can be read."""
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        return None if isinstance(path, str) and "\0" not in path else shown(repr(path))
    if isinstance(image, np.ndarray):
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
        return None if fits and image.dtype == np.uint8 and image.size else f"{image.dtype} of shape {image.shape}"
    return None if isinstance(image, Image.Image) else f"{type(image).__module__}.{type(image).__qualname__}"


def from_array(pixels: NDArray[np.uint8]) -> Pixels:
    """RGB of grey (H, W) or (H, W, 1), RGB, or RGB with a transparency, which is dealt with as that of a file."""
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels
    return DEFAULT.pixels(Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels))

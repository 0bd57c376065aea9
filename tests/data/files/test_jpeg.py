"""The short way gives Pillow's pixels, and takes nothing that Pillow would treat in another way."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.files.jpeg import decode_plain, plain
from facenet.data.identities import UnreadableImage, decode_image


def face(mode: str = "RGB") -> Image.Image:
    image = Image.fromarray(SyntheticFaces(num_identities=2, images_per_identity=1, size=97).load(0))
    return image.convert(mode)


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90}, {"quality": 30}, {"quality": 95, "subsampling": 0}, {"subsampling": 1}, {"progressive": True},
        {"icc_profile": b"x" * 400}, {"comment": b"\xff\xda"}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"},
    ],
)  # fmt: skip
def test_plain_jpegs_have_pillows_pixels(options: dict[str, Any]) -> None:
    data = jpeg(face(), **options)
    pixels = decode_plain(data)
    assert pixels is not None and pixels.shape == (97, 97, 3)
    assert np.array_equal(pixels, by_pillow(data))
    assert np.array_equal(decode_image(data, "x"), pixels)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(face(), exif=exif)


def png() -> bytes:
    buffer = io.BytesIO()
    face().save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        jpeg(face("L")), jpeg(face("CMYK")), turned(), png(), jpeg(face())[:-2], jpeg(face())[:300], b"", b"\xff\xd8\xff\xd9",
        jpeg(face()).replace(b"\x00\x61\x00\x61", b"\xff\xff\xff\xff"), jpeg(face(), keep_rgb=True),
    ],
    ids=["grey", "cmyk", "turned", "png", "no end", "cut", "empty", "nothing", "4 billion pixels", "rgb"],
)  # fmt: skip
def test_everything_else_is_left_to_pillow(data: bytes) -> None:
    assert not plain(data)
    assert decode_plain(data) is None


def test_damage_within_is_not_shown_as_a_face() -> None:
    """A cut file with its end mark put back is a whole JPEG to look at; both ways decode it alike."""
    data = jpeg(face())
    cut = data[: len(data) // 2] + b"\xff\xd9"
    try:
        pillow = by_pillow(cut)
    except OSError:
        with pytest.raises(UnreadableImage):
            decode_image(cut, "x")
    else:
        assert np.array_equal(decode_image(cut, "x"), pillow)

"""The short way for most photographs: a plain JPEG to pixels by libjpeg-turbo, without Pillow around it."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
START, END = b"\xff\xd8", b"\xff\xd9"
FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive: Huffman-coded, lossy
SCAN, APP1, ADOBE = 0xDA, 0xE1, 0xEE
ORIENTATION = (b"\x01\x12", b"\x12\x01")  # the tag in either byte order
MOST_PIXELS = 1 << 24  # larger images are looked at before they are decoded


def decode_plain(data: bytes) -> Pixels | None:
    """(H, W, 3) uint8 RGB, equal to Pillow's to the last bit in about half its time; None for whatever is not `plain` or shows damage.

    Measured on 250 x 250 images of 15 kB: Pillow 524 us, OpenCV 290, simplejpeg 274 (one shared core). The last 5 % are not worth a
    further dependency: OpenCV comes with albumentations. It lets go of the interpreter lock.
    """
    decode = _decoder()
    return decode(data) if decode is not None and plain(data) else None


def plain(data: bytes) -> bool:
    """Whether this is a whole JPEG of 8 bits and three channels in luminance and colour differences, of a usual size, that is shown as it is
    stored (no Exif orientation)."""
    if not (data.startswith(START) and data[-2:] == END):
        return False
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker in FRAMES and not _usual_frame(body):
            return False
        if 0xC0 <= marker <= 0xCF and marker not in {*FRAMES, 0xC4, 0xC8, 0xCC}:  # lossless, arithmetic, hierarchical
            return False
        if marker == ADOBE and body.startswith(b"Adobe") and body[11:12] != b"\x01":
            return False
        if marker == APP1 and body.startswith(b"Exif") and any(tag in body for tag in ORIENTATION):
            return False
        if marker == SCAN:
            return True
        at += 2 + length
    return False


def _usual_frame(body: bytes) -> bool:
    if len(body) < 15:
        return False
    bits, height, width, channels = struct.unpack_from(">BHHB", body)
    return bool(bits == 8 and channels == 3 and 0 < height * width <= MOST_PIXELS and body[6::3] != b"RGB")


@functools.cache
def _decoder() -> Callable[[bytes], Pixels | None] | None:
    """None where OpenCV does not import: its shared libraries are missing on some machines."""
    try:
        import cv2
    except ImportError:
        return None
    rgb = hasattr(cv2, "IMREAD_COLOR_RGB")  # since 4.10
    reading = (cv2.IMREAD_COLOR_RGB if rgb else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION

    def decode(data: bytes) -> Pixels | None:
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), reading)
        found: Pixels | None = image if rgb or image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
        return found

    return decode

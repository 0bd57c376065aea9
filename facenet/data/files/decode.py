"""What an image file becomes, whatever it holds: the one place that decides how pixels are read and what is refused.

| file                                   | pixels                                                                    |
| -------------------------------------- | ------------------------------------------------------------------------- |
| grey, palette, CMYK, YCbCr, HSV, 1 bit | converted to RGB                                                          |
| 16 bits a channel                      | the high byte, as Pillow reads 16-bit RGB                                 |
| 32-bit integers or floats              | refused: nothing says which value is white                                |
| transparent                            | `alpha`: the colour beneath, or laid on white or black                    |
| turned by EXIF                         | upright where `orientation` is set; TIFF always, since Pillow turns it     |
| animated, several pages                | the first frame                                                           |
| another suffix than its content        | by its content                                                            |
| more than `max_pixels`                 | a JPEG at the half, quarter or eighth of its size, which costs no memory   |
|                                        | for the rest; others are refused before a pixel is decoded                |
| a JPEG of very many scans              | refused: each passes over all pixels                                      |
| truncated, empty, of other formats     | refused; HEIC and AVIF with the way to convert them; PostScript too, for   |
|                                        | which Pillow would start a program                                        |
| pipes, devices, folders                | refused: a read could wait forever                                        |
"""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facenet.data.files.jpeg import MOST_SCANS, START, scans, too_many_scans
from facenet.errors import UserError

RUN_LENGTHS = (1, 2)  # how a BMP says that it is packed so; Pillow unpacks it in Python, 4 million pixels a second
LARGEST_RUNS = 8_000_000
SUFFIXES = {  # of each format that is read; in any case
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "GIF": (".gif",),
}
FORMATS = tuple(SUFFIXES)
IMAGE_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
# Of phones and browsers; Pillow reads them with plugins, or in its newest versions, alone.
UNREAD_SUFFIXES = (".heic", ".heif", ".hif", ".avif")
UNREAD_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
PILLOWS_LIMIT = 178_956_970  # pixels of an image in memory; Pillow's own
LARGEST = 1 << 28  # pixels of a JPEG in its file
LONGEST = 1 << 30  # bytes of a file
Image.MAX_IMAGE_PIXELS = LARGEST  # it warns of more and refuses twice that; by itself, a photo that is read reduced
PNG, FEW_CHUNKS, USUAL_CHUNK = b"\x89PNG\r\n\x1a\n", 10_000, 1 << 10
LEAST_TILE = 1 << 20  # pixels
LONGEST_HEAD = 1 << 16  # bytes
NETPBM = re.compile(rb"P[1-7fF]" + 2 * rb"(?:\s|#[^\n]*\n)+\d+")
warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged tags: one image can hold 60,000 lines of them
ORIENTATION, TILE_WIDTH, TILE_LENGTH = 0x0112, 322, 323
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True)
class Decode:
    """max_pixels: of a decoded image; 50 million are 150 MB. orientation: turn upright as EXIF says. alpha: what transparent
    pixels show."""

    max_pixels: int = 50_000_000
    orientation: bool = True
    alpha: Literal["drop", "white", "black"] = "drop"

    def __post_init__(self) -> None:
        if not 1 <= self.max_pixels <= PILLOWS_LIMIT:
            raise UserError(
                f"data.max_pixels: expected 1 to {PILLOWS_LIMIT} (Pillow's own limit), got {self.max_pixels}"
            )
        if self.alpha not in ("drop", "white", "black"):
            raise UserError(f"data.alpha: expected one of drop, white, black, got {self.alpha!r}")

    def __call__(self, source: str | bytes) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB of a path or of a file's content. Raises whatever the decoder raises, ValueError for what is refused here."""
        with self.open(source) as image:
            return self.pixels(image)

    def open(self, source: str | bytes) -> Image.Image:
        """Opens an image: its header is read and its size checked, no pixel is decoded yet."""
        data = contents_of(source) if isinstance(source, str) else source
        check_head(data)
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        size = image.size
        if image.format in ("JPEG", "MPO"):
            if too_many_scans(data, size[0] * size[1]):
                raise ValueError(
                    f"{size[0]} x {size[1]} pixels in {scans(data)} scans take too long; save it with fewer"
                )
            if size[0] * size[1] <= LARGEST:
                reduce(image, self.max_pixels)
        if image.format == "TIFF" and tile_pixels(image) > max(self.max_pixels, LEAST_TILE):
            raise ValueError(f"a tile of {tile_pixels(image):,} pixels is more than data.max_pixels={self.max_pixels}")
        if image.info.get("compression") in RUN_LENGTHS and size[0] * size[1] > LARGEST_RUNS:
            raise ValueError(f"{size[0]} x {size[1]} pixels in run lengths take too long; save it as PNG")
        if image.width * image.height > self.max_pixels:
            image.close()
            raise ValueError(f"{size[0]} x {size[1]} pixels are more than data.max_pixels={self.max_pixels}")
        return image

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        turn = TURNS.get(orientation(image)) if self.orientation else None
        flat = flatten(image, self.alpha)
        return np.asarray(flat if turn is None else flat.transpose(turn))


def contents_of(path: str) -> bytes:
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("not a regular file")
    check_length(state.st_size)
    return Path(path).read_bytes()


def way_to_read(kinds: Iterable[str]) -> str:
    """How pictures of these suffixes come to be read; empty where none is a picture."""
    found = [kind for kind in UNREAD_SUFFIXES if kind in {each.lower() for each in kinds}]
    told = f"; {' and '.join(found)} are pictures that are not read: convert them, as with: magick mogrify -format jpg FILES"
    return told if found else ""


def check_length(size: int) -> None:
    """ValueError for a file that is larger than any image."""
    if size > LONGEST:
        raise ValueError(f"{size} bytes, an image has {LONGEST} at most")


def check_head(data: bytes) -> None:
    """ValueError for what Pillow takes seconds to look through before it knows a size: segments without end, a header of comments or blanks."""
    if data[4:8] == b"ftyp" and data[8:12] in UNREAD_BRANDS:
        raise ValueError(
            "a HEIC or AVIF picture, which is not read; convert it, as with: magick mogrify -format jpg FILE"
        )
    if data.startswith(START) and scans(data) > MOST_SCANS:
        raise ValueError("more segments or scans than any picture has; save it again")
    if data.startswith(PNG) and too_many_chunks(data):
        raise ValueError("more chunks than any picture has; save it again")
    if data[:1] == b"P" and not NETPBM.match(data, 0, LONGEST_HEAD):
        raise ValueError("cannot identify image file: no size at the beginning of a netpbm file")


def too_many_chunks(data: bytes) -> bool:
    """Whether they hold almost nothing: Pillow takes 6 us for each, and the usual ones are of 8 kB."""
    at, most = len(PNG), FEW_CHUNKS + len(data) // USUAL_CHUNK
    for _ in range(most):
        if at >= len(data):
            return False
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return True


def tile_pixels(image: Image.Image) -> int:
    """A tile is taken into memory whole, however few pixels of it are shown."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    return int(tags.get(TILE_WIDTH, 0)) * int(tags.get(TILE_LENGTH, 0))


def reduce(image: Image.Image, max_pixels: int) -> None:
    """Lets a JPEG be decoded at the half, quarter or eighth of its size where it has too many pixels: photos of phones have up to 200 million."""
    for part in (1, 2, 4, 8):
        if -(-image.width // part) * -(-image.height // part) <= max_pixels:
            if part > 1:
                image.draft(None, (image.width // part, image.height // part))
            return


def orientation(image: Image.Image) -> int:
    """1 to 8 as EXIF counts; 1, upright, where there is none or it is damaged."""
    if image.format == "TIFF":  # Pillow turns these itself while it decodes
        return 1
    if image.format == "JPEG" and "exif" not in image.info:  # saves 4 us of 360 for a face of 160 pixels
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # of damaged EXIF: SyntaxError, struct.error, ValueError, ...; its pixels may be whole
        return 1


def flatten(image: Image.Image, alpha: str) -> Image.Image:
    """RGB without transparency, 8 bits a channel."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits (mode {image.mode}) have no known white; save it with 8 or 16 bits")
    transparent = image.mode.endswith(("A", "a")) or "transparency" in image.info
    if alpha == "drop" or not transparent:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, alpha)
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


DEFAULT = Decode()


def reason_of(error: Exception) -> str:
    """Says in one line why a file is no image: Pillow's words without the object that it read."""
    told = re.sub(r"image file <_io\.BytesIO object at 0x[0-9a-f]+>", "it as an image", str(error)).split("\n")[0]
    return told or type(error).__name__

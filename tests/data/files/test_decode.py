"""What each kind of file becomes, by value; and what is refused without reading it."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from facenet.data.feed.loader import Loader
from facenet.data.files.annotation import read_annotation, write_annotation
from facenet.data.files.decode import DEFAULT, Decode
from facenet.data.identities import FolderFaces, ImageList, UnreadableImage, read_image
from facenet.data.source import FolderData
from facenet.data.transforms import Preprocess
from facenet.errors import UserError

PREPROCESS = Preprocess(size=[8, 8])


def coded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def marked() -> Image.Image:
    """4 x 3, black but for red in the top left corner."""
    image = Image.new("RGB", (4, 3))
    image.putpixel((0, 0), (255, 0, 0))
    return image


def grey16() -> Image.Image:
    return Image.fromarray(np.array([[0, 255, 256], [32768, 65280, 65535]], np.uint16))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    assert DEFAULT(coded(grey16(), kind))[:, :, 0].tolist() == [[0, 0, 1], [128, 255, 255]]


def test_16_bit_netpbm_is_scaled() -> None:
    raw = b"P5 2 1 65535\n" + struct.pack(">HH", 32768, 65535)
    assert DEFAULT(raw)[0].tolist() == [[128] * 3, [255] * 3]


def test_16_bit_rgb_png_shows_the_high_byte() -> None:
    rows = b"\0" + struct.pack(">6H", 65535, 256, 0, 32768, 255, 512)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    raw = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert DEFAULT(raw)[0].tolist() == [[255, 1, 0], [128, 0, 2]]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="no known white"):
        DEFAULT(coded(Image.new(mode, (2, 2), 7), "TIFF"))


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("L", 7, "PNG", [7, 7, 7]),
        ("1", 1, "PNG", [255, 255, 255]),
        ("CMYK", (0, 255, 255, 0), "TIFF", [255, 0, 0]),
        ("YCbCr", (255, 128, 128), "TIFF", [255, 255, 255]),
        ("LA", (9, 0), "PNG", [9, 9, 9]),
    ],
)
def test_other_colours_become_rgb(mode: str, colour: int | tuple[int, ...], kind: str, expected: list[int]) -> None:
    options = (
        {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    )  # Pillow 12 writes a plain one of YCbCr that it cannot read
    assert DEFAULT(coded(Image.new(mode, (2, 2), colour), kind, **options))[0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("alpha", "expected"), [("drop", [200, 0, 0]), ("white", [227, 127, 127]), ("black", [100, 0, 0])]
)
def test_half_transparent_pixels(alpha: str, expected: list[int]) -> None:
    raw = coded(Image.new("RGBA", (2, 2), (200, 0, 0, 128)), "PNG")
    assert np.abs(Decode(alpha=alpha)(raw)[0, 0].astype(int) - expected).max() <= 1  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "transparent"), [("P", 0), ("L", 5), ("RGB", (5, 5, 5))])
def test_a_colour_that_stands_for_transparent(mode: str, transparent: object) -> None:
    image = Image.new(mode, (2, 2), transparent)  # type: ignore[arg-type]
    if mode == "P":
        image.putpalette([5, 5, 5])
    raw = coded(image, "PNG", transparency=transparent)
    assert DEFAULT(raw)[0, 0].tolist() == [5, 5, 5]
    assert Decode(alpha="white")(raw)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (0, 3)), (3, (2, 3)), (4, (2, 0)), (5, (0, 0)), (6, (0, 2)), (7, (3, 2)), (8, (3, 0))],
)
def test_exif_turns_the_image_upright(kind: str, orientation: int, corner: tuple[int, int]) -> None:
    """Where the stored top left corner is shown, by the EXIF standard's table (row, column)."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    big = marked().resize((64, 48), Image.Resampling.NEAREST)  # one mark is 16 x 16: compression blurs less
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    raw = coded(big, kind, exif=exif, **options)
    red = DEFAULT(raw)[8::16, 8::16, 0] > 128
    assert red.shape == ((3, 4) if orientation < 5 else (4, 3))
    assert np.argwhere(red).tolist() == [list(corner)]
    assert np.argwhere(Decode(orientation=False)(raw)[8::16, 8::16, 0] > 128).tolist() == [[0, 0]]


def test_tiff_is_turned_once() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = 6
    raw = coded(marked(), "TIFF", tiffinfo=tags)
    assert np.argwhere(DEFAULT(raw)[:, :, 0] > 128).tolist() == [[0, 2]]


def test_damaged_exif_costs_the_turn_and_not_the_image() -> None:
    raw = coded(marked(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 9)
    assert DEFAULT(raw).shape == (3, 4, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_of_several(kind: str) -> None:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    raw = coded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(DEFAULT(raw)[0, 0].astype(int) - [255, 0, 0]).max() <= 2


def test_progressive_and_one_pixel_and_very_wide_images_are_read() -> None:
    assert DEFAULT(coded(Image.new("RGB", (9, 5), "blue"), "JPEG", progressive=True)).shape == (5, 9, 3)
    for size in [(1, 1), (20_000, 3), (2, 20_000)]:
        image = DEFAULT(coded(Image.new("RGB", size, (9, 8, 7)), "PNG"))
        assert image.shape == (size[1], size[0], 3)
        for fit in ("letterbox", "resize"):
            assert Preprocess(size=[8, 8], fit=fit)(image).shape == (8, 8, 3)  # type: ignore[arg-type]


def test_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(coded(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG"))
    assert read_image(str(tmp_path / "a.jpg"))[0, 0].tolist() == [1, 2, 3]


def bomb(side: int) -> bytes:
    """A few kB that would decode to side x side."""
    return coded(Image.new("1", (side, side)), "PNG")


def test_a_bomb_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = bomb(8_000)
    assert len(raw) < 100_000
    small = coded(Image.new("RGB", (3, 4)), "BMP")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("a pixel was decoded"))
    with pytest.raises(ValueError, match="8000 x 8000 pixels are more than data.max_pixels=50000000"):
        DEFAULT(raw)
    with pytest.raises(ValueError, match="3 x 4 pixels are more than data.max_pixels=11"):
        Decode(max_pixels=11)(small)
    with pytest.raises(pytest.fail.Exception):  # the guard of this test works
        DEFAULT(small)


def test_20_000_pixels_a_side_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(bomb(20_000))
    with pytest.raises(UnreadableImage, match="20000 x 20000 pixels are more than data.max_pixels=50000000"):
        read_image(str(tmp_path / "x.png"))


def test_postscript_starts_no_program(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UnreadableImage, match="cannot identify"):
        read_image(str(tmp_path / "x.jpg"))


@pytest.mark.timeout(20)
def test_pipes_and_devices_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(UnreadableImage, match="not a regular file"):
            read_image(str(tmp_path / name))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_pixels", 0, "data.max_pixels: expected 1"),
        ("max_pixels", 10**9, "own limit"),
        ("alpha", "pink", "data.alpha"),
    ],
)
def test_wrong_values(key: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FolderData(root="x", **{key: value})  # type: ignore[arg-type]


ODD = [
    "two words.png",
    "quo'te\".png",
    "line\nbreak.png",
    "semi;colon.png",
    "tab\t.png",
    "\udcff\udcfe.png",
    "$(id).png",
]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Two identities, one with names that no convention allows; image n is filled with n."""
    root = tmp_path / "faces"
    for identity in ("plain", "o\ndd \udcff'"):
        (root / identity).mkdir(parents=True)
        for number, name in enumerate(ODD):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(root / identity / name)
    return root


def test_odd_names_are_read_and_written_down(odd: Path, tmp_path: Path) -> None:
    faces = FolderFaces(odd)
    assert len(faces) == 2 * len(ODD) and not faces.left_out
    shown = {os.path.basename(faces.name(index)): faces.load(index)[0, 0, 0] for index in range(len(faces))}
    assert shown == dict(zip(ODD, range(len(ODD)), strict=True))
    whole = [path for path in map(faces.name, range(len(faces))) if "\n" not in path]
    write_annotation(ImageList(whole, [0, *[1] * (len(whole) - 1)], ["a", "b"]), tmp_path / "list.txt")
    assert read_annotation(tmp_path / "list.txt").paths == whole


def test_names_of_unreadable_images_are_one_line_and_fit_any_file(odd: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in odd.glob("o*/*"):
        path.write_bytes(b"")
    loader = Loader(FolderFaces(odd), PREPROCESS, num_workers=0, max_unreadable=1.0)
    (batch,) = loader.epoch([np.arange(len(ODD), dtype=np.int64)])
    assert batch.labels.tolist() == [1] * len(ODD)  # 'plain' stands in
    assert len(loader.unreadable) == len(ODD)
    for name, reason in loader.unreadable.items():
        assert name.isprintable() and reason.isprintable()
        name.encode("utf-8")
    assert all("\n" not in record.getMessage() for record in caplog.records)
    json.dumps(loader.unreadable, ensure_ascii=False).encode("utf-8")


def test_very_long_paths(tmp_path: Path) -> None:
    """A folder of more than 4,096 bytes of path can exist; no call may name a file in it."""
    with pytest.raises(UnreadableImage, match="name too long"):
        read_image("/" + "x" * 250 + "/y" * 2500)
    name = "n" * 250 + ".png"
    for identity in ("a" * 255, "b"):
        (tmp_path / "f" / identity).mkdir(parents=True)
        Image.new("RGB", (2, 2), (3, 0, 0)).save(tmp_path / "f" / identity / name)
    assert FolderFaces(tmp_path / "f").load(0)[0, 0, 0] == 3


def test_links_that_lead_to_themselves_are_left_out(odd: Path) -> None:
    (odd / "loop").symlink_to("loop")
    (odd / "plain" / "loop.png").symlink_to("loop.png")
    (odd / "plain" / "gone.png").symlink_to("nowhere.png")
    (odd / "up").symlink_to(odd)  # a folder of folders, with no image directly in it
    faces = FolderFaces(odd)
    assert len(faces) == 2 * len(ODD) and len(faces.identities) == 2
    assert (
        faces.left_out == "2 .png, 14 images in deeper folders, 2 other"
    )  # loop.png and gone.png; those in `up`; loop and up/loop


def test_files_that_vanish_after_the_index_are_replaced(odd: Path) -> None:
    faces = FolderFaces(odd)
    gone = faces.labels.tolist().index(1)
    os.unlink(faces.name(gone))
    loader = Loader(faces, PREPROCESS, num_workers=0, max_unreadable=0.1)
    (batch,) = loader.epoch([np.array([gone], dtype=np.int64)])
    assert batch.indices.tolist() == [gone + 1]
    assert "No such file" in next(iter(loader.unreadable.values()))


def test_the_policy_reaches_the_files(odd: Path) -> None:
    faces = FolderData(root=str(odd), max_pixels=15).open()
    with pytest.raises(UnreadableImage, match="4 x 4 pixels are more than data.max_pixels=15"):
        faces.load(0)
    pixels: NDArray[np.uint8] = FolderData(root=str(odd), max_pixels=16).open().load(0)
    assert pixels.shape == (4, 4, 3)


def run_length_bmp(width: int, height: int) -> bytes:
    """Of one pixel; the rest of it is what a decoder fills up."""
    data = b"\x01\x01\x00\x00\x00\x01"
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 2835, 2835, 256, 0) + bytes(1024)
    return struct.pack("<2sIHHI", b"BM", 14 + len(head) + len(data), 0, 0, 14 + len(head)) + head + data


def test_a_bmp_of_run_lengths_is_unpacked_up_to_a_size() -> None:
    assert Decode()(run_length_bmp(1000, 1)).shape == (1, 1000, 3)
    with pytest.raises(ValueError, match="49000000 x 1 pixels in run lengths take too long; save it as PNG"):
        Decode()(run_length_bmp(49_000_000, 1))

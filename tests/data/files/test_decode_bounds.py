"""What a small file may cost: scans, pixels, bytes; and the photos that are as large as that by right."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.files.decode import DEFAULT, LONGEST, Decode
from facenet.data.files.jpeg import END, decode_plain, plain, scans
from facenet.data.identities import UnreadableImage, decode_image, read_image

pytest.importorskip("cv2")  # the short way's decoder


def face(size: int = 97) -> Image.Image:
    return Image.fromarray(SyntheticFaces(num_identities=2, images_per_identity=1, size=size).load(0))


def jpeg(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def last_scan(data: bytes) -> bytes:
    return data[data.rindex(b"\xff\xda") : -2]


def in_scans(data: bytes, count: int) -> bytes:
    """The same picture, its last refinement repeated."""
    return data[:-2] + last_scan(data) * (count - scans(data)) + END


def test_a_jpeg_of_400_scans_is_refused_before_it_is_decoded() -> None:
    data = jpeg(Image.new("RGB", (4000, 4000), (9, 99, 200)), progressive=True, quality=10)
    bomb = in_scans(data, 400)
    assert len(bomb) < 200_000 and scans(bomb) == 400
    started = time.process_time()
    with pytest.raises(UnreadableImage, match="4000 x 4000 pixels in 400 scans take too long; save it with fewer"):
        decode_image(bomb, "x")
    assert time.process_time() - started < 1  # 6.6 s when it was decoded


def test_many_scans_of_a_small_picture_cost_nothing_and_are_read() -> None:
    data = jpeg(face(), progressive=True)
    assert decode_image(in_scans(data, 300), "x").shape == (97, 97, 3)
    assert scans(data) == 10 and plain(data)


@pytest.mark.parametrize("between", [b"", b"\xff\xfe\x00\x04\xff\xd9", b"garbage\xff\xff\xff\x01\xff\xd0"])
def test_scans_are_counted_whatever_stands_between_them(between: bytes) -> None:
    data = jpeg(face(), progressive=True)
    assert scans(data[:-2] + (between + last_scan(data)) * 490 + END) == 500


def test_scans_of_a_baseline_file_count_too() -> None:
    """Each channel by itself, again and again, which a decoder takes for a file of several scans."""
    data = bytearray(jpeg(Image.new("RGB", (4000, 4000)), subsampling=0, quality=10))
    at = data.rindex(b"\xff\xda")
    one = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + bytes(data[at + 14 : -2])
    with pytest.raises(UnreadableImage, match="scans take too long"):
        decode_image(bytes(data[:at]) + one * 300 + END, "x")


def test_marks_behind_the_picture_are_no_scans() -> None:
    """As the films that phones append to their photos."""
    film = b"\xff\xda\x00\x08" * 5000
    data = jpeg(face(), progressive=True)
    assert scans(data + film) == 10
    assert np.array_equal(decode_image(data + film, "x"), decode_image(data, "x"))


def test_endless_segments_are_refused() -> None:
    data = jpeg(face(), progressive=True)
    bomb = data[:-2] + b"\xff\xfe\x00\x02" * 100_000 + END
    with pytest.raises(UnreadableImage, match="more segments or scans than any picture has"):
        decode_image(bomb, "x")


@pytest.mark.parametrize("filling", [b" ", b"#", b"# x\n"])
def test_a_netpbm_header_has_an_end(filling: bytes) -> None:
    """A MB of it took Pillow 3 s."""
    started = time.process_time()
    with pytest.raises(UnreadableImage, match="no size at the beginning"):
        decode_image(b"P6 " + filling * (1 << 18) + b"\n2 2 255\n" + bytes(12), "x")
    assert time.process_time() - started < 1
    assert decode_image(b"P6 # a comment\n# another\n 2\n#third\n2 255\n" + bytes(range(12)), "x")[1, 1].tolist() == [
        9,
        10,
        11,
    ]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def test_a_png_of_empty_chunks_is_refused() -> None:
    """Half a million of them, 6 MB, took 3 s."""
    buffer = io.BytesIO()
    face().save(buffer, "PNG")
    data = buffer.getvalue()
    head, tail = data[:33], data[33:]
    with pytest.raises(UnreadableImage, match="more chunks than any picture has"):
        decode_image(head + chunk(b"prVt", b"") * 100_000 + tail, "x")
    assert decode_image(head + chunk(b"prVt", b"") * 5_000 + tail, "x").shape == (97, 97, 3)


def tiled(width: int, length: int) -> bytes:
    """8 x 8 grey pixels in one tile of that size."""
    numbers = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 277: 1, 322: width, 323: length, 324: 8, 325: width * length}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in numbers.items())
    pixels = bytes([7]) * min(width * length, 4096)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(numbers)) + entries + bytes(4)


def test_a_tile_is_no_larger_than_an_image_may_be() -> None:
    """150 bytes took 500 MB."""
    with pytest.raises(UnreadableImage, match="a tile of 536,870,912 pixels is more than data.max_pixels=50000000"):
        decode_image(tiled(1 << 15, 1 << 14), "x")
    assert decode_image(tiled(64, 64), "x").tolist() == [[[7, 7, 7]] * 8] * 8


def test_a_large_photo_is_read_reduced() -> None:
    """At a scale of 1/2, 1/4 or 1/8, the first that fits; each is the picture, smaller."""
    image = face(400)
    data = jpeg(image, quality=95, subsampling=0)
    for max_pixels, side in [(160_000, 400), (159_999, 200), (40_000, 200), (39_999, 100), (2_500, 50)]:
        pixels = decode_image(data, "x", Decode(max_pixels=max_pixels))
        assert pixels.shape == (side, side, 3)
        expected = np.asarray(image.resize((side, side), Image.Resampling.BOX)).astype(int)
        assert np.abs(pixels.astype(int) - expected).mean() < 6
    with pytest.raises(UnreadableImage, match="400 x 400 pixels are more than data.max_pixels=2499"):
        decode_image(data, "x", Decode(max_pixels=2_499))


def test_a_turned_photo_is_reduced_and_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(Image.new("RGB", (400, 300), "red"), exif=exif)
    assert decode_image(data, "x", Decode(max_pixels=30_000)).shape == (200, 150, 3)


def test_a_photo_of_108_megapixels(tmp_path: Path) -> None:
    data = jpeg(Image.new("L", (12_000, 9_000), 77))
    (tmp_path / "a.jpg").write_bytes(data)
    pixels = read_image(str(tmp_path / "a.jpg"))
    assert pixels.shape == (4_500, 6_000, 3) and pixels[0, 0].tolist() == [77] * 3
    del pixels
    assert DEFAULT.open(str(tmp_path / "a.jpg")).size == (6_000, 4_500)


def test_a_file_longer_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(LONGEST + 1)  # takes no room
    with pytest.raises(UnreadableImage, match="1073741825 bytes, an image has 1073741824 at most"):
        read_image(str(tmp_path / "a.jpg"))
    with pytest.raises(ValueError, match="1073741825 bytes"):
        DEFAULT.open(str(tmp_path / "a.jpg"))


def test_the_usual_way_is_still_the_short_one() -> None:
    assert decode_plain(jpeg(face())) is not None and decode_plain(jpeg(face(), progressive=True)) is not None

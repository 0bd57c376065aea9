"""What a small file may cost: scans, pixels, bytes; and the photos that are as large as that by right."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facenet.data.decode import DEFAULT, LONGEST, Decode
from facenet.data.identities import UnreadableImage, decode_image, read_image
from facenet.data.jpeg import END, decode_plain, plain, scans
from facenet.data.synthetic import SyntheticFaces

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
    assert scans(data[:-2] + (between + last_scan(data)) * 990 + END) == 1000


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
    with pytest.raises(UnreadableImage, match="scans take too long"):
        decode_image(bomb, "x")


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
    assert DEFAULT.opened(str(tmp_path / "a.jpg")).size == (6_000, 4_500)


def test_a_file_longer_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(LONGEST + 1)  # takes no room
    with pytest.raises(UnreadableImage, match="1073741825 bytes, an image has 1073741824 at most"):
        read_image(str(tmp_path / "a.jpg"))
    with pytest.raises(ValueError, match="1073741825 bytes"):
        DEFAULT.opened(str(tmp_path / "a.jpg"))


def test_the_usual_way_is_still_the_short_one() -> None:
    assert decode_plain(jpeg(face())) is not None and decode_plain(jpeg(face(), progressive=True)) is not None

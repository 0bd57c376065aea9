"""Pictures of phones and browsers that are not read: said to be such, with the way to convert them."""

from __future__ import annotations

import logging

import pytest

from facenet.data.files.decode import way_to_read
from facenet.data.identities import FolderFaces, UnreadableImage, decode_image
from facenet.data.source import FolderData
from facenet.errors import UserError

HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"avif"])
def test_their_content_is_named_whatever_the_suffix(brand):
    with pytest.raises(UnreadableImage, match="a.jpg: a HEIC or AVIF picture, which is not read; convert it, .*magick"):
        decode_image(HEIC.replace(b"heic", brand, 1), "a.jpg")
    with pytest.raises(UnreadableImage) as raised:
        decode_image(HEIC.replace(b"heic", b"isom", 1), "a.mp4")
    assert "HEIC" not in str(raised.value)


def people(root, suffixes):
    for person in "ab":
        (root / person).mkdir(parents=True)
        for suffix in suffixes:
            (root / person / f"1{suffix}").write_bytes(HEIC)
    return root


def test_a_folder_of_them_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(
        UserError,
        match=r"no images \(2 \.(avif|heic), 2 \.(avif|heic)\); \.heic and \.avif are pictures .*: magick mogrify -format jpg",
    ):
        FolderFaces(people(tmp_path, [".HEIC", ".avif"]))


def test_those_beside_others_are_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        FolderData(root=str(people(tmp_path / "mixed", [".jpg", ".heic"])), batch_size=2, val_images=0.0).open()
        assert "left out: 2 .heic; .heic are pictures that are not read" in caplog.text
        caplog.clear()
        FolderData(root=str(people(tmp_path / "texts", [".jpg", ".txt"])), batch_size=2, val_images=0.0).open()
        assert "left out: 2 .txt" in caplog.text and "magick" not in caplog.text
    assert way_to_read([".txt", "other"]) == ""

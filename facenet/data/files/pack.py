"""A folder of faces as a pack: one file to copy and to read from instead of hundreds of thousands."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from facenet.data.files.record_faces import EXACT, SIDECAR
from facenet.data.files.records import RecordWriter, pack
from facenet.data.identities import FolderFaces, Pixels, UnreadableImage, decode_image
from facenet.errors import UserError
from facenet.files.folders import written_whole
from facenet.files.home import expand_home

AS_IT_IS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # what every reader of packs decodes
QUALITY = 95


def pack_folder(
    faces: FolderFaces, out: str | Path, *, size: int | None = None, progress: Callable[[int, int], None] | None = None
) -> int:
    """Write OUT/train.rec, train.idx, property and the names of the identities, or nothing; bytes of train.rec.

    JPEG and PNG files are copied byte by byte, others become PNG. size: images become JPEG of quality 95 whose longer side is at most
    that many pixels. UserError where OUT exists, another command writes it, or an image cannot be read."""
    target = expand_home(out)
    with written_whole(target) as folder:
        with RecordWriter(folder / "train") as writer:
            _write_images(faces, writer, size, progress)
            num_bytes = writer.position
        height, width = (size, size) if size else faces.load(0).shape[:2]
        (folder / "property").write_text(f"{len(faces.identities)},{height},{width}\n", encoding="ascii")
        names = {"identities": faces.identities, "num_images": len(faces), "fingerprint": faces.fingerprint}
        (folder / SIDECAR).write_text(json.dumps(names, indent=0) + "\n", encoding="utf-8")
    return num_bytes


def _write_images(
    faces: FolderFaces, writer: RecordWriter, size: int | None, progress: Callable[[int, int], None] | None
) -> None:
    """Record 0, images from key 1 on, then the range of each identity; without ranges where float32 cannot hold the keys."""
    first_identity = len(faces) + 1
    ranges = first_identity + len(faces.identities) <= EXACT
    if ranges:
        writer.write(0, pack((float(first_identity), float(first_identity + len(faces.identities))), 0))
    for index, label in enumerate(faces.labels.tolist()):
        writer.write(index + 1, pack(float(label), index + 1, _body(faces, index, size)))
        if progress is not None:
            progress(index + 1, len(faces))
    if ranges:
        ends = np.cumsum(np.bincount(faces.labels)) + 1
        for label, (start, end) in enumerate(zip([1, *ends[:-1].tolist()], ends.tolist(), strict=True)):
            writer.write(first_identity + label, pack((float(start), float(end)), first_identity + label))


def _body(faces: FolderFaces, index: int, size: int | None) -> bytes:
    name = faces.name(index)
    try:
        data = Path(name).read_bytes()
        if size is None and data.startswith(AS_IT_IS):
            return data
        pixels = decode_image(data, name)
    except (OSError, UnreadableImage) as error:
        reason = error.reason if isinstance(error, UnreadableImage) else error.strerror
        raise UserError(f"{name}: cannot be read ({reason}); mend or remove it, then pack again") from error
    return _encode(pixels, "PNG") if size is None else _encode(_shrink(pixels, size), "JPEG")


def _shrink(pixels: Pixels, size: int) -> Pixels:
    from facenet.data.transforms import resize  # torch: two seconds that copying does not need

    height, width = pixels.shape[:2]
    scale = min(1.0, size / max(height, width))
    return resize(pixels, max(1, round(height * scale)), max(1, round(width * scale)), "bicubic")


def _encode(pixels: Pixels, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **({"quality": QUALITY, "subsampling": 0} if kind == "JPEG" else {}))
    return buffer.getvalue()

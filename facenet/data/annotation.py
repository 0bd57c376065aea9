"""The annotation file: one line `<label>;<path>` for each image, as the reference writes and reads it
(bubbliiiing/facenet-pytorch).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from facenet.data.decode import DEFAULT, Decode
from facenet.data.identities import FolderFaces, ImageList
from facenet.data.split import replace_text
from facenet.errors import UserError, shown
from facenet.files import regular
from facenet.home import expanded

log = logging.getLogger(__name__)
LARGEST_LABEL = 2**62  # int64; labels are numbered anew
LONGEST_LINE = 1 << 14  # characters; no system opens a path of more than 4,096 bytes
TRAILING = " \t\r\n"  # what a line may end with besides the path; so no path may end with it


def annotate(root: str | Path, out: str | Path) -> FolderFaces:
    """Write the annotation file of root/<identity>/<image>; the faces it lists come back, for their counts."""
    faces = FolderFaces(root)
    write_annotation(faces, out)
    return faces


def write_annotation(faces: ImageList | FolderFaces, path: str | Path) -> None:
    """Write one line per image with its absolute path, ordered by label, then as in `faces`. UserError for a path the
    format cannot hold.
    """
    lines = []
    for index in np.argsort(faces.labels, kind="stable").tolist():
        image = os.path.abspath(faces.name(index))
        if "\n" in image or image.rstrip(TRAILING) != image:
            raise UserError(
                f"{image!r}: a path with a line break or a blank at its end does not fit an annotation file; rename it"
            )
        lines.append(f"{faces.labels[index]};{image}\n")
    replace_text(path, "".join(lines))


def read_annotation(path: str | Path, *, within: str | None = None, decode: Decode = DEFAULT) -> ImageList:
    """The images of an annotation file in the file's order; relative paths count from the file's folder.

    Absolute paths may lead anywhere, as the reference's do, and relative ones nowhere above the file's folder: a list
    that travels with its images names only those. With `within` no path, links followed, may lead out of that folder.

    Labels keep their order and are renumbered where they leave gaps (logged). An identity is named after the folder of
    its first image, or by its label where that name is taken. UserError for a missing or empty file, a wrong line
    (numbered), a single identity, and when none of a sample of the paths exists.
    """
    file = expanded(path)
    labels, paths = _parse(file, anywhere=within is not None)
    present, dense = np.unique(np.array(labels, dtype=np.int64), return_inverse=True)
    if len(present) < 2:
        raise UserError(f"{file}: only one identity is listed (label {present[0]}), at least two are needed")
    num_empty = int(present[-1]) + 1 - len(present)
    if num_empty:
        log.warning(
            "%s: %d of %d labels have no image; labels renumbered to 0..%d",
            file,
            num_empty,
            present[-1] + 1,
            len(present) - 1,
        )
    if within is not None:
        _check_within(file, paths, within)
    _check_some_exist(file, paths)
    return ImageList(paths, dense, _identity_names(paths, dense, present.tolist()), decode)


def _parse(file: Path, *, anywhere: bool) -> tuple[list[int], list[str]]:
    labels, paths = [], []
    for number, whole in enumerate(_lines(file), start=1):
        if len(whole) == LONGEST_LINE:
            raise UserError(f"{file}:{number}: a line of more than {LONGEST_LINE} characters; expected <label>;<path>")
        line = whole.rstrip(TRAILING)
        if not line:
            continue
        label, separator, image = line.partition(";")
        label = label.strip()  # int() knows fewer blanks than strip()
        if not (separator and image and label.isdecimal()):
            raise UserError(f"{file}:{number}: expected <label>;<path> with a label of 0 or more, got {line[:80]!r}")
        if len(label) > 19 or int(label) > LARGEST_LABEL:
            raise UserError(f"{file}:{number}: the label {label[:24]}... is too large; labels count from 0")
        if not (anywhere or os.path.isabs(image)) and os.path.normpath(image).split(os.sep)[0] == os.pardir:
            raise UserError(
                f"{file}:{number}: {shown(image[:80])} leads out of the list's folder; write it as an absolute path, "
                "or set data.within to the folder that holds the images"
            )
        labels.append(int(label))
        paths.append(os.path.join(file.parent, image))
    if not paths:
        raise UserError(f"{file}: lists no images; expected lines <label>;<path>")
    return labels, paths


def _lines(file: Path) -> Iterator[str]:
    """Its lines, of a longer one the beginning."""
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="\n", opener=regular) as lines:
            yield from iter(partial(lines.readline, LONGEST_LINE), "")
    except OSError as error:
        raise UserError(
            f"data.list: {file} cannot be read ({error.strerror}); "
            f"write one with: facenet-data annotate FOLDER --out {file.name}"
        ) from error


def _check_within(file: Path, paths: list[str], within: str) -> None:
    root = os.path.realpath(os.path.expanduser(within))
    for image in paths:
        try:
            real = os.path.realpath(image)
        except ValueError:  # a zero byte
            real = image
        if not real.startswith(os.path.join(root, "")):
            raise UserError(
                f"{file}: {shown(image)} is not in data.within={within}; remove its line or name another folder"
            )


def _check_some_exist(file: Path, paths: list[str], sample: int = 32) -> None:
    """A list that was moved without its images is told before training; looking for every file would take minutes on a
    cold disk.
    """
    chosen = [paths[position] for position in np.linspace(0, len(paths) - 1, min(sample, len(paths))).astype(int)]
    if not any(os.path.isfile(image) for image in chosen):
        raise UserError(
            f"{file}: none of {len(chosen)} sampled images exists, first {shown(chosen[0])}; "
            "annotate the folder again where it is now"
        )


def _identity_names(
    paths: list[str], dense: np.ndarray[tuple[int, ...], np.dtype[np.int64]], labels: list[int]
) -> list[str]:
    _, first = np.unique(dense, return_index=True)
    names: list[str] = []
    taken = set()
    for label, position in zip(labels, first, strict=True):
        folder = os.path.basename(os.path.dirname(paths[position]))
        name = folder if folder and folder not in taken else str(label)
        while name in taken:
            name += "'"
        taken.add(name)
        names.append(name)
    return names

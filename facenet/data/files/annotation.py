"""The annotation file: one line `<label>;<path>` for each image, as the reference writes and reads it
(bubbliiiing/facenet-pytorch).
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import numpy as np

from facenet.data.files.decode import DEFAULT, Decode
from facenet.data.identities import FolderFaces, ImageList
from facenet.data.split import replace_text
from facenet.errors import UserError, shown
from facenet.files.home import expand_home
from facenet.files.reading import open_text

log = logging.getLogger(__name__)
Spelling = Callable[[str], str]
LARGEST_LABEL = 2**62  # int64; labels are numbered anew
LONGEST_LINE = 1 << 14  # characters; no system opens a path of more than 4,096 bytes
TRAILING = " \t\r\n"  # what a line may end with besides the path; so no path may end with it
FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")  # an accent with its letter, or after it as macOS has it
UTF8 = re.compile(r"[^\udc80-\udcff]*")  # a byte that is none has become one of these
DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # how absolute paths of Windows begin
SAMPLE = 32  # paths that are looked for: for every file it would take minutes on a cold disk
OTHER_SHAPES = {  # what follows <label>;<path> in other tools
    "<aligned> TAB <path> TAB <label>, a list of insightface's face2rec": re.compile(
        r"[01]\t[^\t]*[^\t\d.][^\t]*\t\d+(\t|$)"
    ),
    "<key> TAB <label> TAB <path>, a list of im2rec": re.compile(r"\d+\t[\d.]+\t"),
    "<label>,<path>": re.compile(r"\d+\s*,(?=.*\S)"),
    "<label> TAB <path>": re.compile(r"\d+\t"),
    "<path> <label>": re.compile(r".*\S[\s,;]+\d+$"),
    "a path without label": re.compile(r".*\.\w{3,4}$"),
}


def annotate(root: str | Path, out: str | Path, *, depth: int = 1) -> FolderFaces:
    """Write the annotation file of root/<identity>/<image>, or of deeper images; the faces that it lists come back, for their counts."""
    faces = FolderFaces(root, depth=depth)
    write_annotation(faces, out)
    return faces


def write_annotation(faces: ImageList | FolderFaces, path: str | Path) -> None:
    """Write one line per image with its absolute path, ordered by label, then as in `faces`. UserError for a path the
    format cannot hold."""
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
    A path may be quoted, begin with ~ for home, and be relative in the spelling of Windows.

    Labels keep their order and are renumbered where they leave gaps (logged). An identity is named after the folder of
    its first image, or by its label where that name is taken. A path that is listed twice is logged. UserError for a
    missing or empty file, a wrong line (numbered), a single identity, and when none of a sample of the paths exists."""
    file = expand_home(path)
    labels, paths = _parse(file, anywhere=within is not None)
    paths = _as_called_here(paths)
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
    _tell_repeated(file, labels, paths)
    return ImageList(paths, dense, _identity_names(paths, dense, present.tolist()), decode)


def _parse(file: Path, *, anywhere: bool) -> tuple[list[int], list[str]]:
    labels: list[int] = []
    paths: list[str] = []
    as_they_stand: dict[int, str] = {}  # whose quotes, blanks or ~ may be of the name
    for number, whole in enumerate(_lines(file), start=1):
        if len(whole) == LONGEST_LINE:
            raise UserError(f"{file}:{number}: a line of more than {LONGEST_LINE} characters; expected <label>;<path>")
        line = whole.rstrip(TRAILING)
        if not line:
            continue
        label, separator, stands = _parts(line)
        image = _unquote(stands.lstrip())
        if not (separator and image and label.isdecimal()):
            raise UserError(f"{file}:{number}: {_tell_expected(line)}")
        if len(label) > 19 or int(label) > LARGEST_LABEL:
            raise UserError(f"{file}:{number}: the label {label[:24]}... is too large; labels count from 0")
        _check_place(f"{file}:{number}", image, file.parent, anywhere=anywhere)
        if (image != stands or image.startswith("~/")) and not _leads_out(stands):
            as_they_stand[len(paths)] = os.path.join(file.parent, stands)
        labels.append(int(label))
        paths.append(os.path.join(file.parent, os.path.expanduser(image) if image.startswith("~/") else image))
    if not paths:
        raise UserError(f"{file}: lists no images; expected lines <label>;<path>")
    if any(map(os.path.isfile, _sample([*as_they_stand.values()]))):
        for at, path in as_they_stand.items():
            paths[at] = path
    return labels, paths


def _parts(line: str) -> tuple[str, str, str]:
    """(label, separator, path as it stands). Quotes may be around the label, the path or the line."""
    for text in (line, _unquote(line)):
        label, separator, image = text.partition(";")
        label = _unquote(label.strip())  # int() knows fewer blanks than strip()
        if label.isdecimal():
            break
    return label, separator, image


def _unquote(text: str) -> str:
    """Returns the text without the quotes that some programs put around values."""
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" else text


def _tell_expected(line: str) -> str:
    if "\0" in line:
        return "is not text; expected lines <label>;<path>"
    told = f"expected <label>;<path> with a label of 0 or more, got {line[:80]!r}"
    seems = next((shape for shape, known in OTHER_SHAPES.items() if known.match(line[:1000])), None)
    return f"{told}; it seems to be {seems}: write the label and ; before each path" if seems else told


def _check_place(where: str, image: str, folder: Path, *, anywhere: bool) -> None:
    if os.path.isabs(image):
        return
    if not anywhere and _leads_out(image):
        raise UserError(
            f"{where}: {shown(image[:80])} leads out of the list's folder; write it as an absolute path, "
            "or set data.within to the folder that holds the images"
        )
    if DRIVE.match(image) and not os.path.isfile(os.path.join(folder, image)):
        raise UserError(
            f"{where}: {shown(image[:80])} is a path of a Windows machine; write it as it is called here, or relative to the list"
        )


def _leads_out(image: str) -> bool:
    """In any spelling in which it may be looked for: a byte that is a backslash can be half of a Chinese letter."""
    spellings = {image, _use_slashes(image), *(() if image.isascii() else [_use_slashes(_from_gb18030(image))])}
    return any(os.path.normpath(one).split(os.sep)[0] == os.pardir for one in spellings)


def _as_called_here(paths: list[str]) -> list[str]:
    """With slashes for backslashes, out of the encoding of a Chinese Windows, or with accents as a Mac or as others write them, where the list was
    written there: under such names most files of a sample are there, and none as it stands."""
    odd = [path for path in paths if "\\" in path or not path.isascii()]
    sample = _sample(odd)
    if any(map(os.path.isfile, sample)):
        return paths
    gb18030: tuple[Spelling, ...] = (_from_gb18030, lambda path: _use_slashes(_from_gb18030(path)))
    spellings: tuple[Spelling, ...] = (_use_slashes, *gb18030, *(partial(normalize, form) for form in FORMS))
    counts = [sum(os.path.isfile(spelling(path)) for path in sample) for spelling in spellings]
    return [spellings[counts.index(max(counts))](path) for path in paths] if any(counts) else paths


def _sample(paths: list[str]) -> list[str]:
    return [paths[at] for at in np.linspace(0, len(paths) - 1, min(SAMPLE, len(paths))).astype(int)]


def _use_slashes(path: str) -> str:
    return path.replace("\\", "/")


def _from_gb18030(path: str) -> str:
    """The names in it that are no UTF-8 read so."""
    try:
        return "/".join(
            name if UTF8.fullmatch(name) else os.fsencode(name).decode("gb18030") for name in path.split("/")
        )
    except UnicodeError:
        return path


def _tell_repeated(file: Path, labels: list[int], paths: list[str]) -> None:
    """An image that is listed twice trains twice as often; one under two labels teaches both."""
    if len(set(paths)) == len(paths):
        return
    first: dict[str, int] = {}
    again = [(first[path], at) for at, path in enumerate(paths) if first.setdefault(path, at) != at]
    for kind, found in (
        ("list an image again", [pair for pair in again if labels[pair[0]] == labels[pair[1]]]),
        ("list an image under another label", [pair for pair in again if labels[pair[0]] != labels[pair[1]]]),
    ):
        if found:
            before, at = found[0]
            told = f"{shown(paths[at])} with labels {labels[before]} and {labels[at]}"
            log.warning("%s: %d lines %s, first %s", file, len(found), kind, told)


def _lines(file: Path) -> Iterator[str]:
    """Yields the lines of the file; of a line that is too long, only its beginning."""
    try:
        with open_text(file, any_bytes=True, lf_only=True) as lines:
            yield from iter(partial(lines.readline, LONGEST_LINE), "")
    except OSError as error:
        raise UserError(
            f"data.list: {file} cannot be read ({error.strerror}); "
            f"write one with: facenet-data annotate FOLDER --out {shlex.quote(file.name)}"
        ) from error
    except ValueError as error:
        raise UserError(f"data.list: {file} is damaged ({error}); save it as UTF-8") from error


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


def _check_some_exist(file: Path, paths: list[str]) -> None:
    """A list that was moved without its images is told before training."""
    chosen = _sample(paths)
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

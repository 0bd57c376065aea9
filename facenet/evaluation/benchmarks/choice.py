"""What `benchmark=` chooses: pairs of images and the protocol by which they are judged. Opening one reads no pixels."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from facenet.data.files.decode import IMAGE_SUFFIXES
from facenet.data.files.folder_index import descend, is_image
from facenet.data.identities import Faces, ImageList, Subset
from facenet.errors import UserError, shown
from facenet.evaluation.benchmarks.bin_file import BinFaces
from facenet.evaluation.benchmarks.drawn_pairs import draw_different, draw_same
from facenet.evaluation.benchmarks.folds import consecutive, dealt, have_both
from facenet.evaluation.benchmarks.pair_set import PairSet
from facenet.evaluation.benchmarks.pairs_file import read_pairs
from facenet.evaluation.contract import way_without
from facenet.evaluation.protocol import Protocol
from facenet.files.home import expand_home

log = logging.getLogger(__name__)
MOST_PAIRS = 10_000_000  # held-out ones; all of LFW's images would give 0.24 million of one identity
ALWAYS_DRAWN = 100_000  # different pairs, as many as asked for: below, what is drawn depends on the number
PREFERRED = (".jpeg", ".png", ".jpg")  # the last of an image that is there twice


class NoBenchmark:
    """No pairs are tested, whatever `protocol` a preset chooses for those of other benchmarks."""

    name, key = "none", "benchmark"
    needs_heldout = False

    def __init__(self, *, protocol: Protocol | None = None) -> None:
        pass

    def open(self, heldout: Faces | None = None) -> None:
        """None: there are no pairs."""
        return None


class Lfw:
    """Labeled Faces in the Wild, View 2: the folds of the list are kept. Other lists of pairs of image files: see `pairs_file`.

    root: folder with root/<identity>/<identity>_0001.jpg, or in another format that is read.
    pairs: the list; where null, pairs.txt in root or beside it. batch_size: images per forward pass. protocol: how pairs are judged."""

    name, key = "lfw", "benchmark"
    needs_heldout = False

    def __init__(self, *, root: str, protocol: Protocol, pairs: str | None = None, batch_size: int = 64) -> None:
        self.root = expand_home(root)
        self.protocol = protocol
        self.batch_size = _positive("batch_size", batch_size)
        self.pairs = None if pairs is None else expand_home(pairs)

    def open(self, heldout: Faces | None = None) -> PairSet:
        """The pairs of the list. UserError for a missing or empty root, a missing or wrong list, and missing images of the list."""
        self._check_root()
        path = self.pairs or self._found_list()
        listed = read_pairs(path)
        images = sorted({*listed.left, *listed.right})
        number = {image: position for position, image in enumerate(images)}
        return PairSet(
            name=self.name,
            key=self.key,
            faces=self._faces(images, path),
            location=str(self.root),
            left=np.array([number[image] for image in listed.left]),
            right=np.array([number[image] for image in listed.right]),
            same=listed.same,
            folds=listed.folds,
            protocol=self.protocol,
            batch_size=self.batch_size,
        )

    def _check_root(self) -> None:
        hint = f"set {self.key}.root to the folder of <identity>/<image>, or {way_without(self.key)}"
        if not os.path.isdir(self.root):
            raise UserError(f"{self.name}: {self.root} is not a folder; {hint}")
        with os.scandir(self.root) as entries:
            if next(entries, None) is None:
                raise UserError(f"{self.name}: {self.root} is empty; {hint}")

    def _found_list(self) -> Path:
        for folder in (self.root, self.root.absolute().parent, descend(self.root)):
            if os.path.isfile(place := folder / "pairs.txt"):
                return place
        raise UserError(
            f"{self.name}: no pairs.txt in {self.root} or beside it; set {self.key}.pairs to the list, or {way_without(self.key)}"
        )

    def _faces(self, images: list[str], pairs: Path) -> ImageList:
        paths, root = _existing(self.root, images), self.root
        if None in paths and (inner := descend(self.root)) != self.root:  # paths may count from the outer one
            paths, root = min(
                ((paths, root), (_existing(inner, images), inner)), key=lambda found: found[0].count(None)
            )
        # An accent is a letter's part, or follows it as on a Mac.
        if None in paths and not all(map(str.isascii, images)):
            spelled = ([normalize(form, image) for image in images] for form in ("NFC", "NFD"))
            paths = min(paths, *(_existing(root, names) for names in spelled), key=lambda found: found.count(None))
        missing = [image for image, path in zip(images, paths, strict=True) if path is None]
        if missing:
            first = missing[0] if _suffix(missing[0]) in IMAGE_SUFFIXES else f"{missing[0]}.jpg"
            raise UserError(
                f"{self.name}: {len(missing)} files named by {pairs.name} are missing under {root}, "
                f"first {shown(first)}; set {self.key}.root, or {way_without(self.key)}"
            )
        identities, labels = np.unique([image.rpartition("/")[0] or image for image in images], return_inverse=True)
        return ImageList([path for path in paths if path is not None], labels, [str(name) for name in identities])


class Bin:
    """A verification set of insightface. path: the file, after which it is named. num_folds: of consecutive pairs, as insightface judges; where
    these would hold one kind of pair alone, of each kind dealt out in turn. batch_size: images per forward pass. protocol: how pairs are judged."""

    key = "benchmark"
    needs_heldout = False

    def __init__(self, *, path: str, protocol: Protocol, num_folds: int = 10, batch_size: int = 64) -> None:
        self.path = expand_home(path)
        self.name = re.sub(r"[^\w.-]", "_", self.path.stem)  # metrics are named after it
        self.protocol, self.num_folds = protocol, num_folds
        self.batch_size = _positive("batch_size", batch_size)

    def open(self, heldout: Faces | None = None) -> PairSet:
        """The pairs of the file. UserError for one that is missing or damaged, or has fewer than one of each kind per fold."""
        try:
            faces = BinFaces(self.path)
        except UserError as error:
            hint = "" if os.path.exists(self.path) else f"; if it has moved, say where it is now: {self.key}.path=NEW"
            raise UserError(f"{self.key}.path: {error}{hint}") from error
        num_pairs = len(faces.same)
        if self.num_folds < 2 or num_pairs < 2 * self.num_folds:
            raise UserError(
                f"{self.name}: {num_pairs} pairs in {self.num_folds} folds; "
                f"{self.key}.num_folds must be at least 2 and at most half the pairs"
            )
        fewest = int(min(faces.same.sum(), (~faces.same).sum()))
        if fewest < self.num_folds:
            raise UserError(
                f"{self.name}: {faces.same.sum():,} pairs of one identity and {(~faces.same).sum():,} of two, {self.key}.num_folds={self.num_folds} "
                f"of each are needed; {'lower it to ' + str(fewest) if fewest > 1 else 'choose another set'}, or {way_without(self.key)}"
            )
        if num_alike := int((faces.left == faces.right).sum()):
            log.warning(
                "%s: %d of its pairs are of an image with itself, which any network gets right", self.name, num_alike
            )
        folds = consecutive(num_pairs, self.num_folds)
        if not have_both(faces.same, folds):
            log.warning(
                "%s: its pairs stand in order of kind, so consecutive folds would hold one kind alone; each kind is dealt into %d in turn",
                self.name,
                self.num_folds,
            )
            folds = dealt(faces.same, self.num_folds)
        return PairSet(
            name=self.name,
            key=self.key,
            faces=faces,
            location=str(self.path),
            left=faces.left,
            right=faces.right,
            same=faces.same,
            folds=folds,
            protocol=self.protocol,
            batch_size=self.batch_size,
        )


class HeldOut:
    """Balanced pairs of identities that were kept out of training, drawn once from `seed`, whatever the run's own seed.

    Pairs are dealt into folds at random: folds fit only a threshold, and few identities would not fill their own.
    num_pairs: half of them of one identity. num_folds: that many. batch_size: images per forward pass. protocol: how pairs are judged."""

    name, key = "heldout", "benchmark"
    needs_heldout = True

    def __init__(
        self, *, num_pairs: int, protocol: Protocol, num_folds: int = 10, seed: int = 0, batch_size: int = 64
    ) -> None:
        self.num_pairs, self.num_folds, self.seed, self.protocol = num_pairs, num_folds, seed, protocol
        self.batch_size = _positive("batch_size", batch_size)
        self.check()

    def check(self) -> None:
        """Raises UserError for numbers that no pairs can have."""
        if self.num_folds < 2 or self.num_pairs < 2 * self.num_folds:
            raise UserError(
                f"{self.name}: {self.num_pairs} pairs in {self.num_folds} folds; "
                f"{self.key}.num_folds must be at least 2 and {self.key}.num_pairs at least twice that"
            )
        if self.num_pairs > MOST_PAIRS:
            raise UserError(f"{self.key}.num_pairs: at most {MOST_PAIRS:,} are drawn, got {self.num_pairs:,}")

    def open(self, heldout: Faces | None = None) -> PairSet:
        """Pairs of `heldout`; fewer than asked, with a warning, where it gives no more. UserError below one of each kind per fold."""
        if heldout is None or len(heldout.identities) < 2:
            count = 0 if heldout is None else len(heldout.identities)
            raise UserError(
                f"{self.name}: {count} identities are held out, at least 2 are needed; "
                f"raise data.val_identities, or {way_without(self.key)}"
            )
        rng = np.random.default_rng(self.seed)
        same = draw_same(heldout.labels, self.num_pairs // 2, rng)
        useful = min(self.num_pairs // 2, max(len(same[0]), ALWAYS_DRAWN))  # no more than of the other kind are used
        different = draw_different(heldout.labels, useful, rng)
        half = min(len(same[0]), len(different[0])) // self.num_folds * self.num_folds
        if half == 0:
            raise UserError(
                f"{self.name}: {len(heldout.identities)} held-out identities give {len(same[0])} pairs of one identity and "
                f"{len(different[0])} of two, {self.key}.num_folds={self.num_folds} of each are needed; "
                "raise data.val_identities"
            )
        pair_set = self._pair_set(heldout, same, different, half)
        if half < self.num_pairs // 2 // self.num_folds * self.num_folds:
            log.warning("%s; raise data.val_identities or lower %s.num_pairs", pair_set, self.key)
        return pair_set

    def _pair_set(
        self,
        heldout: Faces,
        same: tuple[NDArray[np.int64], NDArray[np.int64]],
        different: tuple[NDArray[np.int64], NDArray[np.int64]],
        half: int,
    ) -> PairSet:
        sides = [np.concatenate([same[side][:half], different[side][:half]]) for side in (0, 1)]
        used, numbers = np.unique(np.concatenate(sides), return_inverse=True)
        folds = np.arange(half, dtype=np.int64) % self.num_folds
        return PairSet(
            name=self.name,
            key=self.key,
            faces=Subset(heldout, used),
            left=numbers[: 2 * half],
            right=numbers[2 * half :],
            same=np.arange(2 * half) < half,
            folds=np.concatenate([folds, folds]),
            protocol=self.protocol,
            batch_size=self.batch_size,
            num_asked=self.num_pairs if 2 * half < self.num_pairs else None,
        )


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise UserError(f"benchmark.{name}: expected at least 1, got {value}")
    return value


def _existing(root: Path, images: list[str]) -> list[str | None]:
    """The path of each image, whose name may lack its suffix; each folder is listed once, since suffixes come in any case."""
    listed: dict[str, dict[str, str]] = {}
    found: list[str | None] = []
    for image in images:
        folder, _, name = image.rpartition("/")
        if folder not in listed:
            listed[folder] = _by_stem(root / folder)
        stem = name[: -len(suffix)] if (suffix := _suffix(name)) in IMAGE_SUFFIXES else name
        names = listed[folder]
        known = names.get(name) or names.get(stem)
        found.append(None if known is None else f"{root}{os.sep}{folder}{os.sep if folder else ''}{known}")
    return found


def _by_stem(folder: Path) -> dict[str, str]:
    """The images of a folder by their names, and by these without suffix; none where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if is_image(entry))
    except OSError:
        return {}
    names.sort(key=lambda name: PREFERRED.index(_suffix(name)) if _suffix(name) in PREFERRED else -1)
    return {**{name[: -len(_suffix(name))]: name for name in names}, **{name: name for name in names}}


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()

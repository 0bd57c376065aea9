"""Pairs of images, each of one identity or of two, and the protocol by which they are judged."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facenet.data.identities import hex_digest
from facenet.errors import UserError
from facenet.evaluation import judged, pictures, report
from facenet.evaluation.contract import Opened, Outcome, way_without
from facenet.evaluation.judged import JudgedPair
from facenet.evaluation.protocol import Protocol, verify
from facenet.evaluation.verification import Flip, Verification, fewest_different, unresolved
from facenet.files.atomic import replacing

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PairSet(Opened):
    """P pairs over the images of `faces`, each of which occurs in some pair; left and right (P,) index them, `same` (P,) is True for
    two of one identity, `folds` (P,) says from 0 in which fold a pair is tested. `protocol` makes distances and decisions of embeddings.

    num_asked: pairs that the configuration asked for, where the images gave fewer. Pairs of unreadable images are left out."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]
    protocol: Protocol
    num_asked: int | None = None

    @property
    def flip(self) -> Flip:
        return self.protocol.flip

    @property
    def measures(self) -> Mapping[str, bool]:
        return report.MEASURES

    @property
    def unresolved(self) -> Mapping[str, str]:
        count = fewest_different(self.same, self.folds)
        why = f"{count:,} pairs of two identities tell false-accept rates apart in steps of {1 / max(count, 1):.2g}"
        return {f"tar_at_far_{target:g}": why for target in unresolved(count)}

    @property
    def fingerprint(self) -> str:
        """16 hex digits over name, images and pairs."""
        arrays = (self.left, self.right, self.same, self.folds)
        parts = [
            self.name.encode(),
            self.faces.fingerprint.encode(),
            *(array.astype("<i8").tobytes() for array in arrays),
        ]
        return hex_digest(parts)

    def run(self, rows: NDArray[np.float32]) -> Outcome:
        result = verify(rows, self.left, self.right, self.same, self.folds, self.protocol)
        found = report.outcome(self.name, result)
        return found if found.collapsed else replace(found, draw=functools.partial(self.draw, result, rows))

    def draw(self, result: Verification, embeddings: NDArray[np.float32], folder: Path) -> list[Path]:
        """Writes pictures of scores, DET, the identities' embeddings and the hardest pairs, with a list of the latter and one of all; returns the
        files."""
        assert result.distances is not None
        scores, det = (folder / f"{kind}-{self.name}.png" for kind in ("scores", "det"))
        faces, listed = folder / f"faces-hardest-{self.name}.png", folder / f"hardest-{self.name}.json"
        pictures.save_scores(scores, self.name, result.distances, self.same, result)
        pictures.save_det(det, self.name, result)
        rows = pictures.save_hardest(faces, self.faces, self.left, self.right, result.distances, self.same)
        with replacing(listed) as partial:
            partial.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        return [scores, det, faces, listed, *self.draw_identities(embeddings, folder), *self.list_pairs(result, folder)]

    def draw_identities(self, embeddings: NDArray[np.float32], folder: Path) -> list[Path]:
        """Writes a picture of the identities that have most images; returns it, or nothing where too few have several."""
        path, used = folder / f"projection-{self.name}.png", np.unique(np.concatenate([self.left, self.right]))
        labels = self.faces.labels[used]  # without those that cannot be read
        found = pictures.save_projection(path, self.name, embeddings[used], labels)
        return [path] if found else []

    def list_pairs(self, result: Verification, folder: Path) -> list[Path]:
        """Writes every pair with its distance and whether it was judged rightly; returns the file, or nothing for a set of too many."""
        if len(self.same) > judged.MOST:
            return []
        names = judged.below_one_folder([self.faces.name(index) for index in range(len(self.faces))])
        columns = (self.left, self.right, self.same, result.distances, judged.is_correct(result, self.same, self.folds))
        rows = zip(*(np.asarray(column).tolist() for column in columns), strict=True)
        path = folder / f"pairs-{self.name}.csv.gz"
        judged.save_pairs(path, [JudgedPair(names[left], names[right], *rest) for left, right, *rest in rows])
        return [path]

    def without(self, unreadable: Mapping[int, str]) -> PairSet:
        """The pairs whose images can be read. Raises UserError where more cannot than `max_unreadable` allows, which is none for a published list:
        its figures would not be comparable; and where a fold loses all its pairs of a kind."""
        if not unreadable:
            return self
        told = self.told_unreadable(unreadable)
        if len(unreadable) > self.max_unreadable * len(self.faces):
            allowed = f" than data.max_unreadable={self.max_unreadable:g} allows" if self.max_unreadable else ""
            more = f"; that are more{allowed}" if allowed else ""
            raise UserError(f"{told}{more}; mend or replace them, or {way_without(self.key)}")
        kept = ~(np.isin(self.left, list(unreadable)) | np.isin(self.right, list(unreadable)))
        arrays = {name: getattr(self, name)[kept] for name in ("left", "right", "same", "folds")}
        fewer = replace(self, **arrays)
        for fold in np.unique(self.folds):
            if len(np.unique(fewer.same[fewer.folds == fold])) < 2:
                raise UserError(
                    f"{told}; without them fold {fold} has not both kinds of pairs, so mend or replace them"
                )
        log.warning("%s; %d of %d pairs are left out", told, (~kept).sum(), len(kept))
        return fewer

    def __str__(self) -> str:
        asked = f" of {self.num_asked:,} asked for" if self.num_asked else ""
        num_folds = len(np.unique(self.folds))
        return f"{self.name}: {len(self.same):,} pairs{asked} in {num_folds} folds, {len(self.faces):,} images"

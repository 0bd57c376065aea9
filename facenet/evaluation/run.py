"""The benchmarks of a run on one network; an image that several of them want is read and embedded once."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facenet.backbones.embedder import Embedder
from facenet.data.identities import Faces, ImageList, Subset
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import out_of_memory
from facenet.errors import UserError
from facenet.evaluation.benchmarks.bin_file import BinFaces
from facenet.evaluation.contract import Opened, Outcome
from facenet.evaluation.embed import Progress, combined, embed
from facenet.evaluation.verification import Flip

Rows = NDArray[np.float32]
Keys = Sequence[Hashable]


def run_benchmarks(
    embedder: Embedder,
    opened: Sequence[Opened],
    preprocess: Preprocess,
    accelerator: Accelerator,
    *,
    num_workers: int = 2,
    progress: Progress | None = None,
    unreadable: dict[str, str] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Outcome]:
    """By name. Images that cannot be read are left out where their benchmark allows that, and added to `unreadable`, name -> reason. UserError where
    the network gives NaN or a batch finds no memory, Interrupted where `stop` says so."""
    keys, found = image_keys(opened), dict[str, Outcome]()
    rows_of = functools.partial(
        embed, embedder, preprocess=preprocess, accelerator=accelerator, num_workers=num_workers
    )
    shared = {key for key, times in Counter(key for each in keys for key in set(each)).items() if times > 1}
    once = EmbeddedOnce(rows_of, progress, stop, shared, total=len({key for each in keys for key in each}))
    for each, own, flip in zip(opened, keys, flips(opened, keys), strict=True):
        try:
            rows, bad = once.rows(each, own, flip)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise UserError(
                f"{each.name}: {accelerator.device} ran out of memory (its words: {str(error).splitlines()[0]}); "
                f"lower {each.key}.batch_size, now {each.batch_size}: it changes no result"
            ) from None
        readable = each.without(bad)
        if unreadable is not None:
            unreadable.update({each.faces.name(index): reason for index, reason in bad.items()})
        broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(broken):
            first = each.faces.name(int(broken[0]))
            raise UserError(
                f"{each.name}: {len(broken)} of {len(rows)} embeddings are not finite, first that of {first}; "
                "the weights hold NaN or overflow: lower optimizer.lr, or take an earlier checkpoint"
            )
        found[each.name] = readable.run(rows)
    return found


@dataclass
class EmbeddedOnce:
    """The rows of images by key, of which those that are `shared` by benchmarks are kept for the next."""

    embed: Callable[..., Rows]
    progress: Progress | None
    stop: Callable[[], bool]
    shared: set[Hashable]
    total: int
    done: int = 0
    known: dict[Hashable, Rows] = field(default_factory=dict)
    bad: dict[Hashable, str] = field(default_factory=dict)

    def rows(self, opened: Opened, keys: Keys, flip: Flip | Literal["both"]) -> tuple[Rows, dict[int, str]]:
        """Of all its images, in their order, with the reason for each that cannot be read."""
        left = np.array([index for index, key in enumerate(keys) if key not in self.known], np.int64)
        found: dict[int, str] = {}
        new = self.embed(
            faces=Subset(opened.faces, left, keep_labels=True) if self.known else opened.faces,
            batch_size=opened.batch_size,
            flip=flip,
            progress=self.told,
            unreadable=found,
        )
        self.done += len(left)
        self.bad.update({keys[left[index]]: reason for index, reason in found.items()})
        rows = np.empty((len(keys), new.shape[1]), np.float32)
        rows[left] = new
        for index, key in enumerate(keys if self.known else ()):
            rows[index] = self.known.get(key, rows[index])
        self.known.update({keys[index]: rows[index] for index in left.tolist() if keys[index] in self.shared})
        bad = {index: self.bad[key] for index, key in enumerate(keys if self.bad else ()) if key in self.bad}
        return (combined(rows, opened.flip) if flip == "both" else rows), bad

    def told(self, done: int, _: int) -> bool:
        if self.progress is not None:
            self.progress(self.done + done, self.total)
        return self.stop()


def image_keys(opened: Sequence[Opened]) -> list[Keys]:
    """By which the images of each are known among those of all; alone, an image is its number."""
    return [keys_of(each.faces) if len(opened) > 1 else range(len(each.faces)) for each in opened]


def keys_of(faces: Faces) -> Keys:
    """Equal for an image that two sets of faces have in common: of a file its path, else its number in the source."""
    indices = np.arange(len(faces))
    while isinstance(faces, Subset):
        indices = faces.indices[indices]
        faces = faces.parent
    if isinstance(faces, ImageList):
        how = repr(faces.decode)
        return [(how, faces.paths[index]) for index in indices.tolist()]
    source = str(faces.path) if isinstance(faces, BinFaces) else id(faces)
    return [(source, index) for index in indices.tolist()]


def flips(opened: Sequence[Opened], keys: Sequence[Keys]) -> list[Flip | Literal["both"]]:
    """What each is embedded with: its own flip, or image and mirror image by themselves where others want another one of the same images."""
    found: list[Flip | Literal["both"]] = []
    images = [set(each) for each in keys] if len(opened) > 1 else []
    for number in range(len(opened)):
        group, more = {number}, {number}
        while more:
            near = (
                {each for each in range(len(opened)) if any(images[each] & images[other] for other in more)}
                if images
                else set()
            )
            more = near - group
            group |= more
        wanted = {opened[each].flip for each in group}
        found.append(opened[number].flip if len(wanted) == 1 else "both")
    return found

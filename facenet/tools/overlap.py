"""Identities of one set of faces that also occur in another: by name, and by embedding where a network is at hand."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from facenet import config as configs
from facenet.backbones.embedder import Embedder
from facenet.data.files.inventory import Inventory
from facenet.data.identities import Subset
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.errors import UserError, check_least
from facenet.evaluation.embed import embed
from facenet.tasks.progress import image_bar
from facenet.tasks.restore import Restored, from_checkpoint, from_weights

BLOCK = 4096  # images embedded at once, then added to their identities' sums: 2 MB, whatever the number of images


class Near(NamedTuple):
    """Two identities by number and the cosine of their mean embeddings."""

    left: int
    right: int
    cosine: float


def plain_name(name: str) -> str:
    """Returns a name without case, accents and punctuation, its words in alphabetical order: what two spellings of a name share."""
    letters = unicodedata.normalize("NFKD", name)
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold()
    return " ".join(sorted(re.findall(r"[^\W_]+", bare)))


def same_names(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    by_name: dict[str, list[int]] = {}
    for number, name in enumerate(right):
        by_name.setdefault(plain_name(name), []).append(number)
    by_name.pop("", None)  # of nothing but punctuation
    return [(number, other) for number, name in enumerate(left) for other in by_name.get(plain_name(name), ())]


def restore_network(
    checkpoint: str | None, weights: str | None, backbone: str, preprocess: str, image_size: int
) -> Restored | None:
    """The network that a checkpoint carries, or weights with the named choices of `conf`; None where neither is given."""
    if checkpoint and weights:
        raise UserError("give either --checkpoint or --weights")
    if checkpoint:
        return from_checkpoint(checkpoint)
    if weights is None:
        return None
    nodes = configs.chosen({"backbone": backbone, "preprocess": preprocess}, {"data": {"image_size": image_size}})
    parts = configs.build({name: nodes[name] for name in ("backbone", "preprocess")})
    return from_weights(weights, parts["backbone"], parts["preprocess"])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the people of two sets are compared: by which network (see `restore_network`) on which device, and from which cosine of their means on two
    may be one."""

    checkpoint: str | None
    weights: str | None
    backbone: str
    preprocess: str
    image_size: int
    threshold: float
    accelerator: str

    def network(self) -> Restored | None:
        check_least("--image-size", self.image_size)
        return restore_network(self.checkpoint, self.weights, self.backbone, self.preprocess, self.image_size)

    def device(self) -> DeviceChoice:
        node = configs.chosen({"accelerator": self.accelerator}, {})["accelerator"]
        choice: DeviceChoice = configs.build(node, "accelerator")
        return choice


def near_identities(
    network: Restored,
    left: Inventory,
    right: Inventory,
    *,
    accelerator: DeviceChoice,
    threshold: float,
    num_workers: int,
) -> list[Near]:
    """Pairs of identities whose mean embeddings have a cosine of `threshold` or more, the nearest first."""
    with Accelerator.start(accelerator, Precision(), alone=True) as device:
        device.prepare(network.embedder)
        means = [
            mean_embeddings(network.embedder, network.preprocess, device, inventory, num_workers)
            for inventory in (left, right)
        ]
    found = []
    for start in range(0, len(means[0]), BLOCK):
        cosines = means[0][start : start + BLOCK] @ means[1].T
        for row, column in np.argwhere(cosines >= threshold).tolist():
            found.append(Near(start + row, column, float(cosines[row, column])))
    return sorted(found, key=lambda near: -near.cosine)


def further(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    """The progress of a part of so many images, which `before` others preceded."""
    return lambda done, _: progress(before + done, total)


def mean_embeddings(
    embedder: Embedder, preprocess: Preprocess, device: Accelerator, inventory: Inventory, num_workers: int
) -> NDArray[np.float32]:
    """Unit rows (I, D); zero for an identity without a readable image."""
    faces, indices = inventory.faces, np.flatnonzero(inventory.readable)
    sums = np.zeros((len(faces.identities), embedder.embedding_size), np.float32)
    with image_bar(len(indices), lines=True) as progress:
        for start in range(0, len(indices), BLOCK):
            block = indices[start : start + BLOCK]
            part = Subset(faces, block, keep_labels=True)
            rows = embed(
                embedder,
                part,
                preprocess,
                device,
                batch_size=64,
                num_workers=num_workers,
                progress=further(progress, start, len(indices)),
            )
            np.add.at(sums, faces.labels[block], rows)
    unit: NDArray[np.float32] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return unit

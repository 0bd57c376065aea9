"""A trained network as another program uses it: images become embeddings, two embeddings a distance, and a distance a decision.

    network = facenet.load("outputs/2026-01-31/12-00-00")
    one, other = network.embed(["anna.jpg", "berta.png"])
    network.distance(one, other), network.same(one, other)

N is the number of images, D that of the numbers of an embedding.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facenet.backbones.embedder import Embedder
from facenet.data.given import Given, in_parts
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DEVICES, DeviceChoice, Precision, absent, out_of_memory, outside, row
from facenet.errors import UserError, shown
from facenet.evaluation.embed import embed
from facenet.evaluation.protocol import Protocol, distance_from_cosine
from facenet.evaluation.verification import Distance, Flip, Floats, Threshold
from facenet.files import trusted
from facenet.tasks.as_trained import own_protocol
from facenet.tasks.restore import checkpoint_named, from_checkpoint

FIRST = "; embed images first: network.embed(images) gives them"
Trust = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def load(path: str | os.PathLike[str], *, device: str = "auto", precision: str = "fp32", trust: Trust = ()) -> Network:
    """The network of `path`: a checkpoint, or a run by its directory or its id in MLflow, whose best it is, or its last where none is best.
    Nothing in the file is run.

    `device` is auto, sdaa, cuda or cpu; `precision` that of the forward pass; `trust` names packages or folders whose classes the network may be
    of. Raises UserError for a file that is missing, damaged or none of facenet's, and for a device that is not there."""
    file = checkpoint_named(path)
    with trusted.also([str(each) for each in ([trust] if isinstance(trust, str | os.PathLike) else trust)]):
        restored = from_checkpoint(str(file))
    content = restored.content
    stored = content["config"].get("benchmark")
    protocol = own_protocol(Protocol(), stored.get("protocol") if isinstance(stored, dict) else None, set())
    width = restored.embedder.embedding_size
    threshold = threshold_in(content, file, width)
    if threshold is not None:
        protocol = Protocol(distance=threshold.distance, flip=threshold.flip, subtract_mean=threshold.mean is not None)
    with Accelerator.start(choice_of(device), precision_of(precision), alone=True) as started:
        pass  # alone, so that its end leaves the device as it is
    started.prepare(restored.embedder.eval().requires_grad_(False))
    return Network(file, restored.embedder, restored.preprocess, protocol, threshold, started)


@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """A trained network, ready to embed; `load` makes it, from the file `path`. `embedder` is the module, on the device of `accelerator`.
    `preprocess`, `protocol` and `threshold` are those of its run; `threshold` is None where the run was not tested, or its network had collapsed.
    `distance` and `same` take rows that its own `embed` gave."""

    path: Path
    embedder: Embedder
    preprocess: Preprocess
    protocol: Protocol
    threshold: Threshold | None
    accelerator: Accelerator

    @property
    def embedding_size(self) -> int:
        """D, with the mirror image's numbers where these stand beside the image's own."""
        return self.embedder.embedding_size * (2 if self.protocol.flip == "concat" else 1)

    def __repr__(self) -> str:
        height, width = self.preprocess.size
        near = "no threshold" if self.threshold is None else f"threshold {self.threshold.value:.4g}"
        told = f"{width} x {height} pixels -> {self.embedding_size}, {near} ({self.protocol.distance})"
        return f"<facenet.Network {shown(str(self.path))}: {told}, on {self.accelerator.device}>"

    def embed(
        self, images: Given | Iterable[Given], *, batch_size: int = 64, num_workers: int = 2
    ) -> NDArray[np.float32]:
        """Unit rows (N, D), float32, in the order of `images`: paths, images of Pillow's or uint8 arrays (H, W, 3) of RGB, one or many, also an
        iterator or one array (N, H, W, 3). One image gives one row.

        Images are read and fitted as the run's own. `num_workers` threads read them. Raises UserError for one that cannot be read, and for
        embeddings that are not finite."""
        if batch_size < 1 or num_workers < 0:
            raise UserError(f"batch_size={batch_size}, num_workers={num_workers}: expected 1 or more, and 0 or more")
        rows = [np.empty((0, self.embedding_size), np.float32)]
        try:
            for faces in in_parts(images):
                flip = self.protocol.flip
                options: dict[str, Any] = {"batch_size": batch_size, "flip": flip, "num_workers": num_workers}
                rows.append(embed(self.embedder, faces, self.preprocess, self.accelerator, **options))
                broken = np.flatnonzero(~np.isfinite(rows[-1]).all(axis=1))
                if len(broken):
                    raise UserError(f"{shown(faces.name(int(broken[0])))}: its embedding by {self.path} is not finite")
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise UserError(
                f"{self.accelerator.device} ran out of memory; lower batch_size, now {batch_size}"
            ) from None
        return np.concatenate(rows)

    def distance(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """Row by row between embeddings (N, D) and (N, D), in the unit of the threshold, `protocol.distance`. A single one, (D,) or (1, D), is set
        against all of the others."""
        left, right = self._unit_rows(a, "a"), self._unit_rows(b, "b")
        if left.ndim == right.ndim == 2 and len(left) != len(right) and 1 not in (len(left), len(right)):
            raise UserError(f"{len(left)} embeddings and {len(right)}: expected pairs of rows, or one against many")
        return distance_from_cosine(np.einsum("...d,...d->...", left, right), self.protocol.distance)

    def same(self, a: ArrayLike, b: ArrayLike, *, threshold: float | None = None) -> NDArray[np.bool_]:
        """Whether the two of each pair are one identity: whether their `distance` is below the threshold, the stored one if none is given: (N,) bool.
        Raises UserError where there is none."""
        if threshold is None:
            if self.threshold is None:
                raise UserError(
                    f"{self.path}: has no threshold, since its run was not tested or its network had collapsed; say one in its unit, "
                    f"{self.protocol.distance}: same(a, b, threshold=...)"
                )
            threshold = self.threshold.value
        return np.asarray(self.distance(a, b) < threshold)

    def _unit_rows(self, rows: ArrayLike, name: str) -> Floats:
        """Returns unit rows in float64: products of float32 err by 1e-7, an l2 distance near 0 then by 3e-4."""
        try:
            found = np.asarray(rows, np.float64)
        except (TypeError, ValueError):
            raise UserError(f"{name}: expected embeddings, numbers (N, D){FIRST}") from None
        if found.ndim not in (1, 2) or found.shape[-1] != self.embedding_size or not np.isfinite(found).all():
            raise UserError(
                f"{name}: expected finite embeddings of this network, (N, {self.embedding_size}) or ({self.embedding_size},); "
                f"got shape {found.shape}{FIRST if found.shape[-1:] != (self.embedding_size,) else ''}"
            )
        found = scaled_to_unit(found)
        mean = None if self.threshold is None else self.threshold.mean
        return found if mean is None else scaled_to_unit(found - np.asarray(mean))


def scaled_to_unit(rows: Floats) -> Floats:
    unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    return unit


def choice_of(device: str) -> DeviceChoice:
    if device not in ("auto", *DEVICES, *outside()):
        raise UserError(f"device={device!r}: expected one of {', '.join(['auto', *DEVICES, *outside()])}")
    if device != "auto" and (problem := absent(device)):
        raise UserError(f"device={device}: {problem}; {row(device).fix}, or say device='auto'")
    return DeviceChoice(name=device)


def precision_of(precision: str) -> Precision:
    if precision not in ("fp32", "fp16", "bf16"):
        raise UserError(f"precision={precision!r}: expected one of fp32, fp16, bf16")
    return Precision(dtype=precision)  # type: ignore[arg-type]


def threshold_in(content: dict[str, Any], path: Path, width: int) -> Threshold | None:
    """The threshold that a checkpoint holds, of a network with `width` numbers. Raises UserError for values that no run wrote."""
    stored = content.get("threshold")
    if stored is None:
        return None
    if isinstance(stored, dict) and set(stored) == {"value", "distance", "flip", "mean"}:
        value, mean = stored["value"], stored["mean"]
        numbers = [value, *(mean if isinstance(mean, (tuple, list)) else ())]
        known = stored["distance"] in get_args(Distance) and stored["flip"] in get_args(Flip)
        long = width * (2 if stored["flip"] == "concat" else 1)
        fits = mean is None or (isinstance(mean, (tuple, list)) and len(mean) == long)
        if known and fits and all(type(each) is float and math.isfinite(each) for each in numbers):
            return Threshold(**{**stored, "mean": None if mean is None else tuple(mean)})
    raise UserError(f"checkpoint={path}: damaged, its threshold is none")

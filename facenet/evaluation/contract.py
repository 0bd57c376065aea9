"""What a benchmark is: images, and what their embeddings are worth. Our own and a stranger's are used through this alone.

A run opens its benchmarks before it trains, embeds the images of all of them once per test, and gives each its rows. N is the number of images, D
that of the numbers of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facenet.data.identities import Faces, UnreadableImage
from facenet.errors import UserError
from facenet.evaluation.verification import Flip, Roc, Threshold


class Benchmark(Protocol):
    """What `benchmark=` and the names under `benchmarks` choose. `name` begins the names of its metrics; `key` is where the config has it, for
    messages: both are given anew to one under `benchmarks`. `needs_heldout`: whether identities of the run's data are kept out of training for it."""

    name: str
    key: str
    needs_heldout: bool

    def open(self, heldout: Faces | None = None) -> Opened | None:
        """Looks for the images and reads no pixels; None where nothing is tested. Raises UserError for what is missing."""


@dataclass(frozen=True, kw_only=True)
class Opened(ABC):
    """A benchmark whose images, `faces`, are known; `name` and `key` as in `Benchmark`. location: where they are read from; None of the run's own and
    of drawn ones. batch_size: images per forward pass. max_unreadable: share of the images that may be unreadable."""

    name: str
    faces: Faces
    key: str = "benchmark"
    location: str | None = None
    batch_size: int = 64
    max_unreadable: float = 0.0

    @property
    def flip(self) -> Flip:
        """What represents an image: its embedding (`none`), or that and its mirror image's (`concat`, `sum`, see `Protocol`)."""
        return "none"

    @property
    def fingerprint(self) -> str:
        """Equal for what is tested in the same way on the same images."""
        return self.faces.fingerprint

    @property
    @abstractmethod
    def measures(self) -> Mapping[str, bool]:
        """The figures that tell better from worse, and whether lower is better. The first is the one that chooses the best epoch."""

    @property
    def unresolved(self) -> Mapping[str, str]:
        """Figure -> why so few images cannot tell it."""
        return {}

    @abstractmethod
    def run(self, rows: NDArray[np.float32]) -> Outcome:
        """What embeddings (N, D) of `faces`, unit rows in their order, are worth."""

    def without(self, unreadable: Mapping[int, str]) -> Opened:
        """The same without images that cannot be read, number -> reason. Raises UserError where they are needed."""
        if not unreadable:
            return self
        raise UserError(f"{self.told_unreadable(unreadable)}; mend or replace them, or {way_without(self.key)}")

    def told_unreadable(self, unreadable: Mapping[int, str]) -> str:
        """How many of its images cannot be read, and the first with the reason: one line."""
        first = min(unreadable)
        told = UnreadableImage(self.faces.name(first), unreadable[first])
        return f"{self.name}: {len(unreadable)} of {len(self.faces)} images cannot be read, first {told}"

    def __str__(self) -> str:
        return f"{self.name}: {len(self.faces):,} images"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a test has come to. `metrics`: figure -> value. `files`: name -> plain values, kept as JSON. `threshold`: the one to store with the
    network. `folds`: accuracy of each, by which two runs are compared. `roc`: drawn beside those of the run's other benchmarks, with `operating`, its
    points (false accepts, true accepts) at the stored targets. `draw`: writes more pictures into a folder and returns their files. Names of
    all files that show or name people begin with `faces-`, so that they stay on this machine. `said`: in a few words, `text`: in lines. `collapsed`:
    why the network has none of the figures that tell better from worse."""

    metrics: Mapping[str, float]
    files: Mapping[str, Any] = field(default_factory=dict)
    threshold: Threshold | None = None
    folds: tuple[float, ...] = ()
    roc: Roc | None = None
    operating: tuple[tuple[float, float], ...] = ()
    draw: Callable[[Path], list[Path]] | None = None
    said: str = ""
    text: str = ""
    collapsed: str | None = None


def way_without(key: str) -> str:
    """How a run does without the benchmark at this key of its config."""
    return "benchmark=none" if key == "benchmark" else f"leave {key} out"

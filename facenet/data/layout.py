"""How the rows of a batch stand: what a sampler says once, and a loss is told once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """kind "triplet": thirds, anchors, then their positives, then their negatives. "pk": `images_per_identity` images of an identity side by side,
    then those of the next. "shuffle": whichever images come, so that only the labels tell."""

    kind: str
    images_per_identity: int | None = None

    @property
    def multiple(self) -> int:
        """What the number of images of a process is a multiple of."""
        return 3 if self.kind == "triplet" else self.images_per_identity or 1


UNORDERED = Layout("shuffle")

"""What every subject gets."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, field
from pathlib import Path

from bench.calibrate import calibration
from bench.faces import write_faces
from bench.goals import Goal
from bench.peers import Peers
from bench.rounds import Table


@dataclass
class Context:
    """`quick`: small sizes, for CI and tests."""

    peers: Peers
    scratch: Path
    rounds: int
    quick: bool
    data: Path | None = None

    @functools.cached_property
    def faces(self) -> Path:
        if self.data is not None:
            return self.data
        return write_faces(self.scratch, num_identities=40 if self.quick else 200, images_per_identity=6)

    @functools.cached_property
    def jpegs(self) -> list[bytes]:
        return [path.read_bytes() for path in itertools.islice(sorted(self.faces.rglob("*.jpg")), 64)]

    @functools.cached_property
    def limits(self) -> dict[str, float]:
        return calibration(self.jpegs)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Precisions worth timing, the fastest last: bf16 only where the machine computes it faster than fp32."""
        return ("fp32", "bf16") if self.limits["conv_bf16_flops"] > self.limits["conv_fp32_flops"] else ("fp32",)


@dataclass
class Outcome:
    """`counters`: numbers that no noise touches."""

    tables: list[Table] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=dict)


NO_BF16 = "no bf16 units on this machine: slower than fp32, so left out"


class Mismatch(Exception):
    """A candidate computes something else: its speed means nothing."""


def require(right: bool, what: str) -> None:
    if not right:
        raise Mismatch(what)

"""What a launcher tells each process of its job: JSON that the process reads first of all, out of a pipe.

A file with a name could be read, kept or swapped by whoever has the run directory, and this says whose code is trusted and where runs are recorded.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a job is told. run_id: MLflow's. lock: the descriptor that holds the lock of the run directory. pruning: the fields of a
    `tasks.pruning.Pruner`."""

    run_id: str | None = None
    lock: int | None = None
    pruning: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class RankOrder(Order):
    """What one process is told. parent: its launcher. grace_s, longest_s: of a `StopFlag`. patience, stack: descriptors into which it writes how
    long it may take to stop, and where it stands. trusted: `files.trusted.told`."""

    parent: int
    grace_s: float
    longest_s: float
    patience: int
    stack: int
    trusted: list[list[str | None]]

    @classmethod
    def read(cls, descriptor: int) -> RankOrder:
        with open(descriptor, encoding="utf-8") as pipe:
            return cls(**json.load(pipe))

    @contextlib.contextmanager
    def handed(self) -> Iterator[int]:
        """The descriptor to read from, for a process that is started inside."""
        reading, writing = os.pipe()
        with (
            contextlib.suppress(BrokenPipeError),
            open(writing, "w", encoding="utf-8") as pipe,
        ):  # one that ended at once
            try:
                yield reading
            finally:
                os.close(reading)
            json.dump(asdict(self), pipe)

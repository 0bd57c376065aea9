"""What a run has come to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """What a run has come to. `directory`: the run's. `metrics`: of training those of the best epoch, or of the last where none is best.
    `checkpoint` is the network they belong to, None for weights made elsewhere. `run_id` is MLflow's, None without tracking. `objective`: the
    metric that a sweep compares, None where the run did not measure it. `collapsed`: why a test gave none."""

    metrics: dict[str, float]
    directory: Path
    checkpoint: Path | None
    run_id: str | None
    objective: float | None
    collapsed: str | None = None

"""What one process knows of the run that it works for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facenet.launch.order import Order
from facenet.launch.signals import StopFlag
from facenet.tasks.pruning import Pruner


@dataclass(frozen=True)
class Run:
    """Where a rank's run lives: its directory, resolved config, MLflow run and stop flag; and what ends it early as a job of a sweep."""

    directory: Path
    config: dict[str, Any]
    id: str | None
    stop: StopFlag
    pruner: Pruner | None = None

    @classmethod
    def of(cls, order: Order, directory: Path, config: dict[str, Any], stop: StopFlag) -> Run:
        pruner = None if order.pruning is None else Pruner(**order.pruning)
        return cls(directory, config, order.run_id, stop, pruner)

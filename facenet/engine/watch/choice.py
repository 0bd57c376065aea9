"""What `watch=` chooses: which watchdogs look at a run, when they fire, and whether they warn or stop it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from facenet.errors import UserError

Action = Literal["off", "warn", "stop", False]  # YAML reads a bare off as False


@dataclass(frozen=True, kw_only=True)
class Actions:
    """What each watchdog does.

    nonfinite: gradients or the loss. scaler: the loss scale under fp16. collapse: all embeddings alike. frozen: weights that stay. dead_triplets:
    none violates the margin. generalisation: training goes well and the benchmark does not. repeats: batches that come again. loader: training
    waits for images. hang: nothing is done.
    """

    nonfinite: Action = "stop"
    scaler: Action = "warn"
    collapse: Action = "warn"
    frozen: Action = "warn"
    dead_triplets: Action = "warn"
    generalisation: Action = "warn"
    repeats: Action = "warn"
    loader: Action = "warn"
    hang: Action = "stop"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """At which they fire.

    nonfinite_in_row: optimizer steps in a row whose gradients are not finite, counted at log points. scale_floor: of the loss scale under fp16.
    patience: log points in a row at which embeddings are collapsed, no weight has changed, or the loader is slow. min_variance: mean squared
    distance (0..1) of a batch's unit embeddings to their mean. min_rank: effective rank of a batch's embeddings. dead_steps: steps in a row
    without an active triplet. train_accuracy and benchmark_accuracy: at least the one and at most the other, in two tested epochs in a row.
    max_repeats: share of an epoch's batches that were seen before. max_loader_share: of the time between log points. hang_s: longest time in
    training without a batch done.
    """

    nonfinite_in_row: int = 20
    scale_floor: float = 1.0
    patience: int = 5
    min_variance: float = 0.01
    min_rank: float = 1.5
    dead_steps: int = 200
    train_accuracy: float = 0.9
    benchmark_accuracy: float = 0.6
    max_repeats: float = 0.05
    max_loader_share: float = 0.5
    hang_s: float = 600.0


WATCHDOGS = tuple(field.name for field in dataclasses.fields(Actions))


@dataclass(frozen=True, kw_only=True)
class Watch(Limits, Actions):
    """What is looked at for signs of a run that goes wrong: `off`, `warn`, or `stop`, which ends the run; and the limits. In YAML one mapping."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(Limits):
            if (value := getattr(self, field.name)) <= 0:
                raise UserError(f"watch.{field.name}: expected a number above 0, got {value}")

    def looks(self, watchdog: str) -> bool:
        """Whether this watchdog is on, as `warn` or `stop`."""
        return getattr(self, watchdog) not in ("off", False)

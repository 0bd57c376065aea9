"""Who is told what happens in training. They stand in a sequence: each is told in turn, and sees the metrics of those before it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from facenet.data.feed.loader import Batch
from facenet.distributed import collectives
from facenet.engine.progress import Average
from facenet.engine.train_step import TrainStep
from facenet.tracking.dllogger import VendorLog
from facenet.tracking.tracker import Tracker


@dataclass(frozen=True, kw_only=True)
class LogPoint:
    """figures: the loss and its figures, means over all processes and the last `steps` steps; recent: the same of this process, still on its device.
    samples_seen and images_per_s are of all processes. module has seen the last batch. metrics: what observers before this one add, by full name."""

    epoch: int
    step: int
    steps: int
    samples_seen: int
    images_per_s: float
    lr: float
    figures: Mapping[str, float]
    recent: Average
    module: TrainStep
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Validation:
    """figures: means over all processes, as `val/...`; loss and images_per_s are of this process."""

    figures: dict[str, float]
    loss: float
    images_per_s: float
    num_batches: int


@dataclass(frozen=True, kw_only=True)
class FinishedEpoch:
    """epoch: how many are finished; row: all metrics of this one. tested: the benchmarks that were run in it; collapsed: why none has an accuracy."""

    epoch: int
    step: int
    row: Mapping[str, float]
    validation: Validation | None = None
    tested: Sequence[str] = ()
    collapsed: str | None = None


class Observer:
    """Every method may stay as it is here, where it does nothing.

    `guards`: steps whose gradients are not finite are to be left out. `key`: the name under which checkpoints keep the observer's state; None where
    it has none."""

    guards = False
    key: str | None = None

    def watching(self, batches: Iterator[Batch]) -> contextlib.AbstractContextManager[Iterator[Batch]]:
        """The batches of an epoch on their way to the device; left when the epoch's last step is done."""
        return contextlib.nullcontext(batches)

    def on_start(self, step: int) -> None:
        """Before the first step of an epoch, or of its rest; `step`: how many the run has made."""

    def on_step(self, finite: Tensor | None, loss: Tensor) -> None:
        """finite: whether all gradients were, None where nobody looked; loss: of the step's last part. Both 0-d on the device, where they have to
        stay: a read would wait for it."""

    def on_log(self, point: LogPoint) -> Mapping[str, float]:
        """Metrics of its own, by full name."""
        return {}

    def on_epoch(self, finished: FinishedEpoch) -> None:
        """After the epoch's tests, before its checkpoint."""

    def state(self) -> Any:
        """What a resumed run goes on with. Every process is asked; rank 0's answer is kept."""

    def load_state(self, state: Any) -> None: ...


class Recorder(Observer):
    """Writes log points into the run's record."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def on_log(self, point: LogPoint) -> Mapping[str, float]:
        figures = {f"train/{name}": value for name, value in point.figures.items()}
        pace = {"train/lr": point.lr, "train/images_per_s": point.images_per_s, "samples_seen": point.samples_seen}
        self.tracker.metrics({**figures, **point.metrics, **pace}, step=point.step)
        return {}


class VendorLines(Observer):
    """Writes this process's own figures into the vendor's log, whose epochs count from 0."""

    def __init__(self, vendor_log: VendorLog) -> None:
        self.vendor_log = vendor_log

    def on_log(self, point: LogPoint) -> Mapping[str, float]:
        own_rate = point.images_per_s / collectives.world_size()
        self.vendor_log.train(point.epoch, point.step, loss=point.recent.own("loss"), ips=own_rate, lr=point.lr)
        return {}

    def on_epoch(self, finished: FinishedEpoch) -> None:
        if (found := finished.validation) is not None:
            step = (finished.epoch - 1, finished.step, found.num_batches)
            self.vendor_log.val(*step, loss=found.loss, ips=found.images_per_s)

"""Epochs and steps: batches in, updated weights and averaged figures out. It knows no file format, benchmark or device."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from facenet.accelerator import Accelerator
from facenet.backbones.embedder import Embedder
from facenet.data.loader import Batch
from facenet.engine.ema import Ema
from facenet.engine.schedule import Schedule
from facenet.engine.step import TrainStep
from facenet.engine.tracking import Tracker
from facenet.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`epochs` of the plan's length; `max_steps` ends earlier. `accumulate`: batches whose gradients make one step. `ema_decay`: 0 keeps no
    average of weights. `keep`: newest numbered checkpoints to keep. `select`: the metric that chooses `best.pt` (None: the benchmark's accuracy,
    or the validation or training loss where nothing is tested)."""

    epochs: int = 14
    max_steps: int | None = None
    accumulate: int = 1
    clip_grad_norm: float | None = None
    ema_decay: float = 0.0
    log_every: int = 20
    evaluate_every: int = 1
    keep: int = 2
    select: str | None = None

    def __post_init__(self) -> None:
        for key in ("epochs", "accumulate", "log_every", "evaluate_every"):
            if getattr(self, key) < 1:
                raise UserError(f"trainer.{key}: expected 1 or more, got {getattr(self, key)}")
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"trainer.max_steps: expected 1 or more, or null, got {self.max_steps}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"trainer.ema_decay: expected 0 <= ema_decay < 1, got {self.ema_decay}")
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise UserError(f"trainer.clip_grad_norm: expected a number above 0, or null, got {self.clip_grad_norm}")


class Average:
    """Means of 0-d device tensors by name, read from the device only when asked."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, scalars: dict[str, Tensor]) -> None:
        for name, value in scalars.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.count += 1

    def merge(self, other: Average) -> None:
        for name, value in other.sums.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.count += other.count

    def read(self, accelerator: Accelerator) -> dict[str, float]:
        """Over all processes; one transfer from the device."""
        if not self.count:
            return {}
        means = accelerator.mean(torch.stack(list(self.sums.values())) / self.count).tolist()
        return dict(zip(self.sums, means, strict=True))


@dataclass
class Progress:
    """Where a run stands; `history` holds one row of metrics per finished epoch."""

    epoch: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Runs the steps of an epoch. `show(step, figures)` is called at each log point, for a progress bar."""

    def __init__(
        self,
        module: TrainStep,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        accelerator: Accelerator,
        tracker: Tracker,
        settings: Settings,
        *,
        batch_size: int,
        total_steps: int,
        triplets: bool,
        sync_batch_norm: bool = False,
        stop: Callable[[], bool] = lambda: False,
        show: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
    ) -> None:
        """batch_size: images per step over all processes; total_steps: where the run ends."""
        self.step_module = accelerator.prepare(module, sync_batch_norm=sync_batch_norm)
        self.embedder, self.loss = module.embedder, module.loss
        self.optimizer, self.schedule = optimizer, schedule
        self.accelerator, self.tracker, self.settings = accelerator, tracker, settings
        self.batch_size, self.total_steps, self.triplets = batch_size, total_steps, triplets
        self.stop, self.show = stop, show
        self.ema = Ema(self.embedder, decay=settings.ema_decay) if settings.ema_decay else None
        self.stopped = False

    def tested(self) -> Embedder:
        """The network to test and to ship: the average of weights where one is kept."""
        return self.embedder if self.ema is None else cast(Embedder, self.ema.model)

    def train_epoch(self, batches: Iterator[Batch], progress: Progress) -> dict[str, float]:
        """Means of the loss and its figures over the epoch, as `train/...`. Ends early at `total_steps` or a stop signal (`stopped`)."""
        self.step_module.train()
        whole, recent = Average(), Average()
        logged_at, logged_step = time.perf_counter(), progress.step
        with contextlib.closing(batches):  # type: ignore[type-var]
            for batch in batches:
                recent.add(self.micro_step(batch))
                if recent.count % self.settings.accumulate:
                    continue
                self.update(progress)
                done = progress.step >= self.total_steps
                if progress.step % self.settings.log_every == 0 or done:
                    figures = recent.read(self.accelerator)
                    now = time.perf_counter()
                    rate = (progress.step - logged_step) * self.batch_size / (now - logged_at)
                    self.report(figures, rate, progress)
                    logged_at, logged_step = now, progress.step
                    whole.merge(recent)
                    recent = Average()
                if done or self.interrupted(progress.step):
                    break
        whole.merge(recent)
        return {f"train/{name}": value for name, value in whole.read(self.accelerator).items()}

    def micro_step(self, batch: Batch) -> dict[str, Tensor]:
        images, labels = self.accelerator.to_device(batch.images), self.accelerator.to_device(batch.labels)
        loss, scalars = self.step_module(images, labels, triplets=self.triplets)
        self.accelerator.backward(loss / self.settings.accumulate)
        return {"loss": loss.detach(), **scalars}

    def update(self, progress: Progress) -> None:
        self.schedule.step(progress.step)
        self.accelerator.step(self.optimizer, clip_grad_norm=self.settings.clip_grad_norm)
        if self.ema is not None:
            self.ema.update(self.embedder)
        progress.step += 1

    def interrupted(self, step: int) -> bool:
        """All processes must leave at the same step; agreeing costs a collective, so several processes ask at log points only."""
        if self.accelerator.world_size == 1 or step % self.settings.log_every == 0:
            self.stopped = self.accelerator.any(self.stop())
        return self.stopped

    def report(self, figures: dict[str, float], rate: float, progress: Progress) -> None:
        lr = float(self.optimizer.param_groups[0]["lr"])
        if any(value != value or abs(value) == float("inf") for value in figures.values()):
            log.warning(
                "step %d: the loss is not finite; lower optimizer.lr or set trainer.clip_grad_norm", progress.step
            )
        samples = progress.step * self.batch_size
        train = {f"train/{name}": value for name, value in figures.items()}
        self.tracker.metrics(
            {**train, "train/lr": lr, "train/images_per_s": rate, "samples_seen": samples}, step=progress.step
        )
        self.show(progress.step, {**figures, "images_per_s": rate, "lr": lr})

    @torch.no_grad()
    def validate(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Means of the loss and its figures over held-out images of the training identities, as `val/...`."""
        self.step_module.eval()
        average = Average()
        with contextlib.closing(batches):  # type: ignore[type-var]
            for batch in batches:
                images, labels = self.accelerator.to_device(batch.images), self.accelerator.to_device(batch.labels)
                loss, scalars = self.step_module(images, labels, triplets=self.triplets)
                average.add({"loss": loss, **scalars})
        return {f"val/{name}": value for name, value in average.read(self.accelerator).items()}

    def state(self) -> dict[str, Any]:
        """What training would go on from, beside the tested weights."""
        return {
            "embedder": self.embedder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "ema": {} if self.ema is None else self.ema.state_dict(),
        }

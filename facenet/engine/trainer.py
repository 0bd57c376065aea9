"""Epochs and steps: batches in, updated weights and averaged figures out. It knows no file format, benchmark or device."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from facenet.backbones.embedder import Embedder
from facenet.data.feed.loader import Batch
from facenet.devices.accelerator import Accelerator, host_copy
from facenet.devices.table import out_of_memory
from facenet.distributed import collectives
from facenet.distributed.choice import Distributed
from facenet.engine import run_state
from facenet.engine.ema import Ema
from facenet.engine.fresh_norms import FreshNorms
from facenet.engine.memory import advice, largest_fitting
from facenet.engine.schedule import Schedule
from facenet.engine.train_step import TrainStep
from facenet.engine.watch.watcher import Watcher
from facenet.errors import UserError
from facenet.tracking.dllogger import VendorLog
from facenet.tracking.tracker import Tracker

log = logging.getLogger(__name__)
MOST_EPOCHS = 10**9
ASK_S = 2.0  # between two questions for a stop signal, where `trainer.log_every` steps take longer


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`epochs` of the plan's length; `max_steps` ends earlier. `accumulate`: batches whose gradients make one step. `ema_decay`: 0 keeps no
    average of weights. `keep`: newest numbered checkpoints to keep. `select`: the metric that chooses `best.pt` (None: the benchmark's accuracy,
    or the validation or training loss where nothing is tested). `compile`: torch.compile of the network, in `compile_mode`."""

    epochs: int = 14
    max_steps: int | None = None
    accumulate: int = 1
    clip_grad_norm: float | None = None
    ema_decay: float = 0.0
    log_every: int = 20
    evaluate_every: int = 1
    keep: int = 2
    select: str | None = None
    compile: bool = False
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"

    def __post_init__(self) -> None:
        for key in ("epochs", "accumulate", "log_every", "evaluate_every"):
            if getattr(self, key) < 1:
                raise UserError(f"trainer.{key}: expected 1 or more, got {getattr(self, key)}")
        if self.epochs > MOST_EPOCHS:
            raise UserError(f"trainer.epochs: at most {MOST_EPOCHS:,}, got {self.epochs:,}")
        if self.keep < 0:
            raise UserError(f"trainer.keep: expected 0 or more, got {self.keep}")
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

    def read(self) -> dict[str, float]:
        """Over all processes; one transfer from the device."""
        if not self.count:
            return {}
        return dict(zip(self.sums, collectives.mean(self.stacked()).tolist(), strict=True))

    def stacked(self) -> Tensor:
        return torch.stack(list(self.sums.values())) / self.count

    def own(self, name: str) -> float:
        """Of this process alone."""
        return float(self.sums[name] / self.count)

    def states(self) -> list[dict[str, Any]]:
        """Of every process by rank, in host memory. All processes call it together."""
        if not self.count:
            return [{"count": 0, "sums": {}} for _ in range(collectives.world_size())]
        own = torch.stack(list(self.sums.values()))
        parts = collectives.gather(own, [len(own)] * collectives.world_size())
        return [{"count": self.count, "sums": dict(zip(self.sums, part.tolist(), strict=True))} for part in parts]

    @classmethod
    def of(cls, state: dict[str, Any], device: torch.device) -> Average:
        average = cls()
        average.count = state["count"]
        average.sums = {name: torch.tensor(value, device=device) for name, value in state["sums"].items()}
        return average


def moved(batch: Batch, to: Callable[[Tensor], Tensor]) -> Batch:
    return replace(batch, images=to(batch.images), labels=to(batch.labels))


@dataclass
class Progress:
    """Where a run stands: finished epochs, optimizer steps, batches of the epoch under way and the means of its figures; `history` holds
    one row of metrics per finished epoch."""

    epoch: int = 0
    step: int = 0
    batches: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    whole: Average = field(default_factory=Average)  # up to the last log point
    recent: Average = field(default_factory=Average)  # since then


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
        distributed: Distributed | None = None,
        vendor_log: VendorLog | None = None,
        watcher: Watcher | None = None,
        stop: Callable[[], bool] = lambda: False,
        show: Callable[[int, dict[str, float]], None] = lambda step, figures: None,
        from_weights: bool = False,
    ) -> None:
        """batch_size: images per step over all processes; total_steps: where the run ends; from_weights: whose batch statistics are kept."""
        if settings.compile:
            accelerator.compile(module.embedder, mode=settings.compile_mode)
        self.step_module = accelerator.prepare(module, distributed)
        self.bare_module = module
        self.embedder, self.loss = module.embedder, module.loss
        self.optimizer, self.schedule = optimizer, schedule
        self.accelerator, self.tracker, self.settings = accelerator, tracker, settings
        self.batch_size, self.total_steps, self.triplets = batch_size, total_steps, triplets
        self.vendor_log, self.watcher, self.stop, self.show = vendor_log, watcher, stop, show
        self.ema = Ema(self.embedder, decay=settings.ema_decay) if settings.ema_decay else None
        untrained = not (from_weights or settings.compile)  # compiled, it would be done anew for each momentum
        self.fresh = FreshNorms(self.bare_module.embedder if untrained else None)
        self.stopped = False
        self.unasked, self.ask_every, self.asked_at = 0, 1, 0.0

    def tested(self) -> Embedder:
        """The network to test and to ship: the average of weights where one is kept."""
        return self.embedder if self.ema is None else cast(Embedder, self.ema.model)

    def train_epoch(self, batches: Iterator[Batch], progress: Progress) -> dict[str, float]:
        """Means of the loss and its figures over the epoch, as `train/...`, once its batches are done or the run is. A stop signal ends it
        between two steps; `stopped` is then set, and `progress` knows where it goes on."""
        self.step_module.train()
        logged_at, logged_step = time.perf_counter(), progress.step
        if self.interrupted(first=True):
            return {}
        with contextlib.closing(batches), self.watched(batches) as seen:  # type: ignore[type-var]
            for batch in self.accelerator.ahead(seen, moved):
                self.guarded(batch, progress)
                if progress.batches % self.settings.accumulate:
                    continue
                done = progress.step >= self.total_steps
                if progress.step % self.settings.log_every == 0 or done:
                    figures = progress.recent.read()  # waits for the device, so it comes before the clock
                    now = time.perf_counter()
                    rate = (progress.step - logged_step) * self.batch_size / (now - logged_at)
                    self.report(figures, rate, progress, steps=progress.step - logged_step)
                    logged_at, logged_step = now, progress.step
                    progress.whole.merge(progress.recent)
                    progress.recent = Average()
                if self.interrupted(due=progress.step % self.settings.log_every == 0):
                    return {}
                if done:
                    break
        progress.whole.merge(progress.recent)
        row = {f"train/{name}": value for name, value in progress.whole.read().items()}
        progress.batches, progress.whole, progress.recent = 0, Average(), Average()
        progress.epoch += 1
        return row

    def watched(self, batches: Iterator[Batch]) -> contextlib.AbstractContextManager[Iterator[Batch]]:
        return contextlib.nullcontext(batches) if self.watcher is None else self.watcher.epoch(batches)

    def guarded(self, batch: Batch, progress: Progress) -> None:
        """`take`, and a UserError with the batch that fits where the device has no memory for this one."""
        try:
            self.take(batch, progress)
            return
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            words = str(error).splitlines()[0]
        # Only here is the error gone, and with it the frames that hold the tensors of the failed step.
        size, unit = len(batch.labels), 3 if self.triplets else 1
        peak = self.accelerator.memory().peak or 0
        told = advice(
            size,
            largest_fitting(lambda smaller: self.fits(batch, smaller), size, unit) if self.steps_alone() else None,
            unit=unit,
            num_processes=self.accelerator.world_size,
            accumulate=self.settings.accumulate,
        )
        raise UserError(
            f"{self.accelerator.device} ran out of memory with {size} images at once, at a peak of {peak / 2**20:,.0f} MiB "
            f"(its words: {words}); {told}"
        )

    def steps_alone(self) -> bool:
        """Whether the module without its wrapper waits for no other process, which may have found its memory."""
        parts = self.bare_module.modules()
        return self.accelerator.world_size == 1 or not any(
            isinstance(part, nn.SyncBatchNorm) or getattr(part, "gather", False) or getattr(part, "sharded", False)
            for part in parts
        )

    def fits(self, batch: Batch, size: int) -> bool:
        """Whether a step on the first `size` images of the batch finds memory. It is a step: what was learned is spoilt."""
        self.optimizer.zero_grad(set_to_none=True)
        self.accelerator.free_cache()
        try:
            self.forward_backward(self.bare_module, batch.images[:size], batch.labels[:size])
            self.accelerator.step(self.optimizer)
        except ValueError:  # batch statistics of one image
            return False
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return False
        return True

    def take(self, batch: Batch, progress: Progress) -> None:
        """One part of a step; the last exchanges gradients and updates the weights."""
        last = (progress.batches + 1) % self.settings.accumulate == 0
        parts = self.settings.accumulate
        self.fresh.before(progress.step * parts + progress.batches % parts)
        figures = self.micro_step(batch, last=last)
        progress.recent.add(figures)
        progress.batches += 1
        if last:
            finite = self.update(progress)
            if self.watcher is not None:
                self.watcher.after_step(finite, figures["loss"])

    def micro_step(self, batch: Batch, *, last: bool) -> dict[str, Tensor]:
        sending = contextlib.nullcontext() if last else collectives.local_gradients(self.step_module)
        with sending:
            return self.forward_backward(self.step_module, batch.images, batch.labels)

    def forward_backward(self, module: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss, scalars = module(
            self.accelerator.to_device(images), self.accelerator.to_device(labels), triplets=self.triplets
        )
        self.accelerator.backward(loss / self.settings.accumulate)
        return {"loss": loss.detach(), **scalars}

    def update(self, progress: Progress) -> Tensor | None:
        """What `Accelerator.step` returns."""
        self.schedule.step(progress.step)
        guard = self.watcher is not None and self.watcher.guards
        finite = self.accelerator.step(self.optimizer, clip_grad_norm=self.settings.clip_grad_norm, guard=guard)
        if self.ema is not None:
            self.ema.update(self.embedder)
        progress.step += 1
        return finite

    def interrupted(self, *, first: bool = False, due: bool = False) -> bool:
        """Whether any process has got a stop signal. All must leave at the same step, and agreeing costs a collective, so several processes ask
        where it is `due`, before the `first` step and after it, and then as often as slow steps need it."""
        own = self.stop()
        if self.accelerator.world_size == 1:
            self.stopped = own
            return own
        self.unasked += 1
        if first or due or self.unasked >= self.ask_every:
            now = time.perf_counter()
            step_s = 0.0 if first else (now - self.asked_at) / self.unasked
            said = torch.tensor([float(own), step_s], device=self.accelerator.device)
            stopped, step_s = collectives.mean(said).tolist()  # alike in all, so that all ask again at the same step
            self.stopped, self.asked_at = stopped > 0, now
            self.unasked, self.ask_every = 0, 1 if first else int(min(max(ASK_S / step_s, 1), self.settings.log_every))
        return self.stopped

    def report(self, figures: dict[str, float], rate: float, progress: Progress, *, steps: int) -> None:
        """rate: images per second over all processes; steps: since the last report."""
        lr = float(self.optimizer.param_groups[0]["lr"])
        if any(value != value or abs(value) == float("inf") for value in figures.values()):
            log.warning(
                "step %d: the loss is not finite; lower optimizer.lr or set trainer.clip_grad_norm", progress.step
            )
        samples = progress.step * self.batch_size
        train = {f"train/{name}": value for name, value in figures.items()}
        if self.watcher is not None:
            train.update(self.watcher.at_log_point(figures, self.bare_module, step=progress.step, steps=steps))
        self.tracker.metrics(
            {**train, "train/lr": lr, "train/images_per_s": rate, "samples_seen": samples}, step=progress.step
        )
        self.show(progress.step, {**figures, "images_per_s": rate, "lr": lr})
        if self.vendor_log is not None:
            own_rate = rate / self.accelerator.world_size
            self.vendor_log.train(progress.epoch, progress.step, loss=progress.recent.own("loss"), ips=own_rate, lr=lr)

    @torch.no_grad()
    def validate(self, batches: Iterator[Batch], progress: Progress) -> dict[str, float]:
        """Means of the loss and its figures over held-out images of the training identities, as `val/...`. A stop signal ends it between two
        batches; `stopped` is then set."""
        self.step_module.eval()
        average, num_images, started = Average(), 0, time.perf_counter()
        with contextlib.closing(batches):  # type: ignore[type-var]
            for number, batch in enumerate(batches):
                if self.interrupted(first=number == 0):
                    return {}
                images, labels = self.accelerator.to_device(batch.images), self.accelerator.to_device(batch.labels)
                loss, scalars = self.step_module(images, labels, triplets=self.triplets)
                average.add({"loss": loss, **scalars})
                num_images += len(batch.labels)
        figures = average.read()
        if self.vendor_log is not None and average.count:
            rate = num_images / (time.perf_counter() - started)
            step = (progress.epoch - 1, progress.step, average.count)  # of the epoch that has just been finished
            self.vendor_log.val(*step, loss=average.own("loss"), ips=rate)
        return {f"val/{name}": value for name, value in figures.items()}

    def state(self, progress: Progress) -> dict[str, Any]:
        """What training goes on from, beside the heads of the loss, in host memory; of heads that are spread over processes, what the optimizer
        knows of them in rank 0 alone. All processes call it together."""
        return {
            "embedder": host_copy(self.embedder.state_dict()),
            "optimizer": run_state.optimizer_state(self.optimizer),
            "schedule": self.schedule.state_dict(),
            "scaler": {} if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "ema": {} if self.ema is None else host_copy(self.ema.state_dict()),
            "progress": {"epoch": progress.epoch, "step": progress.step, "batches": progress.batches},
            "averages": [progress.whole.states(), progress.recent.states()],
            **self.besides(progress),
        }

    def besides(self, progress: Progress) -> dict[str, Any]:
        """Of `state` what also changes between steps, while the network is tested. All processes call it together."""
        return {
            "history": list(progress.history),  # it grows while this is written
            "rng": self.accelerator.rng_states(),
            "watch": None if self.watcher is None else self.watcher.state(),
        }

    def load_state(self, state: dict[str, Any], heads: dict[str, Any], *, anew: Collection[str] = ()) -> Progress:
        """Takes up a run where `state` was taken; heads: the state of its loss. `anew`: which of optimizer, scale (of the loss) and random
        (streams) stay as they are. A process that was not there then has its own random stream and an average of nothing."""
        self.embedder.load_state_dict(state["embedder"])
        run_state.load_module_state(self.loss, heads)
        if "optimizer" not in anew:
            run_state.load_optimizer_state(self.optimizer, state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"] and "scale" not in anew:
            self.accelerator.load_scale(state["scaler"])
        if self.ema is not None and state["ema"]:
            self.ema.load_state_dict(state["ema"])
        elif self.ema is not None:  # made of first weights
            self.ema = Ema(self.embedder, decay=self.settings.ema_decay)
        if self.watcher is not None and state.get("watch"):
            self.watcher.load_state(state["watch"])
        rank = self.accelerator.rank
        progress = Progress(**state["progress"], history=list(state["history"]))
        if rank < len(state["rng"]):
            progress.whole, progress.recent = (
                Average.of(states[rank], self.accelerator.device) for states in state["averages"]
            )
            if "random" not in anew:
                self.accelerator.set_rng_state(state["rng"][rank])
        return progress

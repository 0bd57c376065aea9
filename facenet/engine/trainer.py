"""Epochs and steps: batches in, updated weights and averaged figures out. It knows no file format, benchmark or device."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from facenet.backbones.embedder import Embedder
from facenet.data.feed.loader import Batch
from facenet.devices.accelerator import Accelerator, host_copy
from facenet.devices.table import out_of_memory
from facenet.distributed import collectives
from facenet.engine import run_state
from facenet.engine.ema import Ema
from facenet.engine.fresh_norms import FreshNorms
from facenet.engine.memory import told_of
from facenet.engine.observer import LogPoint, Observer, Validation
from facenet.engine.progress import Average, Progress
from facenet.engine.schedule import Schedule
from facenet.engine.train_step import TrainStep
from facenet.errors import UserError, check_least

log = logging.getLogger(__name__)
MOST_EPOCHS = 10**9
ASK_S = 2.0  # between two questions for a stop signal, where `trainer.log_every` steps take longer


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long a run is, and what is done at which of its steps.

    `epochs` of the plan's length; `max_steps` ends earlier. `clip_grad_norm`: the largest L2 norm of all gradients together, None for no limit.
    `log_every`: steps between figures; `evaluate_every`: epochs between tests. `accumulate`: batches whose gradients make one step. `ema_decay`:
    0 keeps no average of weights. `keep`: newest numbered checkpoints to keep. `select`: the metric that chooses `best.pt` (None: the benchmark's
    accuracy, or the validation or training loss where nothing is tested). `compile`: torch.compile of the network, in `compile_mode`. Raises
    UserError for numbers out of their range."""

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
            check_least(f"trainer.{key}", getattr(self, key))
        if self.epochs > MOST_EPOCHS:
            raise UserError(f"trainer.epochs: at most {MOST_EPOCHS:,}, got {self.epochs:,}")
        check_least("trainer.keep", self.keep, 0)
        if self.max_steps is not None and self.max_steps < 1:
            raise UserError(f"trainer.max_steps: expected 1 or more, or null, got {self.max_steps}")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"trainer.ema_decay: expected 0 <= ema_decay < 1, got {self.ema_decay}")
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0:
            raise UserError(f"trainer.clip_grad_norm: expected a number above 0, or null, got {self.clip_grad_norm}")


def moved(batch: Batch, to: Callable[[Tensor], Tensor]) -> Batch:
    return replace(batch, images=to(batch.images), labels=to(batch.labels))


class Trainer:
    """Runs the steps of an epoch, and tells its observers."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        accelerator: Accelerator,
        settings: Settings,
        *,
        total_steps: int,
        observers: Sequence[Observer] = (),
        stop: Callable[[], bool] = lambda: False,
        from_weights: bool = False,
    ) -> None:
        """module: a TrainStep as `accelerator.prepare` returns it; total_steps: where the run ends; from_weights: whose batch statistics are kept."""
        self.step_module = module
        self.bare_module = cast(TrainStep, collectives.unwrapped(module))
        self.embedder, self.loss = self.bare_module.embedder, self.bare_module.loss
        self.optimizer, self.schedule = optimizer, schedule
        self.accelerator, self.settings = accelerator, settings
        self.total_steps, self.observers, self.stop = total_steps, observers, stop
        self.guard = any(each.guards for each in observers)
        self.ema = Ema(self.embedder, decay=settings.ema_decay) if settings.ema_decay else None
        untrained = not (from_weights or settings.compile)  # compiled, it would be done anew for each momentum
        self.fresh = FreshNorms(self.embedder if untrained else None)
        self.logged_at, self.logged_step = 0.0, 0
        self.stopped = False
        self.unasked, self.ask_every, self.asked_at = 0, 1, 0.0

    def tested(self) -> Embedder:
        """The network to test and to ship: the average of weights where one is kept."""
        return self.embedder if self.ema is None else cast(Embedder, self.ema.model)

    def train_epoch(self, batches: Iterator[Batch], progress: Progress) -> dict[str, float]:
        """Means of the loss and its figures over the epoch, as `train/...`, once its batches are done or the run is. A stop signal ends it
        between two steps; `stopped` is then set, and `progress` knows where it goes on."""
        self.step_module.train()
        self.logged_at, self.logged_step = time.perf_counter(), progress.step
        if self.interrupted(first=True):
            return {}
        with contextlib.ExitStack() as ways:
            seen = ways.enter_context(contextlib.closing(batches))  # type: ignore[type-var]
            for observer in self.observers:
                observer.on_start(progress.step)
                seen = ways.enter_context(observer.watching(seen))
            for batch in self.accelerator.ahead(seen, moved):
                self.guarded(batch, progress)
                if progress.batches % self.settings.accumulate:
                    continue
                done, due = progress.step >= self.total_steps, progress.step % self.settings.log_every == 0
                if due or done:
                    self.log_point(len(batch.labels), progress)
                if self.interrupted(due=due):
                    return {}
                if done:
                    break
        progress.whole.merge(progress.recent)
        row = {f"train/{name}": value for name, value in progress.whole.read().items()}
        progress.batches, progress.whole, progress.recent = 0, Average(), Average()
        progress.epoch += 1
        return row

    def guarded(self, batch: Batch, progress: Progress) -> None:
        """`step`, and a UserError with the batch that fits where the device has no memory for this one."""
        try:
            self.step(batch, progress)
            return
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            words = str(error).splitlines()[0]
        # Only here is the error gone, and with it the frames that hold the tensors of the failed step.
        parts = self.settings.accumulate
        raise UserError(told_of(batch, words, self.bare_module, self.optimizer, accumulate=parts))

    def step(self, batch: Batch, progress: Progress) -> None:
        """One batch forward and backward. Of an optimizer step in several parts the last exchanges gradients and updates the weights."""
        parts = self.settings.accumulate
        last = (progress.batches + 1) % parts == 0
        self.fresh.before(progress.step * parts + progress.batches % parts)
        to_device = self.accelerator.to_device
        with contextlib.nullcontext() if last else collectives.local_gradients(self.step_module):
            # No name for the images: they would be held while the gradients need their memory.
            loss, figures = self.step_module(to_device(batch.images), to_device(batch.labels))
            self.accelerator.backward(loss / parts)
        progress.recent.add({"loss": loss.detach(), **figures})
        progress.batches += 1
        if not last:
            return
        self.schedule.step(progress.step)
        clip = self.settings.clip_grad_norm
        finite = self.accelerator.step(self.optimizer, clip_grad_norm=clip, guard=self.guard)
        if self.ema is not None:
            self.ema.update(self.embedder)
        progress.step += 1
        for observer in self.observers:
            observer.on_step(finite, loss.detach())

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

    def log_point(self, size: int, progress: Progress) -> None:
        """size: images of a batch of this process, of which there are as large ones in the others."""
        figures = progress.recent.read()  # waits for the device, so it comes before the clock
        now, steps = time.perf_counter(), progress.step - self.logged_step
        images = size * self.settings.accumulate * self.accelerator.world_size
        if not all(map(math.isfinite, figures.values())):
            log.warning(
                "step %d: the loss is not finite; lower optimizer.lr or set trainer.clip_grad_norm", progress.step
            )
        point = LogPoint(
            epoch=progress.epoch,
            step=progress.step,
            steps=steps,
            samples_seen=progress.step * images,
            images_per_s=steps * images / (now - self.logged_at),
            lr=float(self.optimizer.param_groups[0]["lr"]),
            figures=figures,
            recent=progress.recent,
            module=self.bare_module,
        )
        for observer in self.observers:
            point = replace(point, metrics={**point.metrics, **observer.on_log(point)})
        self.logged_at, self.logged_step = now, progress.step
        progress.whole.merge(progress.recent)
        progress.recent = Average()

    @torch.no_grad()
    def validate(self, batches: Iterator[Batch]) -> Validation | None:
        """Over held-out images of the training identities. None where there are none, and where a stop signal came between two batches; `stopped`
        is then set."""
        self.step_module.eval()
        average, num_images, started = Average(), 0, time.perf_counter()
        with contextlib.closing(batches):  # type: ignore[type-var]
            for number, batch in enumerate(batches):
                if self.interrupted(first=number == 0):
                    return None
                images, labels = self.accelerator.to_device(batch.images), self.accelerator.to_device(batch.labels)
                loss, scalars = self.step_module(images, labels)
                average.add({"loss": loss, **scalars})
                num_images += len(batch.labels)
        if not average.count:
            return None
        figures = {f"val/{name}": value for name, value in average.read().items()}
        rate = num_images / (time.perf_counter() - started)
        return Validation(figures=figures, loss=average.own("loss"), images_per_s=rate, num_batches=average.count)

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
            **{observer.key: observer.state() for observer in self.observers if observer.key},
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
        for observer in self.observers:
            if observer.key and state.get(observer.key):
                observer.load_state(state[observer.key])
        rank = self.accelerator.rank
        progress = Progress(**state["progress"], history=list(state["history"]))
        if rank < len(state["rng"]):
            progress.whole, progress.recent = (
                Average.of(states[rank], self.accelerator.device) for states in state["averages"]
            )
            if "random" not in anew:
                self.accelerator.set_rng_state(state["rng"][rank])
        return progress

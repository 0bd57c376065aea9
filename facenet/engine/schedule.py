"""Learning rates as functions of the step. Built from YAML, started once the optimizer exists.

The rate depends on the step number alone, so a resumed run needs no saved state. Steps and epochs count from 0; a step
is one update of the optimizer. Every parameter group follows the same curve from its own lr.
"""

from __future__ import annotations

import functools
import inspect
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, PolynomialLR, ReduceLROnPlateau

from facenet.errors import UserError

REFERENCE_BATCH_SIZE = 64  # the batch at which the reference's batch rule leaves the lr as it is


@dataclass(frozen=True)
class EffectiveLr:
    """What optimizer.lr becomes: `lr` at the peak, `min_lr` at the end (None: a torch scheduler decides). `clipped`:
    lr_limits changed it. `note`: one line that explains a difference, or empty."""

    lr: float
    min_lr: float | None
    clipped: bool = False
    note: str = ""


class Schedule:
    """Sets the learning rate of an optimizer, step by step: `start` once, then `step` before each. The rate is a function of the step's number
    alone. Subclasses write `rate`, and `effective` where they change the peak."""

    def start(self, optimizer: Optimizer, *, batch_size: int, steps_per_epoch: int, epochs: int) -> None:
        """Takes the run's sizes (`batch_size`: images per step over all processes), and the groups' lr as the peak."""
        self.optimizer, self.batch_size, self.steps_per_epoch = optimizer, batch_size, steps_per_epoch
        self.epochs = epochs
        # torch's own key for it: an optimizer restored from a checkpoint brings its first lr along, not the last one.
        self.base_lrs: list[float] = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]

    def step(self, global_step: int) -> None:
        """Sets the lr of every group; call it before step `global_step` is computed."""
        for group, base_lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self.rate(base_lr, global_step)

    def lr_at(self, global_step: int) -> float:
        """The lr of the first group at any step, past or to come."""
        return self.rate(self.base_lrs[0], global_step)

    def rate(self, base_lr: float, global_step: int) -> float:
        """The learning rate of one optimizer step, counted from 0 over the whole run, for a group whose own lr is `base_lr`."""
        raise NotImplementedError

    def effective(self, base_lr: float, batch_size: int) -> EffectiveLr:
        """What becomes of an optimizer's lr `base_lr` at `batch_size` images a step: the highest and the lowest lr of the run, and why, as the plan
        prints it. Needs no `start`."""
        return EffectiveLr(base_lr, base_lr)

    def state_dict(self) -> dict[str, Any]:
        """Empty: the step number says it all."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""


class Constant(Schedule):
    """The optimizer's own lr at every step."""

    def rate(self, base_lr: float, global_step: int) -> float:
        return base_lr


class WarmupCosine(Schedule):
    """Per step: a line from start_lr_ratio * lr to lr over `warmup_epochs` (fractions allowed), then half a cosine down
    to min_lr_ratio * lr, reached at the last step (Loshchilov and Hutter 2017, eq. 5, without restarts)."""

    def __init__(self, *, warmup_epochs: float = 1.0, min_lr_ratio: float = 0.01, start_lr_ratio: float = 0.1) -> None:
        check_share("min_lr_ratio", min_lr_ratio)
        check_share("start_lr_ratio", start_lr_ratio)
        if warmup_epochs < 0:
            raise UserError(f"schedule.warmup_epochs: 0 or more, got {warmup_epochs}")
        self.warmup_epochs, self.min_lr_ratio, self.start_lr_ratio = warmup_epochs, min_lr_ratio, start_lr_ratio

    def start(self, optimizer: Optimizer, *, batch_size: int, steps_per_epoch: int, epochs: int) -> None:
        if self.warmup_epochs > epochs:
            raise UserError(
                f"schedule.warmup_epochs: {self.warmup_epochs:g} is more than the whole run of {epochs}; "
                "lower it, or raise trainer.epochs"
            )
        super().start(optimizer, batch_size=batch_size, steps_per_epoch=steps_per_epoch, epochs=epochs)

    def rate(self, base_lr: float, global_step: int) -> float:
        warm = round(self.warmup_epochs * self.steps_per_epoch)
        if global_step < warm:
            return base_lr * (self.start_lr_ratio + (1 - self.start_lr_ratio) * global_step / warm)
        last = self.epochs * self.steps_per_epoch - 1
        return cosine(base_lr, base_lr * self.min_lr_ratio, (global_step - warm) / max(1, last - warm))

    def effective(self, base_lr: float, batch_size: int) -> EffectiveLr:
        return EffectiveLr(base_lr, base_lr * self.min_lr_ratio)


class Reference(Schedule):
    """What the reference's two schedules share: one lr per epoch, and its batch rule.

    `batch_rule`: lr * batch_size / 64, clipped to `lr_limits` [lowest, highest]; the smallest lr follows in proportion.
    Under Adam's limits the clip makes most choices of lr the same run, so `effective` tells when it bites."""

    def __init__(self, *, lr_limits: list[float], min_lr_ratio: float = 0.01, batch_rule: bool = True) -> None:
        check_share("min_lr_ratio", min_lr_ratio)
        if len(lr_limits) != 2 or not 0 < lr_limits[0] <= lr_limits[1]:
            raise UserError(f"schedule.lr_limits: expected [lowest, highest] above 0, got {lr_limits}")
        self.lr_limits, self.min_lr_ratio, self.batch_rule = lr_limits, min_lr_ratio, batch_rule

    def rate(self, base_lr: float, global_step: int) -> float:
        return self.rate_of_epoch(self.effective(base_lr, self.batch_size).lr, global_step // self.steps_per_epoch)

    def rate_of_epoch(self, lr: float, epoch: int) -> float:
        raise NotImplementedError

    def effective(self, base_lr: float, batch_size: int) -> EffectiveLr:
        if not self.batch_rule:
            return EffectiveLr(base_lr, base_lr * self.min_lr_ratio)
        scaled = base_lr * batch_size / REFERENCE_BATCH_SIZE
        low, high = self.lr_limits
        lr = min(max(scaled, low), high)
        note = f"lr {base_lr:g} x batch {batch_size} / {REFERENCE_BATCH_SIZE} = {scaled:g}"
        if lr != scaled:
            note += f", clipped to {lr:g} by schedule.lr_limits [{low:g}, {high:g}]"
            note += f"; schedule.batch_rule=false keeps {base_lr:g}"
        return EffectiveLr(lr, lr * self.min_lr_ratio, clipped=lr != scaled, note=note)


class ReferenceCosine(Reference):
    """A quadratic warm-up over a tenth of the epochs (1 to 3), half a cosine, and the smallest lr, `min_lr_ratio` of the peak, over the last
    0.3 of them (1 to 15). `batch_rule`: the peak is lr * batch size / 64, kept within `lr_limits`, [lowest, highest]; without, the lr as given.
    Raises UserError for limits that are none."""

    def rate_of_epoch(self, lr: float, epoch: int) -> float:
        """The lr of an epoch, counted from 0, where the effective lr is `lr`."""
        warm = min(max(0.1 * self.epochs, 1), 3)
        tail = min(max(0.3 * self.epochs, 1), 15)
        if epoch <= warm:
            first = max(0.1 * lr, 1e-6)
            return (lr - first) * (epoch / warm) ** 2 + first
        if epoch >= self.epochs - tail:
            return lr * self.min_lr_ratio
        return cosine(lr, lr * self.min_lr_ratio, (epoch - warm) / (self.epochs - warm - tail))


class ReferenceStep(Reference):
    """Ten steps of equal length from lr down to `min_lr_ratio` of it, each by the same factor; `batch_rule` and `lr_limits` as in `ReferenceCosine`.
    `start` raises UserError for fewer than 10 epochs."""

    def start(self, optimizer: Optimizer, *, batch_size: int, steps_per_epoch: int, epochs: int) -> None:
        if epochs < 10:
            raise UserError(
                f"schedule: reference_step makes ten steps and trainer.epochs is {epochs}; "
                "set it to 10 or more, or schedule=reference_cosine"
            )
        super().start(optimizer, batch_size=batch_size, steps_per_epoch=steps_per_epoch, epochs=epochs)

    def rate_of_epoch(self, lr: float, epoch: int) -> float:
        """The lr of an epoch, counted from 0, where the effective lr is `lr`."""
        factor = math.pow(self.min_lr_ratio, 1 / 9)
        return lr * math.pow(factor, epoch // (self.epochs / 10))


class TorchSchedule(Schedule):
    """Any scheduler of torch.optim.lr_scheduler as a partial without its optimizer, advanced `every` step or epoch.

    What the partial leaves out and only the run knows is filled in: total_steps, T_max and the total_iters of PolynomialLR (the
    length of the run, in steps or epochs as `every` says) and max_lr (the groups' own lr). Momentum or betas that the scheduler
    moves are moved too. The `schedulers` of SequentialLR and ChainedScheduler are partials as well, and have what they say alone."""

    def __init__(self, *, scheduler: Any, every: Literal["step", "epoch"] = "step") -> None:
        if not isinstance(scheduler, functools.partial):
            raise UserError("schedule.scheduler: expected a torch.optim.lr_scheduler with _partial_: true")
        if scheduler.func is ReduceLROnPlateau:
            raise UserError(
                "schedule.scheduler: ReduceLROnPlateau follows a metric, and a schedule here knows the step only; "
                "choose another"
            )
        self.scheduler, self.every = scheduler, every

    def start(self, optimizer: Optimizer, *, batch_size: int, steps_per_epoch: int, epochs: int) -> None:
        super().start(optimizer, batch_size=batch_size, steps_per_epoch=steps_per_epoch, epochs=epochs)
        self.replay()

    def step(self, global_step: int) -> None:
        self.advance(global_step)
        for group, standing in zip(self.optimizer.param_groups, self.stand_in.param_groups, strict=True):
            group.update({key: standing[key] for key in ("lr", "momentum", "betas") if key in standing})

    def lr_at(self, global_step: int) -> float:
        self.advance(global_step)
        return float(self.stand_in.param_groups[0]["lr"])

    def effective(self, base_lr: float, batch_size: int) -> EffectiveLr:
        peak = self.scheduler.keywords.get("max_lr", base_lr)
        if not isinstance(peak, (int, float)) or peak == base_lr:
            return EffectiveLr(base_lr, None)
        note = f"schedule.scheduler.max_lr {peak:g} stands in for optimizer.lr {base_lr:g}"
        return EffectiveLr(peak, None, note=note)

    def advance(self, global_step: int) -> None:
        """Runs the scheduler to the step; to an earlier one from the start, since torch's only go forward."""
        wanted = global_step // (1 if self.every == "step" else self.steps_per_epoch)
        if wanted < self.num_advanced:
            self.replay()
        while self.num_advanced < wanted:
            self.running.step()
            self.num_advanced += 1

    @property
    def length(self) -> int:
        """Length of the run, in steps or epochs."""
        return self.epochs * (self.steps_per_epoch if self.every == "step" else 1)

    def replay(self) -> None:
        """Puts torch's scheduler back to the step before the first."""
        # On a stand-in with the same groups: the true optimizer never sees the scheduler, so any step may be asked for.
        self.stand_in = StandIn(self.optimizer, self.base_lrs)
        length = self.length
        known: dict[str, Any] = {"total_steps": length, "T_max": length, "max_lr": self.base_lrs}
        known["optimizer"] = self.stand_in  # ChainedScheduler has not always taken it
        if self.scheduler.func is PolynomialLR:  # others have it too, for a warm-up
            known["total_iters"] = length
        accepted = inspect.signature(self.scheduler.func).parameters
        given = self.scheduler.keywords
        if "epochs" in given and "steps_per_epoch" in given:
            del known["total_steps"]
        fill = {name: value for name, value in known.items() if name in accepted and name not in given}
        try:
            if "schedulers" in given:  # of SequentialLR and ChainedScheduler, all of one optimizer
                fill["schedulers"] = [part(self.stand_in) for part in given["schedulers"]]
            self.running: LRScheduler = self.scheduler(**fill)
        except Exception as error:  # of anybody's options: almost any type
            refused = f"{self.scheduler.func.__name__} refuses its options over {length} {self.every}s"
            raise UserError(f"schedule.scheduler: {refused}: {str(error) or type(error).__name__}") from error
        self.stand_in.step()  # or torch warns about a scheduler that moves before its optimizer
        self.num_advanced = 0


class StandIn(Optimizer):
    """The groups of an optimizer without its parameters, each at its first lr."""

    def __init__(self, optimizer: Optimizer, base_lrs: list[float]) -> None:
        groups = [
            {**group, "lr": lr, "params": [torch.zeros(1)]}
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True)
        ]
        for group in groups:
            del group["initial_lr"]
        super().__init__(groups, dict(optimizer.defaults))

    def step(self, closure: Any = None) -> Any:
        """Changes nothing."""


def cosine(high: float, low: float, progress: float) -> float:
    """Half a cosine from high at progress 0 to low at 1 and after."""
    return low + (high - low) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def check_share(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"schedule.{key}: a share of the lr from 0 to 1, got {value}")

"""The numbers of a run's plan: printed, logged, and obeyed by the ranks."""

from __future__ import annotations

import dataclasses
import functools
import operator
from dataclasses import dataclass
from typing import Any

from facenet.engine.schedule import EffectiveLr

NEXT = "; "  # between benchmarks, of which none has it in its name


@dataclass(frozen=True)
class Machine:
    device: str
    device_reason: str
    precision: str
    num_processes: int


@dataclass(frozen=True)
class Images:
    num_identities: int
    num_images: int
    num_val_images: int
    num_heldout_identities: int
    data_fingerprint: str


@dataclass(frozen=True)
class Batches:
    """batch_size: as asked for: the lr rule and the number of steps follow it. images_per_step: trained; less where the sampler leaves out what does
    not divide. batch_size_per_process: trained."""

    layout: str
    batch_size: int
    images_per_step: int
    batch_size_per_process: int
    accumulate: int
    val_batch_size: int
    num_val_batches: int

    def __str__(self) -> str:
        parts = f" in {self.accumulate} parts" if self.accumulate > 1 else ""
        own = f"{self.batch_size_per_process} a process{parts}"
        if self.images_per_step == self.batch_size:
            return f"{self.batch_size} images a step, {own}"
        return f"{self.batch_size} images a step asked for, {self.images_per_step} trained: {own}"


@dataclass(frozen=True)
class Steps:
    epochs: int
    steps_per_epoch: int
    total_steps: int

    def __str__(self) -> str:
        spanned = self.steps_per_epoch * self.epochs
        cut = f", of {spanned:,} that the schedule spans (trainer.max_steps)" if self.total_steps < spanned else ""
        return f"{self.steps_per_epoch:,} an epoch, {self.epochs} epochs, {self.total_steps:,} in all{cut}"


@dataclass(frozen=True)
class Plan:
    """Every derived number of a run, in the units the names say. chosen: what `auto` became, with reasons; of the command that began, since the
    config of its processes says it."""

    machine: Machine
    images: Images
    benchmark: str
    batches: Batches
    steps: Steps
    lr: EffectiveLr
    select: str
    lower_is_better: bool
    chosen: str = ""

    @property
    def images_per_epoch(self) -> int:
        return self.steps.steps_per_epoch * self.batches.images_per_step

    def as_dict(self) -> dict[str, Any]:
        """Each number under a name of its own, as runs have it on record."""
        parts = [dataclasses.asdict(each) for each in (self.machine, self.images, self.batches, self.steps)]
        rates = {"lr": self.lr.lr, "min_lr": self.lr.min_lr, "lr_clipped": self.lr.clipped, "lr_note": self.lr.note}
        named = ("benchmark", "select", "lower_is_better", "chosen")
        return {**functools.reduce(operator.or_, parts), **rates, **{name: getattr(self, name) for name in named}}

    def __str__(self) -> str:
        images, machine, rate = self.images, self.machine, self.lr
        validation = "no validation loss"
        if self.batches.num_val_batches:
            validation = f"{images.num_val_images:,} images for the validation loss"
        smallest = "" if rate.min_lr is None else f", down to {rate.min_lr:g}"
        kind = f"{self.batches.layout} batches"
        rows = {
            "data": f"{images.num_images:,} images of {images.num_identities:,} identities ({kind}), {validation}",
            "fingerprint": images.data_fingerprint,
            "benchmark": self.benchmark.replace(NEXT, f"\n  {'':<12} "),
            "device": f"{machine.device} ({machine.device_reason}), {machine.precision}, {machine.num_processes} process(es)",
            **({"auto": self.chosen} if self.chosen else {}),
            "batch": str(self.batches),
            "steps": str(self.steps),
            "lr": f"{rate.lr:g}{smallest}" + (f" ({rate.note})" if rate.note else ""),
            "best by": self.select,
        }
        return "\n".join(["plan", *(f"  {name:<12} {value}" for name, value in rows.items())])

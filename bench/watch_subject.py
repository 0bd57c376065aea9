"""Training steps with and without the watchdogs, and what the watchdogs do by itself. Goal 11: under 1 % of a step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.calibrate import best_s
from bench.context import Context, Outcome
from bench.goals import Goal
from bench.rounds import Candidate, measure
from facenet.backbones.embedder import FaceNet
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.data.feed.loader import Batch
from facenet.data.layout import Layout
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision
from facenet.devices.updates import gradient_norm
from facenet.engine.observer import LogPoint
from facenet.engine.progress import Average, Progress
from facenet.engine.schedule import Constant
from facenet.engine.train_step import TrainStep
from facenet.engine.trainer import Settings, Trainer
from facenet.engine.watch.choice import Watch
from facenet.engine.watch.watcher import Watcher
from facenet.losses.heads import SoftmaxHead
from facenet.losses.mix import LossMix
from facenet.losses.triplet import TripletLoss
from facenet.tracking.tracker import NullTracker

IMAGES, IDENTITIES, LOG_EVERY = 30, 100, 20
JOBS = {"the built-in job, 48 px": 48, "one SPA of the reference, 160 px": 160}


def run(context: Context) -> Outcome:
    torch.set_num_threads(1)
    logging.getLogger("facenet").setLevel(logging.ERROR)  # that batches repeat and random images teach nothing is true
    outcome = Outcome()
    with Accelerator.start(DeviceChoice(name="cpu"), Precision()) as device:
        for name, size in list(JOBS.items())[: 1 if context.quick else None]:
            trainers = [trainer_of(device, size, watch, context.scratch) for watch in (None, Watch())]
            batches = [batch_of(size, number) for number in range(4)]
            names = ("without watchdogs", "with them")
            work = [
                Candidate(name, steps(trainer, batches), len(batches))
                for name, trainer in zip(names, trainers, strict=True)
            ]
            rounds = 3 * context.rounds
            table = measure("watch", f"MobileNetV1 step of {IMAGES} images, {name}", "step", work, rounds=rounds)
            alone_s = in_step_s(trainers[1], batches[0]) + at_log_point_s(trainers[1]) / LOG_EVERY
            table.notes.append(f"the watchdogs alone: {alone_s * 1e3:.2f} ms a step")
            outcome.tables.append(table)
            share = alone_s / table.row(names[0]).cpu_s * 100
            text = f"watchdogs, % of a step: {name}"
            outcome.goals.append(
                Goal(
                    "11", text, 1, share, at_most=True, limit="the norm of 3.2 million gradients: one pass over memory"
                )
            )
    return outcome


def trainer_of(device: Accelerator, size: int, watch: Watch | None, scratch: Path) -> Trainer:
    torch.manual_seed(0)
    terms = {"triplet": {"weight": 1.0, "loss": TripletLoss()}, "ce": {"weight": 1.0, "loss": SoftmaxHead()}}
    loss = LossMix(terms=terms)
    loss.start(embedding_size=128, num_identities=IDENTITIES, layout=Layout("triplet"))
    preprocess = Preprocess(size=[size, size], fit="letterbox", mean=[0.0] * 3, std=[1.0] * 3)
    module = TrainStep(FaceNet(trunk=MobileNetV1()), loss, preprocess, device)
    watchers = [Watcher(watch, NullTracker(), device, run_dir=scratch)] if watch else []
    schedule = Constant()
    options = {"total_steps": 10**9, "observers": watchers}
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    settings = Settings(log_every=LOG_EVERY)
    trainer = Trainer(device.prepare(module), optimizer, schedule, device, settings, **options)
    schedule.start(optimizer, batch_size=IMAGES, steps_per_epoch=LOG_EVERY, epochs=1)
    return trainer


def batch_of(size: int, number: int) -> Batch:
    rng = np.random.default_rng(number)
    images = torch.from_numpy(rng.integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8))
    return Batch(images, torch.from_numpy(rng.integers(0, IDENTITIES, IMAGES)), rng.integers(0, 4800, IMAGES))


def steps(trainer: Trainer, batches: list[Batch]) -> Callable[[], None]:
    progress = Progress()

    def work() -> None:
        trainer.train_epoch((batch for batch in batches), progress)

    return work


def in_step_s(trainer: Trainer, batch: Batch) -> float:
    (watcher,) = trainer.observers
    assert isinstance(watcher, Watcher)
    loss, _ = trainer.step_module(batch.images, batch.labels)
    loss.backward()

    def work() -> None:
        finite = gradient_norm(trainer.optimizer).isfinite()
        watcher.on_step(finite, torch.tensor(1.0))
        bool(finite)
        watcher.repeats.add(batch.indices)

    return best_s(work, times=50)


def at_log_point_s(trainer: Trainer) -> float:
    (watcher,) = trainer.observers
    figures = {"triplet": 0.1, "triplet/active": 0.5, "ce/accuracy": 0.1}
    sizes = {"epoch": 0, "step": 1, "steps": LOG_EVERY, "samples_seen": IMAGES, "images_per_s": 1.0, "lr": 1e-3}
    point = LogPoint(figures=figures, recent=Average(), module=trainer.bare_module, **sizes)
    return best_s(lambda: watcher.on_log(point), times=50)

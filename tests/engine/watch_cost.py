"""What the watchdogs cost: python tests/engine/watch_cost.py [SECONDS]. Blocks of 20 steps of the built-in job's network, with and without
them in turn; processor time, since the machine may be shared."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from facenet.accelerator import Accelerator, DeviceChoice, Precision, gradient_norm
from facenet.backbones.embedder import FaceNet
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.data.loader import Batch
from facenet.data.transforms import Preprocess
from facenet.engine.schedule import Constant
from facenet.engine.step import TrainStep
from facenet.engine.trainer import Progress, Settings, Trainer
from facenet.engine.watch.choice import Watch
from facenet.engine.watch.watcher import Watcher
from facenet.losses.heads import SoftmaxHead
from facenet.losses.mix import LossMix
from facenet.losses.triplet import TripletLoss
from facenet.tracking.tracker import NullTracker

SIZE, IMAGES, STEPS = 48, 30, 20


def trainer_of(device: Accelerator, watch: Watch | None) -> Trainer:
    torch.manual_seed(0)
    terms = {"triplet": {"weight": 1.0, "loss": TripletLoss()}, "ce": {"weight": 1.0, "loss": SoftmaxHead()}}
    loss = LossMix(terms=terms)
    loss.start(embedding_size=128, num_identities=100)
    preprocess = Preprocess(size=[SIZE, SIZE], fit="letterbox", mean=[0.0] * 3, std=[1.0] * 3)
    module = TrainStep(FaceNet(trunk=MobileNetV1()), loss, preprocess, device)
    watcher = watch and Watcher(watch, NullTracker(), device, run_dir=Path(tempfile.mkdtemp()))
    schedule = Constant()
    options = {"batch_size": IMAGES, "total_steps": 10**9, "triplets": True, "watcher": watcher}
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    trainer = Trainer(module, optimizer, schedule, device, NullTracker(), Settings(log_every=STEPS), **options)
    schedule.start(optimizer, batch_size=IMAGES, steps_per_epoch=STEPS, epochs=1)
    return trainer


def alone_ms(device: Accelerator, trainer: Trainer, batch: Batch) -> dict[str, float]:
    """Processor time of what the watchdogs do, by itself: in each step, and at a log point. The least of 50."""
    watcher, figures = trainer.watcher, {"triplet": 0.1, "triplet/active": 0.5, "ce/accuracy": 0.1}
    assert watcher is not None
    trainer.forward_backward(trainer.step_module, batch.images, batch.labels)

    def in_step() -> None:
        finite = gradient_norm(trainer.optimizer).isfinite()
        watcher.after_step(finite, torch.tensor(1.0))
        bool(finite)
        watcher.repeats.add(batch.indices)

    def at_log_point() -> None:
        watcher.at_log_point(figures, trainer.bare_module, step=1, steps=STEPS)

    return {"in each step": least_ms(in_step), "at a log point": least_ms(at_log_point)}


def least_ms(what: Callable[[], None]) -> float:
    costs = []
    for _ in range(50):
        begun = time.process_time()
        what()
        costs.append(time.process_time() - begun)
    return min(costs) * 1000


def main(seconds: float) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    batches = [
        Batch(
            torch.from_numpy(rng.integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)),
            torch.from_numpy(rng.integers(0, 100, IMAGES)),
            rng.integers(0, 4800, IMAGES),
        )
        for _ in range(STEPS)
    ]
    with Accelerator.start(DeviceChoice(name="cpu"), Precision()) as device:
        trainers = {"without": trainer_of(device, None), "with": trainer_of(device, Watch())}
        progress = {name: Progress() for name in trainers}
        costs: dict[str, list[float]] = {name: [] for name in trainers}
        block, end = 0, time.monotonic() + seconds
        while block < 3 or time.monotonic() < end:
            order = list(trainers) if block % 2 else list(trainers)[::-1]
            for name in order:
                begun = time.process_time()
                trainers[name].train_epoch((batch for batch in batches), progress[name])
                if block:  # the first warms up
                    costs[name].append((time.process_time() - begun) / STEPS * 1000)
            block += 1
        alone = alone_ms(device, trainers["with"], batches[0])
    ratios = [a / b for a, b in zip(costs["with"], costs["without"], strict=True)]
    print(", ".join(f"{name} {value:.3f} ms" for name, value in alone.items()))
    for name, values in costs.items():
        print(f"{name:8} median {statistics.median(values):7.2f} ms a step, least {min(values):7.2f}")
    middle = statistics.median(ratios)
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    print(
        f"with / without: median of {len(ratios)} pairs {middle:.4f}, mean {statistics.fmean(ratios):.4f} +- {error:.4f}"
    )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 300)

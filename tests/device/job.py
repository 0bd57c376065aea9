"""A small training run, the same on every device and for any number of processes."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from facenet.backbones.embedder import FaceNet
from facenet.backbones.mobilenet_v1 import MobileNetV1, convolution, separable
from facenet.data.feed.loader import Batch
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator, host_copy
from facenet.devices.table import DeviceChoice, Precision
from facenet.distributed import collectives
from facenet.distributed.choice import Distributed
from facenet.distributed.spread_rows import rows_of_whole
from facenet.engine.muon import Muon
from facenet.engine.observer import LogPoint, Observer
from facenet.engine.progress import Progress
from facenet.engine.run_state import module_state
from facenet.engine.schedule import Constant
from facenet.engine.train_step import TrainStep
from facenet.engine.trainer import Settings, Trainer
from facenet.losses.heads import SoftmaxHead
from facenet.losses.mix import LossMix
from facenet.losses.sharded import ShardedSoftmaxHead
from facenet.losses.triplet import TripletLoss

SIZE, NUM_IDENTITIES, BATCH = 32, 4, 12
PREPROCESS = Preprocess(size=[SIZE, SIZE], fit="resize", mean=[0.5] * 3, std=[0.5] * 3)
NUM_COMPUTED = 40  # identities that a sampled head has, so that it has some to leave out
HEADS = {
    "whole": SoftmaxHead,
    "sharded": ShardedSoftmaxHead,
    "sampled": functools.partial(ShardedSoftmaxHead, sample=0.5),
}
OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=1e-4, nesterov=True),
    "adam": functools.partial(torch.optim.Adam, lr=1e-3),
    "muon": Muon,
}


@dataclass
class Trained:
    """In host memory: the loss of each step, the gradients of the first, parameters and buffers after the last."""

    losses: list[float]
    gradients: list[Tensor]
    state: dict[str, Tensor]


class Losses(Observer):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_log(self, point: LogPoint) -> dict[str, float]:
        self.seen.append(point.figures["loss"])
        return {}


def start(
    name: str, dtype: Any = "fp32", *, init_scale: float = 1024.0, growth_interval: int = 2000
) -> AbstractContextManager[Accelerator]:
    """With the product's first scale fp16 would leave out the first steps, and not the same ones everywhere."""
    precision = Precision(dtype=dtype, init_scale=init_scale, growth_interval=growth_interval)
    return Accelerator.start(DeviceChoice(name=name), precision, timeout_s=300)


def batches(count: int, *, rank: int = 0, world_size: int = 1, size: int = BATCH) -> Iterator[Batch]:
    """This process's part of batches of `size` images: noise about a colour that the identity chooses."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 128, (NUM_IDENTITIES, 1, 1, 3))
    share = slice(rank * size // world_size, (rank + 1) * size // world_size)
    for _ in range(count):
        labels = np.arange(size) % NUM_IDENTITIES
        images = (colours[labels] + rng.integers(0, 128, (size, SIZE, SIZE, 3))).astype(np.uint8)
        yield Batch(torch.from_numpy(images[share]), torch.from_numpy(labels[share]), np.arange(size)[share])


class Narrow(nn.Sequential):
    """The first layers of MobileNetV1 with a quarter of their channels: a CPU takes ten seconds for a step of the whole in fp16."""

    num_features = 32

    def __init__(self) -> None:
        super().__init__(convolution(3, 8, 2), separable(8, 16, 1), separable(16, 32, 2))


def network(*, width: float | None = None, dropout: float = 0.0) -> FaceNet:
    """All of MobileNetV1 at this width, or its first layers."""
    torch.manual_seed(0)
    trunk = Narrow() if width is None else MobileNetV1(width=width, init="kaiming")
    return FaceNet(trunk=trunk, embedding_size=32, dropout=dropout)


def make_trainer(
    device: Accelerator,
    *,
    optimizer: str = "sgd",
    log_every: int = 1,
    width: float | None = None,
    dropout: float = 0.0,
    head: str = "whole",
    distributed: Distributed | None = None,
    clip_grad_norm: float | None = None,
) -> Trainer:
    embedder = network(width=width, dropout=dropout)
    loss = LossMix(
        terms={
            "ce": {"weight": 1.0, "loss": HEADS[head]()},
            "triplet": {"weight": 0.5, "loss": TripletLoss(mining="batch_hard", gather=True)},
        }
    )
    loss.start(embedding_size=32, num_identities=NUM_COMPUTED if head == "sampled" else NUM_IDENTITIES)
    module = TrainStep(embedder, loss, PREPROCESS, device).to(device.device)
    schedule = Constant()
    trainer = Trainer(
        device.prepare(module, distributed),
        OPTIMIZERS[optimizer](module.parameters()),
        schedule,
        device,
        Settings(log_every=log_every, clip_grad_norm=clip_grad_norm),
        total_steps=100,
        observers=[Losses()],
    )
    schedule.start(trainer.optimizer, batch_size=BATCH, steps_per_epoch=100, epochs=1)
    return trainer


def losses_of(trainer: Trainer) -> list[float]:
    (losses,) = trainer.observers
    assert isinstance(losses, Losses)
    return losses.seen


def train(device: Accelerator, *, steps: int = 4, **options: Any) -> Trained:
    trainer = make_trainer(device, **options)
    gradients: list[Tensor] = []

    def keep(*_: Any) -> None:
        if not gradients:
            gradients.extend(map(whole_gradient, trainer.bare_module.parameters()))

    trainer.optimizer.register_step_pre_hook(keep)
    trainer.train_epoch(batches(steps, rank=device.rank, world_size=device.world_size), Progress())
    return Trained(losses_of(trainer), gradients, module_state(trainer.bare_module, everywhere=True))


def whole_gradient(parameter: nn.Parameter) -> Tensor:
    num_rows = rows_of_whole(parameter)
    if num_rows is None or len(parameter) > NUM_IDENTITIES:  # drawn rows, of one process
        return host_copy(parameter.grad)
    return collectives.whole(parameter.grad, num_rows, everywhere=True)


def train_as_rank(name: str, scenarios: list[dict[str, Any]], out: Path) -> None:
    """Trains each scenario in a process group of its own and leaves out/<number>-<rank>.pt."""
    for number, scenario in enumerate(scenarios):
        os.environ["MASTER_PORT"] = str(
            scenario.pop("port")
        )  # a second group on one port may meet the end of the first
        distributed = Distributed(**scenario.pop("distributed", {}))
        with start(name, scenario.pop("dtype", "fp32")) as device:
            torch.save(vars(train(device, distributed=distributed, **scenario)), out / f"{number}-{device.rank}.pt")

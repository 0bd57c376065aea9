"""Images per second of the reference's training on a device, as JSON: both backbones, each precision, drawn faces that lie on the device.

The trainer's own steps, with Adam, softmax and triplet loss and triplet batches; what a loader would add is left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from facenet.backbones.embedder import FaceNet
from facenet.backbones.inception_resnet_v1 import InceptionResNetV1
from facenet.backbones.mobilenet_v1 import MobileNetV1
from facenet.data.drawn.synthetic import SyntheticFaces
from facenet.data.feed.loader import Batch
from facenet.data.layout import Layout
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.devices.table import DeviceChoice, Precision, offered_precisions
from facenet.engine.progress import Progress
from facenet.engine.schedule import Constant
from facenet.engine.train_step import TrainStep
from facenet.engine.trainer import Settings, Trainer
from facenet.losses.heads import SoftmaxHead
from facenet.losses.mix import LossMix
from facenet.losses.triplet import TripletLoss

TRUNKS: dict[str, Any] = {"mobilenet_v1": MobileNetV1, "inception_resnet_v1": InceptionResNetV1}


def faces_on(device: Accelerator, size: int, image_size: int) -> Batch:
    """Triplets as thirds: anchors, other images of theirs, images of the next identity."""
    third = size // 3
    faces = SyntheticFaces(num_identities=third, images_per_identity=2, size=image_size)
    first, second = np.arange(third) * 2, np.arange(third) * 2 + 1
    indices = np.concatenate([first, second, np.roll(first, 1)])
    images = torch.from_numpy(np.stack([faces.load(int(index)) for index in indices]))
    return Batch(device.to_device(images), device.to_device(torch.from_numpy(faces.labels[indices])), indices)


def measure(name: str, dtype: Any, trunk: str, *, steps: int, size: int, image_size: int) -> dict[str, float]:
    with Accelerator.start(DeviceChoice(name=name), Precision(dtype=dtype)) as device:
        batch = faces_on(device, size, image_size)
        loss = LossMix(
            terms={"triplet": {"weight": 1.0, "loss": TripletLoss()}, "ce": {"weight": 1.0, "loss": SoftmaxHead()}}
        )
        loss.start(embedding_size=128, num_identities=size // 3, layout=Layout("triplet"))
        preprocess = Preprocess(size=[image_size, image_size], fit="letterbox", mean=[0.0] * 3, std=[1.0] * 3)
        module = TrainStep(FaceNet(trunk=TRUNKS[trunk]()), loss, preprocess, device).to(device.device)
        schedule = Constant()
        trainer = Trainer(
            device.prepare(module),
            torch.optim.Adam(module.parameters(), lr=1e-3),
            schedule,
            device,
            Settings(log_every=10**9),
            total_steps=10**9,
        )
        schedule.start(trainer.optimizer, batch_size=size, steps_per_epoch=steps, epochs=2)

        def run(count: int) -> float:
            device.synchronize()
            started = time.perf_counter()
            trainer.train_epoch(repeated(batch, count), Progress())
            device.synchronize()
            return time.perf_counter() - started

        run(max(1, steps // 5))  # choice of kernels, memory
        device.reset_peak_memory()
        rate = steps * size / run(steps)
        peak = device.memory().peak
        return {"images_per_s": round(rate, 1), "peak_mib": round((peak or 0) / 2**20)}


def repeated(batch: Batch, count: int) -> Iterator[Batch]:
    for _ in range(count):
        yield batch


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--image-size", type=int, default=160)
    given = parser.parse_args()
    with Accelerator.start(DeviceChoice(name=given.device), Precision()) as started:
        described = started.describe()
    options = {"steps": given.steps, "size": given.batch_size, "image_size": given.image_size}
    figures = {
        trunk: {dtype: measure(given.device, dtype, trunk, **options) for dtype in offered_precisions(given.device)}
        for trunk in TRUNKS
    }
    about = {"device": given.device, **described, "torch": torch.__version__, "python": platform.python_version()}
    print(
        json.dumps(
            {**about, "batch_size": given.batch_size, "image_size": given.image_size, "training": figures}, indent=1
        )
    )

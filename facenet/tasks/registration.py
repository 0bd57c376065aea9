"""A checkpoint's network as others are to call it: pixels in, embeddings out."""

from __future__ import annotations

import functools
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from facenet.backbones.embedder import Embedder
from facenet.data.transforms import Preprocess, affine
from facenet.errors import printable
from facenet.files.typed import command, override
from facenet.tasks.restore import from_checkpoint
from facenet.tracking.choice import MlflowTracking, NoTracking
from facenet.tracking.model import Best


class Deployable(nn.Module):
    """RGB images uint8 (N, H, W, 3), fitted to the network's size, to embeddings float32 (N, D) of unit length."""

    scale: Tensor
    shift: Tensor

    def __init__(self, embedder: Embedder, preprocess: Preprocess) -> None:
        super().__init__()
        self.embedder = embedder
        # Preprocess keeps its own by device, which a trace of this module must not do.
        scale, shift = affine(tuple(preprocess.mean), tuple(preprocess.std), next(embedder.parameters()).device)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.embedder(images.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift)
        return embeddings


def best_of(checkpoint: Path) -> Best:
    """What MLflow gets of a checkpoint: its network, two grey images for it, and what is known of it."""
    restored = from_checkpoint(str(checkpoint))
    height, width = restored.preprocess.size
    content = restored.content
    trainer, steps_per_epoch = content["config"]["trainer"], content["steps"][0]
    # As they are called in MLflow; those of training are the epoch's means.
    named = tuple(f"epoch/{name}" if name.startswith("train/") else name for name in content["metrics"])
    found = content["threshold"]
    fits = found is not None and found["flip"] == "none" and found["mean"] is None
    return Best(
        network=Deployable(restored.embedder, restored.preprocess).eval(),
        example=np.full((2, height, width, 3), 128, np.uint8),
        step=int(content["step"]),
        figures=named,
        total_steps=trainer.get("max_steps") or trainer["epochs"] * steps_per_epoch,
        threshold=f"{found['value']:.6g} {found['distance']}" if fits else None,
    )


def keep_model(
    tracking: MlflowTracking | NoTracking, run_id: str | None, checkpoint: Path, rivals: Collection[str] = ()
) -> None:
    """Adds the best network to its run in MLflow, where that is wanted, in place of that of its `rivals`, other runs. A stop meanwhile says how to do
    so later: the run has ended before."""
    again = command("facenet-train", override("resume", checkpoint.parent.parent), "tracking.model=true")
    try:
        tracking.keep_model(run_id, functools.partial(best_of, checkpoint), rivals, again)
    except (KeyboardInterrupt, SystemExit):
        print(printable(f"the run has finished; its network is not in MLflow. To add it: {again}"), flush=True)
        raise

"""A checkpoint's network as others are to call it: pixels in, embeddings out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facenet.backbones.embedder import Embedder
from facenet.data.transforms import Preprocess, affine
from facenet.tasks.restore import from_checkpoint


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


def network_of(checkpoint: Path) -> tuple[Deployable, NDArray[np.uint8]]:
    """The tested network, and two grey images for it."""
    restored = from_checkpoint(str(checkpoint))
    height, width = restored.preprocess.size
    return Deployable(restored.embedder, restored.preprocess).eval(), np.full((2, height, width, 3), 128, np.uint8)

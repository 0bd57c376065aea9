"""What one process computes for one batch, as one module, so that wrapping it averages the gradients of network and heads alike."""

from __future__ import annotations

from torch import Tensor, nn

from facenet.backbones.embedder import Embedder
from facenet.data.transforms import Preprocess
from facenet.devices.accelerator import Accelerator
from facenet.distributed import collectives
from facenet.losses.mix import LossMix


class TrainStep(nn.Module):
    def __init__(self, embedder: Embedder, loss: LossMix, preprocess: Preprocess, accelerator: Accelerator) -> None:
        super().__init__()
        self.embedder, self.loss = embedder, loss
        self.preprocess, self.accelerator = preprocess, accelerator
        self.features: Tensor | None = None

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (0-d) and its figures (0-d, detached) of uint8 images (B, H, W, 3) with labels (B,), both on the device."""
        with self.accelerator.autocast():
            features = self.embedder(self.preprocess.normalize(images), normalize=False)
        self.features = features.detach()  # of the last batch, for whoever looks at them now and then
        with self.accelerator.full_precision():
            gather = collectives.gather_batch if self.accelerator.world_size > 1 else None
            value = self.loss(features, labels, gather=gather)
        return value.total, value.scalars

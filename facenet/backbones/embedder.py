"""What every backbone is to the rest of the project, and FaceNet's way from a feature map to an embedding.

N images, D numbers in an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from facenet.backbones.recomputed import set_checkpointing
from facenet.errors import UserError, check_least


class Embedder(nn.Module):
    """Images to embeddings. A subclass sets `embedding_size` and gives `features`."""

    embedding_size: int
    head_prefixes: tuple[str, ...] = ()
    """How tensors behind the trunk begin: weights made elsewhere may lack these, or have them in another size."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(N, D) before normalisation, from float images (N, 3, H, W) in either memory format; for the loss heads."""
        raise NotImplementedError

    def forward(self, images: torch.Tensor, *, normalize: bool = True) -> torch.Tensor:
        """(N, D) float32 rows of unit length, or the features as they are when `normalize` is false."""
        features = self.features(images)
        # float(): in 16 bits the sum of squares would lose its small terms, and eps would round to zero
        return functional.normalize(features.float(), dim=1, eps=1e-12) if normalize else features

    def own_names(self, names: Sequence[str]) -> dict[str, str]:
        """For each tensor name of a weight file, in file order, this network's name for it (which may not exist)."""
        return {name: name for name in names}


class Backbone(nn.Module):
    """Holds the trunk one level down, because the reference's weight files name it `backbone.model`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class FaceNet(Embedder):
    """Trunk, global average, dropout, projection, batch norm (after Schroff et al. 2015, arXiv 1503.03832, fig. 2).

    `trunk` is any module that maps images to (N, C, h, w) and says C in its attribute `num_features`; `dropout` is the
    share of features zeroed in training; `checkpointing` trades a second forward pass for the memory of maps. Tensors
    carry the names of the reference's weight files: `backbone.model.*`, `Bottleneck.weight`, `last_bn.*`."""

    head_prefixes = ("Bottleneck.", "last_bn.")

    def __init__(
        self, *, trunk: nn.Module, embedding_size: int = 128, dropout: float = 0.5, checkpointing: bool = False
    ) -> None:
        super().__init__()
        if not set_checkpointing(trunk, checkpointing) and checkpointing:
            raise UserError(
                f"backbone.checkpointing: {type(trunk).__name__} has no blocks to compute again; set it to false"
            )
        num_features = getattr(trunk, "num_features", None)
        if not isinstance(num_features, int):
            name = type(trunk).__name__
            raise UserError(f"backbone.trunk: {name} does not say its number of channels in an attribute num_features")
        check_least("backbone.embedding_size", embedding_size)
        self.embedding_size = embedding_size
        self.backbone = Backbone(trunk)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.Dropout = nn.Dropout(dropout)
        self.Bottleneck = nn.Linear(num_features, embedding_size, bias=False)
        self.last_bn = nn.BatchNorm1d(embedding_size, eps=1e-3)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.pool(self.backbone.model(images)).flatten(1)  # (N, C)
        projected: torch.Tensor = self.last_bn(self.Bottleneck(self.Dropout(pooled)))
        return projected

    def own_names(self, names: Sequence[str]) -> dict[str, str]:
        """This network's name for each tensor of a weight file: the same where the file has `backbone.` in its names; else the file is a bare
        trunk, its names go below `backbone.model`, and a head in it matches nothing. In files of facenet-pytorch (timesler) `last_linear` and
        `last_bn` become projection and batch norm."""
        if any(name.startswith("backbone.") for name in names):
            return {name: name for name in names}
        ported = any(name.startswith("last_linear.") for name in names)
        return {name: ported_head(name) if ported else f"backbone.model.{name}" for name in names}


def ported_head(name: str) -> str:
    if name.startswith("last_bn."):
        return name
    return (
        name.replace("last_linear.", "Bottleneck.", 1) if name.startswith("last_linear.") else f"backbone.model.{name}"
    )

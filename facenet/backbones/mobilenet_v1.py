"""MobileNetV1 (Howard et al. 2017, arXiv 1704.04861, table 1, without its classifier; ReLU6 for ReLU).

At width 1.0 3,206,976 parameters; 290 M multiply-adds at 160 x 160 and 148 M at 112 x 112. Both fall with about its square.
"""

from __future__ import annotations

import torch
from torch import nn

from facenet.backbones.initialization import Init, initialize
from facenet.backbones.recomputed import Blocks
from facenet.errors import UserError

FEWEST = 8  # channels of a layer, as the authors' code has it (min_depth)


def convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)
    )


def separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A 3 x 3 convolution within each channel, then a 1 x 1 across them."""
    depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
    pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(
        depthwise, nn.BatchNorm2d(inputs), nn.ReLU6(inplace=True),
        pointwise, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True),
    )  # fmt: skip


class MobileNetV1(nn.Module):
    """Images (N, 3, H, W) to maps (N, 1024 * width, H/32, W/32), sides rounded up: 5 x 5 at 160 and 4 x 4 at 112.

    `width`: the paper's alpha, a share of the channels of each layer, at most 1 (section 3.3; typically 1, 0.75, 0.5, 0.25).
    `init`: `reference` draws convolutions from N(0, 0.1), as the reference does; `kaiming` from He's normal."""

    num_features: int

    def __init__(self, *, width: float = 1.0, init: Init = "reference") -> None:
        super().__init__()
        if not 0 < width <= 1:
            raise UserError(
                f"backbone.trunk.width: expected a share of the channels above 0 and at most 1, got {width}"
            )
        c32, c64, c128, c256, c512, c1024 = (max(int(whole * width), FEWEST) for whole in (32, 64, 128, 256, 512, 1024))
        self.num_features = c1024
        self.stage1 = Blocks(
            convolution(3, c32, 2),
            separable(c32, c64, 1),
            separable(c64, c128, 2),
            separable(c128, c128, 1),
            separable(c128, c256, 2),
            separable(c256, c256, 1),
        )
        self.stage2 = Blocks(separable(c256, c512, 2), *(separable(c512, c512, 1) for _ in range(5)))
        self.stage3 = Blocks(separable(c512, c1024, 2), separable(c1024, c1024, 1))
        initialize(self, init)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps (N, 1024 * width, h, w) of float images (N, 3, H, W)."""
        maps: torch.Tensor = self.stage3(self.stage2(self.stage1(images)))
        return maps

"""MobileNetV1, width 1.0 (Howard et al. 2017, arXiv 1704.04861, table 1, without its classifier; ReLU6 for ReLU).

3,206,976 parameters; 290 M multiply-adds at 160 x 160 and 148 M at 112 x 112.
"""

from __future__ import annotations

import torch
from torch import nn

from facenet.backbones.initialization import Init, initialize
from facenet.backbones.recomputed import Blocks


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
    """Images (N, 3, H, W) to maps (N, 1024, H/32, W/32), sides rounded up: 5 x 5 at 160 and 4 x 4 at 112.

    `init`: `reference` draws convolutions from N(0, 0.1), as the reference does; `kaiming` from He's normal.
    """

    num_features: int = 1024

    def __init__(self, *, init: Init = "reference") -> None:
        super().__init__()
        self.stage1 = Blocks(
            convolution(3, 32, 2),
            separable(32, 64, 1),
            separable(64, 128, 2),
            separable(128, 128, 1),
            separable(128, 256, 2),
            separable(256, 256, 1),
        )
        self.stage2 = Blocks(separable(256, 512, 2), *(separable(512, 512, 1) for _ in range(5)))
        self.stage3 = Blocks(separable(512, 1024, 2), separable(1024, 1024, 1))
        initialize(self, init)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.stage3(self.stage2(self.stage1(images)))
        return maps

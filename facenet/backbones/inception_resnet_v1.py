"""Inception-ResNet-v1 (Szegedy et al. 2016, arXiv 1602.07261, figs. 9-14), in the width of FaceNet's ports.

22,564,096 parameters; 1.417 G multiply-adds at 160 x 160 and 593 M at 112 x 112. Tensors have the names of those ports.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from facenet.backbones.initialization import Init, initialize
from facenet.backbones.recomputed import Blocks

Pair = int | tuple[int, int]


class Convolution(nn.Module):
    """Convolution without bias, batch norm with eps 1e-3, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: Pair, stride: int = 1, padding: Pair = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.bn(self.conv(x)))
        return y


class Branches(nn.Module):
    """Runs `branch0`, `branch1`, ... on the same maps and joins their channels in that order."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.num_branches = len(branches)
        for number, branch in enumerate(branches):
            self.add_module(f"branch{number}", branch)

    def join(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.get_submodule(f"branch{number}")(x) for number in range(self.num_branches)], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.join(x)


class Residual(Branches):
    """x + scale * (1 x 1 convolution with bias over the joined branches), then ReLU unless `last`.

    Scales below 1 keep the training stable (sec. 3.3 of the paper)."""

    def __init__(
        self, branches: Sequence[nn.Module], joined: int, outputs: int, *, scale: float, last: bool = False
    ) -> None:
        super().__init__(branches)
        self.scale = scale
        self.conv2d = nn.Conv2d(joined, outputs, 1)
        self.relu = nn.Identity() if last else nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.conv2d(self.join(x)) * self.scale + x)
        return y


def block35() -> Residual:
    middle = nn.Sequential(Convolution(256, 32, 1), Convolution(32, 32, 3, padding=1))
    deep = nn.Sequential(Convolution(256, 32, 1), Convolution(32, 32, 3, padding=1), Convolution(32, 32, 3, padding=1))
    return Residual([Convolution(256, 32, 1), middle, deep], 96, 256, scale=0.17)


def block17() -> Residual:
    row, column = Convolution(128, 128, (1, 7), padding=(0, 3)), Convolution(128, 128, (7, 1), padding=(3, 0))
    return Residual(
        [Convolution(896, 128, 1), nn.Sequential(Convolution(896, 128, 1), row, column)], 256, 896, scale=0.10
    )


def block8(*, scale: float = 0.20, last: bool = False) -> Residual:
    row, column = Convolution(192, 192, (1, 3), padding=(0, 1)), Convolution(192, 192, (3, 1), padding=(1, 0))
    deep = nn.Sequential(Convolution(1792, 192, 1), row, column)
    return Residual([Convolution(1792, 192, 1), deep], 384, 1792, scale=scale, last=last)


def reduction_a() -> Branches:
    """256 channels to 384 + 256 + 256, half the side."""
    deep = nn.Sequential(
        Convolution(256, 192, 1), Convolution(192, 192, 3, padding=1), Convolution(192, 256, 3, stride=2)
    )
    return Branches([Convolution(256, 384, 3, stride=2), deep, nn.MaxPool2d(3, 2)])


def reduction_b() -> Branches:
    """896 channels to 384 + 256 + 256 + 896, half the side."""
    wide = nn.Sequential(Convolution(896, 256, 1), Convolution(256, 384, 3, stride=2))
    plain = nn.Sequential(Convolution(896, 256, 1), Convolution(256, 256, 3, stride=2))
    deep = nn.Sequential(
        Convolution(896, 256, 1), Convolution(256, 256, 3, padding=1), Convolution(256, 256, 3, stride=2)
    )
    return Branches([wide, plain, deep, nn.MaxPool2d(3, 2)])


class InceptionResNetV1(nn.Module):
    """Images (N, 3, H, W) to maps (N, 1792, h, w): 3 x 3 at 160 and 2 x 2 at 112.

    `init`: `reference` draws convolutions from N(0, 0.1), as the reference does; `kaiming` from He's normal."""

    num_features: int = 1792

    def __init__(self, *, init: Init = "reference") -> None:
        super().__init__()
        self.conv2d_1a = Convolution(3, 32, 3, stride=2)
        self.conv2d_2a = Convolution(32, 32, 3)
        self.conv2d_2b = Convolution(32, 64, 3, padding=1)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = Convolution(64, 80, 1)
        self.conv2d_4a = Convolution(80, 192, 3)
        self.conv2d_4b = Convolution(192, 256, 3, stride=2)
        self.repeat_1 = Blocks(*(block35() for _ in range(5)))
        self.mixed_6a = reduction_a()
        self.repeat_2 = Blocks(*(block17() for _ in range(10)))
        self.mixed_7a = reduction_b()
        self.repeat_3 = Blocks(*(block8() for _ in range(5)))
        self.block8 = block8(scale=1.0, last=True)
        initialize(self, init)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps (N, 1792, h, w) of float images (N, 3, H, W)."""
        maps = images
        for stage in self.children():  # they run in the order of their definition
            maps = stage(maps)
        return maps
